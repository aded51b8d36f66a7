"""Scripts that hold huggingface_hub's and kagglehub's functions, unchanged, on three nodes with four processes each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

import hubdist
from hubdist.integrations import huggingface_hub as hf
from hubdist.integrations import kagglehub as kaggle_way
from hubdist.testing.cluster import RayCluster
from hubdist.testing.hugging_face import LoopbackHuggingFace
from tests.support.kaggle import FILES as KAGGLE_FILES
from tests.support.kaggle import Kaggle, loopback_kaggle

pytestmark = pytest.mark.cluster

pytest.importorskip("huggingface_hub")
pytest.importorskip("kagglehub")

PROCESSES = 4
FILES = {
    "config.json": b'{"model_type": "none"}',
    "tokenizer.json": os.urandom(40_000),
    "model-1.safetensors": os.urandom(6 << 20),
    "model-2.safetensors": os.urandom(2 << 20),
    "onnx/model.onnx": os.urandom(1 << 20),
}


class Script:
    """What a program does that knows nothing of hubdist."""

    def run(self) -> dict[str, str]:
        from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache
        from kagglehub import model_download

        single = hf_hub_download("acme/model", "tokenizer.json")
        weights = snapshot_download("acme/model", ignore_patterns="onnx/*", revision="main")
        whole = snapshot_download("acme/model")
        assert try_to_load_from_cache("acme/model", "config.json") == f"{whole}/config.json"
        kaggle = model_download("owner/model/tensorFlow2/var/1")
        word = model_download("owner/model/tensorFlow2/var/1", path="assets/words.txt")
        places = {"single": single, "weights": weights, "whole": whole, "kaggle": kaggle, "word": word}
        return {f"{name}: {path}": digest for name, place in places.items() for path, digest in digests(place).items()}


def digests(place: str) -> dict[str, str]:
    """Path below a directory, or a file's name -> digest: where the directory lies differs, and may."""
    root = Path(place)
    named = {root.name: root} if root.is_file() else {str(path.relative_to(root)): path for path in root.rglob("*")}
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in named.items() if file.is_file()}


@pytest.fixture(scope="module")
def hub() -> Iterator[LoopbackHuggingFace]:
    with LoopbackHuggingFace() as running:
        running.add("acme/model", FILES)
        yield running


@pytest.fixture(scope="module")
def kaggle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kaggle]:
    with pytest.MonkeyPatch.context() as patch, loopback_kaggle(patch, tmp_path_factory.mktemp("kaggle")) as state:
        yield state


@pytest.fixture(scope="module")
def cluster(hub: LoopbackHuggingFace, kaggle: Kaggle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    folder = tmp_path_factory.mktemp("hubs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub.url)
        patch.setenv("HF_HOME", str(folder / "home"))
        patch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        with RayCluster(folder, nodes=3, cpus=PROCESSES, log_to_driver=False) as running:
            yield running


def asks(kaggle_url: str) -> Callable[[], None]:
    """Lets kagglehub in a worker ask a server of this test's; a function by value, as Ray pickles it."""

    def setup() -> None:
        from kagglesdk import kaggle_env

        kaggle_env._env_to_endpoint[kaggle_env.KaggleEnv.PROD] = kaggle_url

    return setup


def run_everywhere(cluster: RayCluster, runtime_env: dict[str, Any], homes: Path) -> list[dict[str, str]]:
    """What the script returns in each process; each node has a home of its own, as nodes have."""
    hubdist.shutdown()
    ray.shutdown()
    ray.init(address=cluster.address, runtime_env=runtime_env, log_to_driver=False)
    hubdist.init(store=cluster.store)
    actors = []
    for node in cluster.node_ids:
        env = {"HF_HOME": str(homes / node / "hf"), "KAGGLEHUB_CACHE": str(homes / node / "kaggle")}
        options = {**cluster.on(node), "num_cpus": 1, "runtime_env": {"env_vars": env}}
        actors += [ray.remote(Script).options(**options).remote() for _ in range(PROCESSES)]
    return ray.get([actor.run.remote() for actor in actors], timeout=240)  # type: ignore[no-any-return]


def test_results_are_equal_and_with_hubdist_each_byte_leaves_each_hub_once(
    cluster: RayCluster, hub: LoopbackHuggingFace, kaggle: Kaggle, tmp_path: Path
) -> None:
    plain = {"worker_process_setup_hook": asks(kaggle.url)}
    ways = kaggle_way.install_everywhere(hf.install_everywhere(plain))
    with_hubdist = run_everywhere(cluster, ways, tmp_path / "with")
    sent = {path: hub.sent(path) for path in FILES}
    reads = kaggle.reads("DownloadModelInstanceVersion")
    hf.uninstall()
    kaggle_way.uninstall()
    without = run_everywhere(cluster, plain, tmp_path / "without")
    assert len(with_hubdist) == len(without) == 3 * PROCESSES
    for result in with_hubdist + without:
        assert result == without[0]
    assert sent == {path: len(data) for path, data in FILES.items()}
    assert all(hub.sent(path) - sent[path] >= 3 * len(data) for path, data in FILES.items()), "once for each node"
    assert reads == len(KAGGLE_FILES), "the single file is taken from the whole model"
