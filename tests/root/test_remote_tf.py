"""tf-host: models on TensorFlow workers that have neither the files nor Ray; real servers, real loads."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.tf_servers import may_unshare, tf_servers

pytestmark = pytest.mark.tf

WORDS = [[2.0, 3.0], [4.0, 6.0], [-2.0, -3.0]]
"""What the vocabulary model answers to `one`, `two` and `unknown`."""
WORKER = "/job:worker/replica:0/task:{}/device:CPU:0"

_COMMON = """
    import gc, hashlib, json, os, pickle, signal, socket, sys, time
    from pathlib import Path
    import tensorflow as tf
    from tensorflow.python.eager.context import async_wait
    import hubdist
    from hubdist.client.current import current_process
    from hubdist.loading import free_remote_assets

    models, addresses = Path(sys.argv[1]), sys.argv[2].split(",")
    found = {}
    words = lambda: tf.constant(["one", "two", "unknown"])

    def error_of(call):
        try:
            call()
        except Exception as error:
            return [type(error).__name__, str(error)]
"""

_WORKERS = """
    near, far = "/job:worker/task:1", "/job:worker/task:0"
    tf.config.experimental_connect_to_cluster(tf.train.ClusterSpec({"worker": addresses}))

    def documented():
        options = tf.saved_model.LoadOptions(experimental_io_device="/job:localhost")
        with tf.device(far):
            kept = tf.saved_model.load(str(models / "tf2"), options=options)
        async_wait()  # before `kept` goes: TensorFlow takes its functions from the worker, also ones not called yet
        del kept

    found["documented"] = error_of(documented)
    tf.experimental.async_clear_error()

    handle = str(models / "tf2")
    model = hubdist.load(handle, device=far)
    found["answer"] = model(words()).numpy().tolist()
    with tf.device(far):
        found["answer_there"] = model(words()).numpy().tolist()
    found["variable"] = model.scale.device
    model.scale.assign([5.0, 7.0])  # what is written over there cannot be told from here
    another = hubdist.load(handle, device=far)
    travelled = pickle.loads(pickle.dumps(model))
    found["values"] = [one.scale.numpy().tolist() for one in (model, another, travelled)]
    found["devices"] = [another.scale.device, travelled.scale.device]
    del another, travelled
    gc.collect()
    free_remote_assets()

    # A model in TF1's format with a vocabulary and a variable, and one that reads its asset when it is called.
    vocabulary = str(models / "long.txt")
    Path(vocabulary).write_text("\\n".join(["zero", "one", "two", *(f"word {n}" for n in range(100_000))]))
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.string, (None,), name="x")
        scale = tf.compat.v1.get_variable("scale", initializer=[2.0, 3.0])
        path = tf.constant(vocabulary)
        line = tf.lookup.TextFileIndex
        table = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(path, tf.string, line.WHOLE_LINE, tf.int64, line.LINE_NUMBER), -1)
        y = tf.cast(table.lookup(x), tf.float32)[:, None] * scale
        start = tf.compat.v1.tables_initializer()
        session.run([tf.compat.v1.global_variables_initializer(), start])
        tf.compat.v1.add_to_collection(tf.compat.v1.GraphKeys.ASSET_FILEPATHS, path)
        builder = tf.compat.v1.saved_model.Builder(str(models / "tf1-words"))
        signature = tf.compat.v1.saved_model.predict_signature_def({"x": x}, {"y": y})
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature}, main_op=start,
            assets_collection=tf.compat.v1.get_collection(tf.compat.v1.GraphKeys.ASSET_FILEPATHS))
        builder.save()

    class Reader(tf.Module):
        def __init__(self):
            self.asset = tf.saved_model.Asset(vocabulary)

        @tf.function(input_signature=[])
        def __call__(self):
            return tf.strings.length(tf.io.read_file(self.asset.asset_path))

    tf.saved_model.save(Reader(), str(models / "reader"))
    tf1 = hubdist.load(str(models / "tf1-words"), device=far)
    found["tf1"] = tf1.signatures["serving_default"](words())["y"].numpy().tolist()
    with tf.device(far):
        found["tf1_there"] = tf1.signatures["serving_default"](words())["y"].numpy().tolist()
    found["tf1_variables"] = [variable.device for variable in tf1.variables]
    reader = hubdist.load(str(models / "reader"), device=far)
    with tf.device(far):
        found["read_there"] = int(reader())
    found["read_here"] = int(reader())
    found["vocabulary_bytes"] = os.path.getsize(vocabulary)

    # A worker on this machine, which shares the disk with the store.
    def state():
        return {str(path): [hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns]
                for path in Path(os.environ["XDG_CACHE_HOME"], "hubdist").glob("snapshots/*/files/**/*")
                if path.is_file()}

    before = state()
    shared = hubdist.load(handle, device=near)
    found["shared"] = [shared(words()).numpy().tolist(), shared.scale.device, shared is not model]
    found["untouched"] = len(before) > 5 and state() == before
    with tf.device(near):
        found["ambient"] = [hubdist.load(handle) is not shared, hubdist.load(handle).scale.device]
    local = hubdist.load(handle)
    found["local"] = [local(words()).numpy().tolist(), local.scale.device]
    memory = hubdist.load(handle, device=far, read_mode="memory", fresh=True)
    found["memory"] = [memory(words()).numpy().tolist(), memory.scale.device]

    options = tf.saved_model.LoadOptions
    found["unknown"] = error_of(lambda: hubdist.load(handle, device="/job:worker/task:7"))
    found["no device"] = error_of(lambda: hubdist.load(handle, device="worker:0:0"))
    found["other reader"] = error_of(
        lambda: hubdist.load(handle, options=options(experimental_io_device=far), device=far))
    found["own reader"] = hubdist.load(
        handle, options=options(experimental_io_device="/job:localhost"), device=far)(words()).numpy().tolist()

    def assets():
        with tf.device(far + "/device:CPU:0"):
            files = tf.io.matching_files("ram://hubdist-*/*/*").numpy()
            return [len(tf.io.read_file(file).numpy()) for file in files]

    found["assets_before"] = assets()
    del model, tf1, reader, shared, local, memory
    current_process().models.forget()
    gc.collect()
    free_remote_assets()
    found["assets_after"] = assets()
    found["left_here"] = tf.io.gfile.glob("ram://hubdist-*/*/*")

    os.kill(int(sys.argv[3]), signal.SIGKILL)
    while error_of(lambda: socket.create_connection(addresses[1].split(":"), 5).close()) is None:
        time.sleep(0.01)  # the system closes its port some time after
    found["killed"] = error_of(lambda: hubdist.load(handle, device=near))
    found["alive"] = hubdist.load(handle, device=far)(words()).numpy().tolist()
    print(json.dumps(found))
"""


def run_client(code: str, *args: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Run a script that prints one JSON object last."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_COMMON) + textwrap.dedent(code), *args],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def found(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a client saw that drives two workers: task 0 lacks this machine's files, task 1 shares them."""
    if not may_unshare():
        pytest.skip("needs root and mount namespaces")
    cache = tmp_path_factory.mktemp("cache")
    with tf_servers("worker", hidden=[models, cache]) as [far], tf_servers("worker") as [near]:
        addresses = f"{far.address},{near.address}"
        environment = {"XDG_CACHE_HOME": str(cache)}
        return run_client(_WORKERS, str(models), addresses, str(near.process.pid), environment=environment)


@pytest.mark.root
def test_the_documented_way_fails_for_a_vocabulary_where_hubdists_works(found: dict[str, Any]) -> None:
    kind, text = found["documented"]
    assert kind == "NotFoundError"
    assert "assets/vocabulary.txt; No such file or directory" in text
    assert found["answer"] == found["answer_there"] == WORDS
    assert found["variable"] == WORKER.format(0)


@pytest.mark.root
def test_a_second_load_and_a_pickle_give_models_of_their_own(found: dict[str, Any]) -> None:
    assert found["values"] == [[5.0, 7.0], [2.0, 3.0], [5.0, 7.0]]
    assert found["devices"] == [found["variable"]] * 2


@pytest.mark.root
def test_a_tf1_model_with_vocabulary_answers_from_there_and_from_here(found: dict[str, Any]) -> None:
    assert found["tf1"] == found["tf1_there"] == WORDS
    assert found["tf1_variables"] == [WORKER.format(0)]


@pytest.mark.root
def test_assets_can_be_read_when_a_function_is_called(found: dict[str, Any]) -> None:
    assert found["read_there"] == found["read_here"] == found["vocabulary_bytes"]


@pytest.mark.root
def test_a_worker_that_shares_the_disk_leaves_the_store_as_it_is(found: dict[str, Any]) -> None:
    assert found["shared"] == [WORDS, WORKER.format(1), True]
    assert found["untouched"] is True


@pytest.mark.root
def test_the_device_of_the_moment_counts_as_a_device_that_was_named(found: dict[str, Any]) -> None:
    assert found["ambient"] == [True, WORKER.format(1)]
    assert found["local"] == [WORDS, WORKER.format(0).replace("worker", "localhost")]


@pytest.mark.root
def test_memory_mode_goes_together_with_a_device(found: dict[str, Any]) -> None:
    assert found["memory"] == [WORDS, WORKER.format(0)]


@pytest.mark.root
def test_what_does_not_fit_is_said_with_advice(found: dict[str, Any]) -> None:
    kind, text = found["unknown"]
    assert kind == "ConfigError"
    assert "/job:worker/replica:0/task:7" in text
    assert "experimental_connect_to_cluster" in text
    kind, text = found["no device"]
    assert kind == "ConfigError"
    assert "'worker:0:0'" in text
    kind, text = found["other reader"]
    assert kind == "ConfigError"
    assert "Leave it out" in text
    assert found["own reader"] == WORDS


@pytest.mark.root
def test_assets_are_freed_after_the_models(found: dict[str, Any]) -> None:
    assert max(found["assets_before"]) == found["vocabulary_bytes"] > 1_000_000
    assert sum(found["assets_after"]) < 200 * len(found["assets_before"])
    assert found["left_here"] == []


@pytest.mark.root
def test_a_worker_that_died_is_named_and_others_go_on(found: dict[str, Any]) -> None:
    kind, text = found["killed"]
    assert kind == "PeerError"
    assert "/job:worker/replica:0/task:1 cannot be reached" in text
    assert found["alive"] == WORDS


def test_a_worker_that_never_starts_is_named_in_time(models: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        code = """
            from hubdist.loading.remote_tasks import tf_tasks
            tf_tasks._START_S = 1.0
            tf.config.experimental_connect_to_host(addresses)
            found["error"] = error_of(lambda: hubdist.load(str(models / "tf2"), device="/job:worker/task:0"))
            print(json.dumps(found))
        """
        found = run_client(code, str(models), f"127.0.0.1:{taken.getsockname()[1]}")
    assert found["error"][0] == "PeerError"
    assert "/job:worker/replica:0/task:0 cannot be reached" in found["error"][1]


def test_assets_are_freed_when_the_process_ends(models: Path) -> None:
    assets = """
        worker = "/job:worker/task:0/device:CPU:0"
        tf.config.experimental_connect_to_host(addresses)
        {}
        with tf.device(worker):
            files = tf.io.matching_files("ram://hubdist-*/*/*").numpy()
            found["content"] = [tf.io.read_file(file).numpy().decode("latin-1") for file in files]
        print(json.dumps(found))
    """
    with tf_servers("worker") as [worker]:
        load = 'model = hubdist.load(str(models / "tf2"), device=worker)'
        before = run_client(assets.format(load), str(models), worker.address)
        after = run_client(assets.format(""), str(models), worker.address)
    assert before["content"] == ["zero\none\ntwo\n"]
    assert len(after["content"]) == 1
    assert "zero" not in after["content"][0]


def test_a_worker_in_this_very_process_shares_its_memory(models: Path) -> None:
    code = """
        server = tf.distribute.Server({"worker": ["localhost:0"]}, job_name="worker", task_index=0, protocol="grpc")
        tf.config.experimental_connect_to_host(server.target)
        model = hubdist.load(str(models / "tf2"), device="/job:worker/task:0")
        found["answer"] = model(words()).numpy().tolist()
        del model
        current_process().models.forget()
        gc.collect()
        free_remote_assets()
        found["left"] = tf.io.gfile.glob("ram://hubdist-*")
        print(json.dumps(found))
    """
    assert run_client(code, str(models), "") == {"answer": WORDS, "left": []}


@pytest.mark.parametrize("collected", ["before", "after"])
def test_functions_that_the_worker_never_had_may_be_collected(models: Path, collected: str) -> None:
    code = """
        import weakref

        gc.disable()
        for _ in range(3):
            module = tf.Module()
            module.own, module.double = module, tf.function(lambda x: 2.0 * x)
            module.double(tf.constant(1.0))
        alive = weakref.ref(module)
        del module
        tf.config.experimental_connect_to_host(addresses)
        if {collected!r} == "before":
            gc.collect()
        model = hubdist.load(str(models / "tf2"), device="/job:worker/task:0")
        found["by the load"] = {collected!r} == "after" and alive() is None
        found["answer"] = model(words()).numpy().tolist()
        print(json.dumps(found))
    """
    with tf_servers("worker") as [worker]:
        found = run_client(code.format(collected=collected), str(models), worker.address)
    assert found == {"answer": WORDS, "by the load": False}


_PARAMETER_SERVER = """
    cluster = tf.train.ClusterSpec({"worker": addresses[:1], "ps": addresses[1:]})
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(cluster, rpc_layer="grpc")
    strategy = tf.distribute.ParameterServerStrategy(resolver)
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    with strategy.scope():
        model = hubdist.load(str(models / "tf2"))
        model.scale.assign([5.0, 7.0])
        found["published"] = hubdist.load(str(models / "tf2")).scale.numpy().tolist()
        model.scale.assign([2.0, 3.0])
    answer = coordinator.schedule(tf.function(lambda: strategy.run(lambda: model(words()))))
    found["answer"] = answer.fetch().tolist()
    found["variable"] = model.scale.device
    print(json.dumps(found))
"""


@pytest.mark.root
def test_under_a_parameter_server_strategy_each_task_gets_what_it_needs(models: Path) -> None:
    if not may_unshare():
        pytest.skip("needs root and mount namespaces")
    with tf_servers("worker", "ps", hidden=[models]) as [worker, ps]:
        found = run_client(_PARAMETER_SERVER, str(models), f"{worker.address},{ps.address}")
    assert found == {
        "published": [2.0, 3.0],
        "answer": WORDS,
        "variable": "/job:ps/replica:0/task:0/device:CPU:0",
    }


_MULTI_WORKER = """
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        model = hubdist.load(str(models / "tf2"))
        found["same"] = hubdist.load(str(models / "tf2")) is model
        travelled = pickle.loads(pickle.dumps(model))
        found["travelled"] = travelled.scale.numpy().tolist()
    alone = hubdist.load(str(models / "tf2"))
    found["kinds"] = [type(model.scale).__name__, type(alone.scale).__name__]
    total = strategy.run(tf.function(lambda: tf.distribute.get_replica_context().all_reduce("sum", model(words()))))
    found["total"] = total.numpy().tolist()
    found["ram"] = tf.io.gfile.glob("ram://*")
    print(json.dumps(found))
"""


@contextlib.contextmanager
def free_addresses(count: int) -> Iterator[list[str]]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        addresses = [f"127.0.0.1:{free.getsockname()[1]}" for free in sockets]
    yield addresses


def test_each_worker_of_a_mirrored_strategy_loads_for_itself(models: Path, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with free_addresses(2) as workers, ThreadPoolExecutor(2) as pool:
        calls = []
        for index in range(2):
            cluster = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
            environment = {"TF_CONFIG": json.dumps(cluster), "XDG_CACHE_HOME": str(tmp_path / f"node-{index}")}
            calls.append(pool.submit(run_client, _MULTI_WORKER, str(models), "", environment=environment))
        answers = [call.result(timeout=200) for call in calls]
    for found in answers:
        assert found["total"] == [[2 * value for value in row] for row in WORDS]
        assert found["kinds"] == ["MirroredVariable", "UninitializedVariable"]
        assert found["same"] is True
        assert found["travelled"] == [2.0, 3.0]
        assert found["ram"] == []
