"""Fixtures for all tests: no test sees the user's settings, leaves a process or a thread behind."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

import hubdist
from hubdist.testing.hub import LoopbackHub
from tests.support import examples as _hypothesis_profiles  # noqa: F401 - registers the profile `quick`

# Set before ray is imported anywhere: no token file of the user's, no reports, no uv look-ups. And before gcsfs is,
# which would ask Google for the kind of each bucket.
os.environ.update(
    RAY_AUTH_MODE="disabled",
    RAY_USAGE_STATS_ENABLED="0",
    TF_CPP_MIN_LOG_LEVEL="3",
    GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT="false",
)

if "PYTEST_XDIST_WORKER" in os.environ:
    # Ray notes the cluster of this machine in its directory: two processes with tests would find each other's.
    os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="hd-")  # short: the paths of Ray's sockets end at 107 characters
    atexit.register(shutil.rmtree, os.environ["RAY_TMPDIR"], ignore_errors=True)


class TogetherScheduling(LoadScopeScheduling):
    """Runs in one process what shares a cluster, and what makes network namespaces and mounts, which all can see."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((folder for folder in ("tests/cluster/shared/", "tests/root/") if file.startswith(folder)), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    """With `--dist loadscope`, spread tests by `TogetherScheduling`."""
    return TogetherScheduling(config, log) if config.getvalue("dist") == "loadscope" else None


def pytest_collection_finish() -> None:
    """Spare the garbage collector what stays: the tests, and what TensorFlow and Ray make when they are imported.

    With Python's own threshold of 700 objects, a tenth of the time of all tests goes to collections that find nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Give every test a cache directory of its own, and end what the process knows of hubdist."""
    for name in list(os.environ):
        if name.startswith(("HUBDIST_", "TFHUB_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    client = sys.modules.get("hubdist.client.current")
    if client is not None and client._process is not None:
        hubdist.shutdown()
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("hubdist")]
    assert not left, f"threads left behind: {left}"


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Each command sets logging up for a process of its own; here many run in one."""
    loggers = [logging.getLogger(), logging.getLogger("hubdist")]
    before = [(each, each.handlers[:], each.level, each.propagate) for each in loggers]
    yield
    for each, handlers, level, propagate in before:
        each.handlers[:], each.propagate = handlers, propagate
        each.setLevel(level)


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    """A hub on this machine that has no models yet."""
    with LoopbackHub() as running:
        yield running


_EXPORT = """
import sys
import tensorflow as tf

root = sys.argv[1]

class Table(tf.Module):
    def __init__(self, vocabulary):
        self.scale = tf.Variable([2.0, 3.0])
        initializer = tf.lookup.TextFileInitializer(
            vocabulary, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER)
        self.table = tf.lookup.StaticHashTable(initializer, -1)

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
    def __call__(self, words):
        return tf.cast(self.table.lookup(words), tf.float32)[:, None] * self.scale

vocabulary = f"{root}/vocabulary.txt"
with open(vocabulary, "w") as file:
    file.write("zero\\none\\ntwo\\n")
module = Table(vocabulary)
tf.saved_model.save(module, f"{root}/tf2", signatures=module.__call__)

graph = tf.Graph()
with graph.as_default(), tf.compat.v1.Session() as session:
    x = tf.compat.v1.placeholder(tf.float32, (None, 2), name="x")
    w = tf.compat.v1.get_variable("w", initializer=[[1.0], [10.0]])
    session.run(tf.compat.v1.global_variables_initializer())
    tf.compat.v1.saved_model.simple_save(session, f"{root}/tf1", {"x": x}, {"y": tf.matmul(x, w)})
"""


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two small SavedModels: `tf2`, with a variable and a vocabulary asset; `tf1`, TF1 format."""
    root = tmp_path_factory.mktemp("models")
    subprocess.run([sys.executable, "-c", _EXPORT, str(root)], check=True, timeout=180, capture_output=True)
    return root


@pytest.fixture
def plain_model(tmp_path: Path) -> Path:
    """A directory that looks like a SavedModel from outside; for everything that needs no TensorFlow."""
    root = tmp_path / "plain"
    (root / "variables").mkdir(parents=True)
    (root / "saved_model.pb").write_bytes(bytes(range(256)) * 300)
    (root / "extra.bin").write_bytes(os.urandom(3 << 20))
    return root
