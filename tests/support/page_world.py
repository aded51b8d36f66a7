"""What the pages of the documentation speak of, on this machine: a cluster, a hub, a bucket, paths, and names.

The table of substitutions is short on purpose: what stands in a page is what runs.
"""

from __future__ import annotations

import contextlib
import doctest
import functools
import gc
import io
import json
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml

import hubdist
import hubdist.errors
from hubdist.testing.cluster import RayCluster
from hubdist.testing.hub import LoopbackHub
from tests.support import REPOSITORY
from tests.support.gcs import FakeGcs
from tests.support.page_tools import make_tools
from tests.support.pages import Block

HUB = "https://tfhub.dev/"
NNLM = "google/nnlm-en-dim50/2"
HUB_MODELS = (NNLM, "google/universal-sentence-encoder/4")
"""What the hub serves: a model that takes texts, under these names."""

BUCKET = "my-bucket"
BUCKET_MODELS = ("model", "my-model")

_PAGES_OF_DELIVERIES = {"README.md": "acme/sentences/3", "docs/concepts.md": "acme/sentences/4"}
"""Pages that show what a delivery prints, and a model for each that is too large for the coordinator's answer."""

_COMMAND_S = 120
_SHOWN_ERROR = re.compile(r"^([\w.]+Error): ")


class World:
    """Runs blocks of pages.

    Args:
        cluster: A cluster whose nodes reach the bucket.
        hub: A hub without models.
        gcs: An object storage without buckets.
        folder: An empty directory that stands for the machine's root where pages name paths.
    """

    def __init__(self, cluster: RayCluster, hub: LoopbackHub, gcs: FakeGcs, folder: Path) -> None:
        self.cluster = cluster
        self._hub = hub
        self._folder = folder
        self._ran: set[str] = set()
        self._is_own_job = False
        files = {**_export_model(folder / "model"), "assets/tokens.txt": b"the\nof\nand\n"}
        for name in HUB_MODELS:
            hub.add_model(name, files)
        hub.add_file("model.onnx", b"weights" * 1000)
        gcs.make_bucket(BUCKET)
        for name in BUCKET_MODELS:
            gcs.put_all(BUCKET, name, files)
        for root in ("models/mnist", "mnt/models/mnist"):
            for name, data in files.items():
                path = folder / root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        (folder / "hubdist.yaml").write_text(f"models: ['{hub.url}/{NNLM}']\n", encoding="utf-8")
        self._tools = make_tools(folder / "bin")

    def text(self, block: Block) -> str:
        """A block with this world's hub, paths and connection in place of those that the page names."""
        text = block.text.replace(HUB, f"{self._hub.url}/").replace("https://host/", f"{self._hub.url}/")
        text = text.replace('".../', f'"{self._hub.url}/').replace("<64 hexadecimal digits>", "0" * 64)
        text = re.sub(r"(?<=[\"'=\s])/(models|mnt|tmp/stores)\b", rf"{self._folder}/\1", text)
        return text.replace("ray.init(", "connect(")

    def names(self, page: str) -> dict[str, Any]:
        """What the first block of a page may use beside what it imports: handles, texts and a task of the reader's."""
        import ray

        nnlm = f"{self._hub.url}/{NNLM}"

        @ray.remote
        def embed(texts: list[str]) -> Any:
            return hubdist.load(nnlm)(texts).numpy()

        values: dict[str, Any] = {"handle": nnlm, "texts": ["hello"], "batches": [["hello"], ["world"]], "embed": embed}
        if page in _PAGES_OF_DELIVERIES:  # whose sessions do not show how they begin
            large = {"words.txt": b"the of and", "weights.bin": os.urandom(16 << 20)}
            values |= {"handle": self._hub.add_model(_PAGES_OF_DELIVERIES[page], large), "hubdist": hubdist}
        return {"__name__": "__main__", "connect": self._connect, **values}

    def run(self, page: str, found: list[Block]) -> None:
        """Run blocks of one page, in their order.

        Args:
            page: The page's path.
            found: Its blocks.

        Raises:
            AssertionError: One failed; the text begins with page and line.
        """
        names = self.names(page) if any(block.language in ("python", "pycon") for block in found) else {}
        runners = {
            "python": functools.partial(self._run_python, names),
            "pycon": functools.partial(self._run_session, names),
            "bash": self._run_commands,
            "yaml": self._read_yaml,
        }
        try:
            for block in found:
                try:
                    with contextlib.chdir(self._folder):  # pages write files where they stand
                        runners[block.language](block)
                except Exception as error:
                    shown = "".join(traceback.format_exception(error)[-1:])
                    raise AssertionError(f"{_failing_line(block, error)}: {shown}") from error
        finally:
            if "serve" in names:
                names["serve"].shutdown()
            for name in ("huggingface_hub", "kagglehub", "tensorflow_hub"):
                if (installed := sys.modules.get(f"hubdist.integrations.{name}")) is not None:
                    installed.uninstall()
            names.clear()
            gc.collect()  # ends the actors that the page has made
            self._connect()

    def _connect(self, **options: Any) -> None:
        """Be the driver of the cluster, as a new job if a page gives options of its own."""
        import ray

        if options or self._is_own_job or not ray.is_initialized():
            hubdist.shutdown()
            ray.shutdown()
            ray.init(address=self.cluster.address, log_to_driver=False, **options)
        self._is_own_job = bool(options)

    def _run_python(self, names: dict[str, Any], block: Block) -> None:
        text = self.text(block)
        if re.search(r"^def test_", text, flags=re.MULTILINE):
            self._run_tests(block, text)
            return
        if "hubdist.init(" in text:
            hubdist.shutdown()
        code = compile("\n" * (block.line - 1) + text, str(REPOSITORY / block.page), "exec")
        expected = re.search(r"# raises (\w+)", text)
        with contextlib.redirect_stdout(io.StringIO()):
            if expected is None:
                exec(code, names)
                return
            kind = getattr(hubdist.errors, expected[1])
            try:
                exec(code, names)
            except kind:
                return
        raise AssertionError(f"the block raises no {expected[1]}")

    def _run_tests(self, block: Block, text: str) -> None:
        path = self._folder / f"test_line_{block.line}.py"
        path.write_text(text, encoding="utf-8")
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("HUBDIST_", "RAY_ADD"))
        }
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(self._folder)]
        self._call([*command, str(path)], environment)

    def _run_session(self, names: dict[str, Any], block: Block) -> None:
        """Run what stands behind the prompts; what is printed has the words that the page shows."""
        for example in doctest.DocTestParser().get_examples(self.text(block)):
            if "report." in example.source:  # the page has printed it, and now draws it
                names["report"] = hubdist.prefetch(names["handle"])
            said = io.StringIO()
            shown = _SHOWN_ERROR.match(example.want)
            with contextlib.redirect_stdout(said):
                try:
                    code = compile(example.source, block.place, "single")
                    exec(code, names)
                except hubdist.HubdistError as error:
                    if shown is None:
                        raise
                    said.write(f"{type(error).__module__}.{type(error).__qualname__}: {error}")
            missing = _words(example.want) - _words(said.getvalue())
            assert not missing, f"{example.source.strip()} prints {said.getvalue()!r}, without {sorted(missing)}"

    def _run_commands(self, block: Block) -> None:
        lines = self.text(block).splitlines()
        alone = all(line.startswith(("hubdist ", "ray ", "pip ", "ls ", "cd ")) for line in lines)
        for command in (re.sub(r"\s+#.*", "", line) for line in lines) if alone else ["\n".join(lines)]:
            if command in self._ran:
                continue
            self._ran.add(command)
            # `ray job submit` runs on the head what stands behind the two hyphens: tests/cluster/test_job_submit.py.
            bare = re.sub(r"\bray job submit .*?-- ", "", command)
            self._call(
                ["bash", "-euo", "pipefail", "-c", bare],
                {**os.environ, "RAY_ADDRESS": self.cluster.address, "PATH": f"{self._tools}:{os.environ['PATH']}"},
            )

    def _call(self, command: list[str], environment: dict[str, str]) -> None:
        done = subprocess.run(
            command,
            cwd=self._folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_COMMAND_S,
            check=False,
        )
        assert done.returncode == 0, f"{command[-1]} ended with {done.returncode}: {done.stdout[-2000:]}"

    def _read_yaml(self, block: Block) -> None:
        """Let the program that reads such a text read it."""
        values = yaml.safe_load(self.text(block))
        if "containers" in values:
            jsonschema.validate(values, _pod_schema(), cls=jsonschema.Draft202012Validator)
        elif "runtime_env" in values:
            from ray._common.utils import import_attr
            from ray.runtime_env import RuntimeEnv

            hook = RuntimeEnv(**values["runtime_env"])["worker_process_setup_hook"]
            assert callable(import_attr(hook)), hook
        elif "applications" in values:
            from ray.serve.schema import ServeDeploySchema

            ServeDeploySchema.model_validate(values)
        elif "env_vars" in values:
            from ray.runtime_env import RuntimeEnv

            settings = RuntimeEnv(**values)["env_vars"]["HUBDIST_CONFIG"]
            hubdist.Config.from_yaml(settings)
        else:
            hubdist.Config.from_yaml(self.text(block))


def _words(text: str) -> set[str]:
    """The words of an output, without what differs each time: numbers, ids, plurals and paths."""
    plain = re.sub(r"\S*[/\d]\S*", " ", text)
    return {word.removesuffix("s") for word in re.findall(r"[a-z]{4,}", plain)}


def _failing_line(block: Block, error: Exception) -> str:
    """Page and line of the statement that failed; of the block where that is not known."""
    page = str(REPOSITORY / block.page)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == page]
    return f"{block.page}:{lines[-1]}" if lines else block.place


def _pod_schema() -> dict[str, Any]:
    """The schema of a pod's `spec`, which KubeRay's objects hold."""
    path = REPOSITORY / "tests" / "contract" / "schemas" / "kuberay.schema.json"
    schema: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    found = list(_schemas_with(schema, "containers"))
    return {**found[0], "$defs": schema.get("$defs", {}), "required": []}


def _schemas_with(schema: Any, key: str) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if key in schema.get("properties", {}):
            yield schema
        for each in schema.values():
            yield from _schemas_with(each, key)


def _export_model(folder: Path) -> dict[str, bytes]:
    """The files of a model as hubs have them: it takes texts, and has `variables`."""
    import tensorflow as tf

    scale = tf.Variable([2.0, 3.0])
    model = tf.train.Checkpoint(variables=[scale], trainable_variables=[scale])
    texts = tf.TensorSpec((None,), tf.string)
    model.__call__ = tf.function(
        lambda words: tf.cast(tf.strings.length(words), tf.float32)[:, None] * scale, input_signature=[texts]
    )
    tf.saved_model.save(model, str(folder))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
