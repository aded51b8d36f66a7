"""Processes that are not Ray's get the settings of the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray

import hubdist
from hubdist.config.schema import Config
from hubdist.config.sources import VARIABLE
from hubdist.errors import ConfigError
from hubdist.testing.cluster import RayCluster
from hubdist.testing.hub import LoopbackHub

STORE = "import hubdist; print(hubdist.status().store)"


def store_of_child() -> str:
    """The store of a new process that this one starts."""
    done = subprocess.run([sys.executable, "-c", STORE], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def store_here() -> str:
    return hubdist.status().store


def test_a_process_that_is_started_gets_the_settings_of_init(tmp_path: Path) -> None:
    hubdist.init(store=str(tmp_path / "{node_id}"), offline=True)
    assert store_of_child() == hubdist.status().store
    hubdist.shutdown()
    assert store_of_child() == str(tmp_path / "cache" / "hubdist")


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_pools_of_processes_read_a_hub_once(tmp_path: Path, method: str) -> None:
    with LoopbackHub() as hub:
        handle = hub.add_model("acme/model/1", {"saved_model.pb": b"model"})
        hubdist.init(store=str(tmp_path / "mine"))
        first = hubdist.resolve(handle)
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            assert set(pool.map(hubdist.resolve, [handle] * 4)) == {first}
        assert hub.reads(handle) == 1


def test_own_settings_of_a_child_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hubdist.init(store=str(tmp_path / "mine"), origin_retries=3)
    environment = {VARIABLE: os.environ[VARIABLE].replace(str(os.getpid()), "1", 1)}
    assert Config.load(environment=environment).origin_retries == 3
    assert Config.load({"origin_retries": 1}, environment).origin_retries == 1
    assert Config.load(environment=environment, inherit=False).origin_retries == 5
    assert Config.load(environment={VARIABLE: os.environ[VARIABLE]}).origin_retries == 5  # it is no child of its own


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "{}", '{"process": 1}', '{"settings": 3}'])
def test_what_cannot_be_read_is_nothing(text: str) -> None:
    assert Config.load(environment={VARIABLE: text}) == Config.load(environment={})


def test_a_fork_has_the_settings_of_its_parent(tmp_path: Path) -> None:
    script = f"""
import os, hubdist
hubdist.init(store={str(tmp_path / "mine")!r})
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, hubdist.status().store.encode())
    os._exit(0)
os.wait()
print(os.read(read, 1000).decode())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == str(tmp_path / "mine")


@pytest.mark.cluster
def test_processes_that_a_task_starts_have_the_jobs_settings(tmp_path: Path) -> None:
    with RayCluster(tmp_path, nodes=2, log_to_driver=False) as cluster:
        hubdist.init(store=cluster.store)
        there = cluster.on(cluster.node_ids[1])

        @ray.remote(num_cpus=0)
        def ask() -> tuple[str, str]:
            return store_here(), store_of_child()

        assert ray.get(ask.options(**there).remote(), timeout=120) == (str(cluster.store_of(cluster.node_ids[1])),) * 2


@pytest.mark.tf
def test_a_pickle_of_a_model_opens_in_a_process_that_is_started(models: Path, tmp_path: Path) -> None:
    with LoopbackHub() as hub:
        handle = hub.add_model("acme/tf2/1", models / "tf2")
        hubdist.init(store=str(tmp_path / "mine"))
        (tmp_path / "model.pickle").write_bytes(pickle.dumps(hubdist.load(handle)))
        script = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')).scale.numpy().tolist())"
        command = [sys.executable, "-c", script, str(tmp_path / "model.pickle")]
        done: Any = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        assert done.stdout.strip() == "[2.0, 3.0]"
        assert hub.reads(handle) == 1
    assert not (tmp_path / "cache" / "hubdist").exists()


def test_a_bad_setting_names_who_handed_it_down() -> None:
    text = '{"process": 1, "settings": {"origin_retries": -1}}'
    with pytest.raises(ConfigError, match="process that started this one"):
        Config.load(environment={VARIABLE: text})
