"""A loaded model is as it was published for each who asks, and travels as it is."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

import hubdist
from hubdist.errors import ConfigError, MissingOperationError, TravelError
from tests.support.trained_models import PUBLISHED, WRITES, export_stateful, values

pytestmark = pytest.mark.tf


@pytest.fixture(scope="module")
def stateful(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(export_stateful(tmp_path_factory.mktemp("stateful") / "model"))


def buffers(model: Any) -> bytes:
    """A pickle as Ray makes it, with arrays beside it."""
    beside: list[pickle.PickleBuffer] = []
    return cloudpickle.dumps(model, protocol=5, buffer_callback=beside.append) + b"".join(map(bytes, beside))


@pytest.mark.parametrize("write", WRITES)
def test_a_changed_model_is_never_handed_out_as_published(stateful: str, write: str) -> None:
    first = hubdist.load(stateful)
    assert values(first) == PUBLISHED
    WRITES[write](first)
    changed = values(first)
    assert changed != PUBLISHED
    second = hubdist.load(stateful)
    assert second is not first
    assert values(second) == PUBLISHED
    assert values(first) == changed


@pytest.mark.parametrize("dumps", [cloudpickle.dumps, copy.deepcopy])
@pytest.mark.parametrize("write", WRITES)
def test_no_change_is_lost_on_the_way(stateful: str, write: str, dumps: Callable[[Any], Any]) -> None:
    model = hubdist.load(stateful, own=True)
    WRITES[write](model)
    sent = values(model)
    arrived = copy.deepcopy(model) if dumps is copy.deepcopy else pickle.loads(dumps(model))
    assert values(arrived) == sent
    for other in WRITES.values():
        other(arrived)
    assert values(model) == sent
    assert values(hubdist.load(stateful)) == PUBLISHED


def test_an_unchanged_model_is_handed_out_again(stateful: str) -> None:
    model = hubdist.load(stateful)
    values(model)
    model.scalar.assign(model.scalar)
    assert hubdist.load(stateful) is model


def test_a_model_of_ones_own_is_nobody_elses(stateful: str) -> None:
    shared = hubdist.load(stateful)
    mine = hubdist.load(stateful, own=True)
    assert mine is not shared
    assert hubdist.load(stateful) is shared
    assert hubdist.load(stateful, own=True) is not mine


def test_what_arrives_is_nobody_elses(stateful: str) -> None:
    model = hubdist.load(stateful)
    data = pickle.dumps(model)
    arrived = [pickle.loads(data) for _ in range(2)]
    arrived[0].scalar.assign(3.0)
    assert values(arrived[1]) == values(model) == values(hubdist.load(stateful)) == PUBLISHED


def test_an_unchanged_model_travels_as_handle_and_digest(stateful: str) -> None:
    assert len(pickle.dumps(hubdist.load(stateful))) < 1500


def test_only_what_changed_travels(tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.large = tf.Variable(tf.zeros([8 << 20], tf.uint8))
    module.small = tf.Variable(tf.zeros([1 << 16], tf.uint8))
    tf.saved_model.save(module, str(tmp_path / "model"))
    model = hubdist.load(str(tmp_path / "model"))
    model.small.assign(tf.ones([1 << 16], tf.uint8))
    assert len(buffers(model)) < (1 << 16) + 2000


def test_arrays_travel_without_a_copy(tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.rows = tf.Variable(tf.zeros([1000, 10]))
    tf.saved_model.save(module, str(tmp_path / "model"))
    model = hubdist.load(str(tmp_path / "model"))
    model.rows.assign_add(tf.ones([1000, 10]))
    beside: list[pickle.PickleBuffer] = []
    data = cloudpickle.dumps(model, protocol=5, buffer_callback=beside.append)
    assert len(data) < 2000
    assert [buffer.raw().nbytes for buffer in beside] == [40_000]
    memory = np.frombuffer(b"".join(map(bytes, beside)), np.uint8)  # read-only, as Ray's object store is
    arrived = pickle.loads(data, buffers=[memory])
    arrived.rows.assign_add(tf.ones([1000, 10]))
    assert arrived.rows.numpy().max() == 2.0
    assert memory.view(np.float32).max() == 1.0
    assert model.rows.numpy().max() == 1.0


def test_plain_attributes_travel_and_other_structure_is_refused(stateful: str) -> None:
    import tensorflow as tf

    model = hubdist.load(stateful)
    model.inner.note = "tuned"
    assert hubdist.load(stateful) is not model
    assert pickle.loads(pickle.dumps(model)).inner.note == "tuned"
    model.head = tf.Variable(1.0)
    with pytest.raises(TravelError, match=r"head.*saved_model\.save"):
        pickle.dumps(model)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model, "scalar", model.rows),
        lambda model: model.layers.append(model.rows),
        lambda model: delattr(model, "scalar"),
        lambda model: model.layers.reverse(),
    ],
    ids=["replaced", "appended", "deleted", "reordered"],
)
def test_a_changed_structure_is_told(stateful: str, change: Callable[[Any], Any]) -> None:
    model = hubdist.load(stateful)
    change(model)
    with pytest.raises(TravelError, match="structure"):
        pickle.dumps(model)
    assert values(hubdist.load(stateful)) == PUBLISHED


def test_a_shallow_copy_shares_variables_as_tensorflows_own(stateful: str) -> None:
    model = hubdist.load(stateful)
    twin = copy.copy(model)
    assert twin is not model
    assert twin.scalar is model.scalar
    twin.note = 3
    assert not hasattr(model, "note")
    assert pickle.loads(pickle.dumps(twin)).note == 3


def test_a_deep_copy_takes_what_else_is_copied_of_the_model_along(stateful: str) -> None:
    model = hubdist.load(stateful)
    copied = copy.deepcopy({"model": model, "scalar": model.scalar, "inner": model.inner, "call": model.bump})
    assert copied["scalar"] is copied["model"].scalar
    assert copied["inner"] is copied["model"].inner
    copied["call"]()
    assert copied["model"].scalar.numpy() == 2.0
    assert model.scalar.numpy() == 1.0


PARTS: dict[str, Callable[[Any], Any]] = {
    "signature": lambda model: model.signatures["serve"],
    "function": lambda model: model.__call__,
    "inner function": lambda model: model.inner.double,
    "signatures": lambda model: model.signatures,
    "inner object": lambda model: model.inner,
}


def ask_part(which: str, part: Any) -> Any:
    import tensorflow as tf

    x = tf.constant([1.0])
    if which == "signature":
        return part(x=x)["output_0"].numpy().tolist()
    if which == "signatures":
        return part["serve"](x=x)["output_0"].numpy().tolist()
    if which == "inner object":
        return part.double(x).numpy().tolist()
    return part(x).numpy().tolist()


@pytest.mark.parametrize("which", PARTS)
def test_parts_of_a_model_travel_with_its_changes(stateful: str, which: str) -> None:
    model = hubdist.load(stateful)
    data = cloudpickle.dumps(PARTS[which](model))
    assert len(data) < 1500
    expected = ask_part(which, PARTS[which](model))
    assert ask_part(which, pickle.loads(data)) == expected
    model.scalar.assign(4.0)
    part = PARTS[which](model)
    del model
    arrived = pickle.loads(cloudpickle.dumps(part))
    assert ask_part(which, arrived) == [4.0 * value for value in expected]
    again = pickle.loads(cloudpickle.dumps(arrived))  # unopened or opened, it goes on
    assert ask_part(which, again) == [4.0 * value for value in expected]


def test_a_part_that_arrived_knows_its_own_changes(stateful: str) -> None:
    inner = pickle.loads(pickle.dumps(hubdist.load(stateful).inner))
    inner.count.assign([9, 9, 9])
    inner.note = "mine"
    again = pickle.loads(pickle.dumps(inner))
    assert again.note == "mine"
    assert again.count.numpy().tolist() == [9, 9, 9]


def test_a_travelled_model_opens_at_its_first_use(stateful: str) -> None:
    import tensorflow as tf

    arrived = pickle.loads(pickle.dumps(hubdist.load(stateful)))
    assert "not opened yet" in repr(arrived)
    assert isinstance(arrived, tf.__internal__.tracking.AutoTrackable)
    assert not isinstance(arrived, int)
    assert callable(arrived)
    assert "not opened yet" in repr(arrived)
    holder = tf.Module()
    holder.model = arrived  # tracked as any other
    assert values(holder.model) == PUBLISHED
    assert "not opened yet" not in repr(arrived)
    assert len(holder.variables) == 0  # tf.Module asks modules only, as with TensorFlow's own loaded objects
    assert arrived in tf.train.TrackableView(holder).descendants()


def test_threads_open_a_travelled_model_once(stateful: str) -> None:
    arrived = pickle.loads(pickle.dumps(hubdist.load(stateful)))
    seen: list[Any] = []
    threads = [threading.Thread(target=lambda: seen.append(arrived.scalar)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len({id(variable) for variable in seen}) == 1


def test_a_travelled_model_can_be_saved_and_loaded_again(stateful: str, tmp_path: Path) -> None:
    import tensorflow as tf

    model = hubdist.load(stateful, own=True)
    model.bump()
    arrived = pickle.loads(pickle.dumps(model))
    tf.saved_model.save(arrived, str(tmp_path / "again"))
    assert tf.saved_model.load(str(tmp_path / "again")).scalar.numpy() == 2.0
    saved = tf.train.Checkpoint(model=arrived).write(str(tmp_path / "checkpoint"))
    arrived.bump()
    tf.train.Checkpoint(model=arrived).read(saved)
    assert arrived.scalar.numpy() == 2.0
    assert values(pickle.loads(pickle.dumps(arrived)))["scalar"] == 2.0


def test_what_nobody_holds_is_freed_for_the_next(stateful: str, models: Path) -> None:
    model = hubdist.load(stateful)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is not None  # the last one stays for the next caller
    hubdist.load(str(models / "tf2"))
    gc.collect()
    assert gone() is None


def test_what_somebody_holds_is_shared_whatever_the_limits(stateful: str, models: Path) -> None:
    model = hubdist.load(stateful)
    hubdist.load(str(models / "tf2"))
    assert hubdist.load(stateful) is model


def test_models_are_kept_within_a_number_of_bytes(stateful: str, models: Path) -> None:
    hubdist.init(max_loaded_bytes="1MiB")
    kept = weakref.ref(hubdist.load(stateful))
    hubdist.load(str(models / "tf2"))
    assert hubdist.load(stateful) is kept()


def test_unload_frees_one_model(stateful: str, models: Path) -> None:
    hubdist.init(max_loaded_bytes="1MiB")
    first, second = weakref.ref(hubdist.load(stateful)), weakref.ref(hubdist.load(str(models / "tf2")))
    assert hubdist.unload(stateful) is True
    gc.collect()
    assert first() is None
    assert second() is not None
    assert hubdist.unload(stateful) is False


def test_a_model_that_nobody_holds_needs_no_garbage_collection(stateful: str) -> None:
    hubdist.init(max_loaded_models=0)
    gc.disable()
    try:
        gone = weakref.ref(hubdist.load(stateful))
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("which", ["tf1", "tf2"])
def test_graphs_of_threads_beside_eager_code_get_models_of_their_own(models: Path, which: str) -> None:
    import tensorflow as tf

    path = str(models / which)
    eager = hubdist.load(path)
    answers: list[Any] = []

    def serve() -> None:
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            model = hubdist.load(path)
            if which == "tf1":
                answer = model.signatures["serving_default"](x=tf.constant([[1.0, 2.0]]))["y"]
            else:
                answer = model(tf.constant(["one"]))
            session.run([tf.compat.v1.global_variables_initializer(), tf.compat.v1.tables_initializer()])
            answers.append(session.run(answer).tolist())

    threads = [threading.Thread(target=serve) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert answers == [[[21.0]] if which == "tf1" else [[2.0, 3.0]]] * 2
    assert hubdist.load(path) is eager


def test_a_model_in_a_graph_travels_with_the_sessions_values(models: Path) -> None:
    import tensorflow as tf

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        model = hubdist.load(str(models / "tf2"))
        session.run([tf.compat.v1.global_variables_initializer(), tf.compat.v1.tables_initializer()])
        session.run(model.scale.assign([5.0, 7.0]))
        data = pickle.dumps(model)
    with pytest.raises(TravelError, match="session"):
        pickle.dumps(model)
    assert pickle.loads(data)(tf.constant(["one"])).numpy().tolist() == [[5.0, 7.0]]
    assert hubdist.load(str(models / "tf2")).scale.numpy().tolist() == [2.0, 3.0]


def test_changes_under_a_strategy_are_seen_and_travel(models: Path) -> None:
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(["/cpu:0"])
    with strategy.scope():
        model = hubdist.load(str(models / "tf2"))
        assert hubdist.load(str(models / "tf2")) is model
        strategy.run(lambda: model.scale.assign_add([1.0, 1.0]))
        again = hubdist.load(str(models / "tf2"))
        assert again is not model
        assert again.scale.numpy().tolist() == [2.0, 3.0]
        data = pickle.dumps(model)
    assert pickle.loads(data).scale.numpy().tolist() == [3.0, 4.0]
    assert copy.deepcopy(model).scale.numpy().tolist() == [3.0, 4.0]


def test_a_load_inside_of_a_function_or_a_tape_leaves_them_alone(models: Path) -> None:
    import tensorflow as tf

    hubdist.load(str(models / "tf2"))
    with tf.GradientTape() as tape:
        hubdist.load(str(models / "tf2"))
    assert tape.watched_variables() == ()

    @tf.function
    def ask(words: Any) -> Any:
        return hubdist.load(str(models / "tf2"))(words)

    assert ask(tf.constant(["one"])).numpy().tolist() == [[2.0, 3.0]]
    assert {op.type for op in ask.get_concrete_function(tf.constant(["one"])).graph.get_operations()} >= {
        "StatefulPartitionedCall"
    }


def test_parts_that_travel_together_belong_to_one_model(stateful: str) -> None:
    model = hubdist.load(stateful, own=True)
    model.rows.assign_add(model.rows)
    sent = cloudpickle.dumps({"bump": model.bump, "model": model, "inner": model.inner})
    assert len(sent) < len(cloudpickle.dumps(model)) + 1000
    arrived = pickle.loads(sent)
    arrived["bump"]()
    assert values(arrived["model"])["scalar"] == 2.0
    assert arrived["inner"].count is arrived["model"].inner.count
    half_used = pickle.loads(sent)
    half_used["bump"]()
    again = pickle.loads(cloudpickle.dumps(half_used))  # the model was not used yet, and has what its function wrote
    assert values(again["model"])["scalar"] == 2.0
    copied = copy.deepcopy(pickle.loads(sent))
    copied["bump"]()
    assert values(copied["model"])["scalar"] == 2.0


def test_a_variable_that_was_copied_before_its_model_is_told(stateful: str) -> None:
    model = hubdist.load(stateful)
    with pytest.raises(TravelError, match="scalar was copied before"):
        copy.deepcopy([model.scalar, model])


TF1_VARIABLES = """
import sys
import tensorflow.compat.v1 as tf

with tf.Graph().as_default(), tf.Session() as session:
    kind, root = sys.argv[1:]
    x = tf.placeholder(tf.float32, (), name="x")
    collections = ["mine"] if kind == "own collection" else None
    w = tf.get_variable("w", initializer=2.0, use_resource=kind != "ref", collections=collections)
    session.run(w.initializer)
    with tf.control_dependencies([tf.assign(w, x)]):
        changed = tf.identity(x)
    signatures = {
        name: tf.saved_model.signature_def_utils.predict_signature_def({"x": x}, {"y": y})
        for name, y in {"ask": w * x, "change": changed}.items()
    }
    builder = tf.saved_model.Builder(root)
    builder.add_meta_graph_and_variables(session, ["serve"], signatures, saver=tf.train.Saver([w]))
    builder.save()
"""


@pytest.mark.parametrize("kind", ["ref", "own collection", "resource"])
def test_variables_of_old_graphs_are_state_too(kind: str, tmp_path: Path) -> None:
    import tensorflow as tf

    root = str(tmp_path / "model")
    command = [sys.executable, "-c", TF1_VARIABLES, kind, root]
    subprocess.run(command, check=True, timeout=120, capture_output=True)

    def ask(model: Any) -> float:
        return float(model.signatures["ask"](x=tf.constant(1.0))["y"])

    model = hubdist.load(root)
    assert hubdist.load(root) is model
    assert len(pickle.dumps(model)) < 1500
    model.signatures["change"](x=tf.constant(4.0))
    assert ask(model) == 4.0
    again = hubdist.load(root)
    assert again is not model
    assert ask(again) == 2.0
    assert [ask(pickle.loads(pickle.dumps(model))), ask(copy.deepcopy(model)), ask(again), ask(model)] == [4, 4, 2, 4]


@pytest.mark.parametrize(
    "change",
    [lambda model: model.layers.append(5), lambda model: model.layers.__setitem__(0, 5)],
    ids=["appended", "replaced"],
)
def test_plain_elements_of_lists_are_told(stateful: str, change: Callable[[Any], Any]) -> None:
    model = hubdist.load(stateful)
    change(model)
    with pytest.raises(TravelError, match="layers"):
        pickle.dumps(model)


def test_entries_that_are_called_as_a_dicts_methods_travel(tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.named = {"values": tf.Module(), "get": tf.Variable(3.0)}
    module.named["values"].f = tf.function(lambda x: x + module.named["get"], [tf.TensorSpec([])])
    tf.saved_model.save(module, str(tmp_path / "model"))
    model = hubdist.load(str(tmp_path / "model"))
    model.named["get"].assign(5.0)
    assert float(pickle.loads(pickle.dumps(model.named["values"])).f(1.0)) == 6.0
    assert float(pickle.loads(pickle.dumps(model.named["values"].f))(1.0)) == 6.0
    model.named["note"] = 5
    with pytest.raises(TravelError, match="note"):
        pickle.dumps(model)


def test_a_scalar_string_travels_with_every_byte(tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.word = tf.Variable("a")
    tf.saved_model.save(module, str(tmp_path / "model"))
    model = hubdist.load(str(tmp_path / "model"))
    model.word.assign(b"tuned\x00")
    assert pickle.loads(pickle.dumps(model)).word.numpy() == b"tuned\x00"
    assert copy.deepcopy(model).word.numpy() == b"tuned\x00"


def test_what_arrives_answers_as_the_opened_one(stateful: str) -> None:
    import collections.abc
    import inspect

    import tensorflow as tf

    model = hubdist.load(stateful)
    arrived, inner = pickle.loads(pickle.dumps([model, model.inner]))
    assert not isinstance(arrived, collections.abc.Iterable | collections.abc.Sized)
    assert callable(arrived)
    assert not callable(inner)
    held = np.array([arrived], dtype=object)
    assert "not opened yet" in repr(held[0])
    function = pickle.loads(pickle.dumps(model.inner.double))
    assert tf.function(function)(tf.constant([1.0])).numpy().tolist() == [2.0]
    function = pickle.loads(pickle.dumps(model.inner.double))
    assert inspect.signature(function) == inspect.signature(model.inner.double)


def test_a_thread_that_meets_an_object_while_it_opens_waits(stateful: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    from hubdist.loading import lazy

    arrived = pickle.loads(pickle.dumps(hubdist.load(stateful)))
    inside, go_on = threading.Event(), threading.Event()
    set_class = lazy.set_class

    def stop(part: Any, kind: type) -> None:
        inside.set()
        assert go_on.wait(60)
        set_class(part, kind)

    monkeypatch.setattr(lazy, "set_class", stop)
    opener = threading.Thread(target=lambda: arrived.scalar)
    answers: list[Any] = []
    asker = threading.Thread(target=lambda: answers.append(arrived(tf.constant([2.0])).numpy().tolist()))
    opener.start()
    assert inside.wait(60)
    asker.start()
    go_on.set()
    for thread in (opener, asker):
        thread.join(60)
    assert answers == [[2.0]]


def test_a_model_that_remembers_its_calls_is_not_shared(tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.draw = tf.function(lambda: tf.random.uniform([], seed=7), input_signature=[])
    module.plain = tf.function(lambda: tf.random.uniform([]), input_signature=[])
    tf.saved_model.save(module, str(tmp_path / "model"))
    first = hubdist.load(str(tmp_path / "model"))
    drawn = [float(first.draw()) for _ in range(2)]
    second = hubdist.load(str(tmp_path / "model"))
    assert float(second.draw()) == drawn[0] != drawn[1]


def test_an_eager_model_is_copied_and_pickled_inside_of_a_graph(stateful: str) -> None:
    import tensorflow as tf

    model = hubdist.load(stateful)
    model.scalar.assign(3.0)
    with tf.Graph().as_default():
        data, copied = pickle.dumps(model), copy.deepcopy(model)
    assert values(copied)["scalar"] == values(pickle.loads(data))["scalar"] == 3.0


def test_a_graphs_model_does_not_lose_structure(models: Path, stateful: str) -> None:
    import tensorflow as tf

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        model = hubdist.load(str(models / "tf2"))
        session.run([tf.compat.v1.global_variables_initializer(), tf.compat.v1.tables_initializer()])
        model.note = "mine"
        data = pickle.dumps(model)
        model.head = tf.Module()
        with pytest.raises(TravelError, match="head"):
            pickle.dumps(model)
    assert pickle.loads(data).note == "mine"
    with tf.Graph().as_default(), tf.compat.v1.Session():
        model = hubdist.load(stateful)
        with pytest.raises(TravelError, match="table"):
            pickle.dumps(model)


def test_what_a_part_does_not_need_is_freed(tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.large, module.small = tf.Variable(tf.zeros([1000])), tf.Variable(1.0)
    module.f = tf.function(lambda: module.small + 1.0, input_signature=[])
    tf.saved_model.save(module, str(tmp_path / "model"), signatures={"f": module.f})
    model = hubdist.load(str(tmp_path / "model"), own=True)
    large, signature = weakref.ref(model.large), model.signatures["f"]
    model.small.assign(2.0)
    del model
    assert large() is None
    gc.collect()
    assert float(pickle.loads(pickle.dumps(signature))()["output_0"]) == 3.0


FORK = """
    import os, sys, hubdist
    path, begin = sys.argv[1:]
    model = hubdist.load(path) if begin == "loaded" else None
    if begin == "imported":
        import tensorflow
    child = os.fork()
    if child == 0:
        try:
            (model or hubdist.load(path)).scalar.numpy()
            print("works", flush=True)
        except hubdist.HubdistError as error:
            print(type(error).__name__, error, flush=True)
        try:
            hubdist.load(path)
        except hubdist.HubdistError as error:
            print(type(error).__name__, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.parametrize("begin", ["loaded", "imported"])
def test_a_forked_process_says_so_instead_of_hanging(stateful: str, begin: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(FORK), stateful, begin],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    if begin == "imported":
        assert done.stdout.strip() == "works"
    else:
        assert done.stdout.startswith("ConfigError this process was forked")
        assert "spawn" in done.stdout
        assert done.stdout.endswith("\nConfigError\n")


def test_a_missing_operation_names_model_package_and_ways(tmp_path: Path, stateful: str) -> None:
    import shutil

    root = tmp_path / "model"
    shutil.copytree(stateful, root)
    graph = (root / "saved_model.pb").read_bytes()
    old, new = b"MutableHashTableV2", b"SentencepieceOp123"
    (root / "saved_model.pb").write_bytes(graph.replace(old, new))
    with pytest.raises(MissingOperationError, match=r"Sentencepiece.*imports: .tensorflow_text.*setup_hook") as caught:
        hubdist.load(str(root))
    assert str(root) in str(caught.value)
    assert caught.value.operation.startswith("Sentencepiece")


def test_modules_of_the_configuration_are_imported_before_a_load(
    stateful: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hubdist_test_ops.py").write_text("loaded = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    hubdist.init(imports=["hubdist_test_ops"])
    hubdist.load(stateful)
    assert sys.modules.pop("hubdist_test_ops").loaded
    hubdist.shutdown()
    hubdist.init(imports=["hubdist_has_no_such_module"])
    with pytest.raises(ConfigError, match="hubdist_has_no_such_module"):
        hubdist.load(stateful)


@pytest.mark.parametrize("kind", ["variable", "table"])
def test_a_model_that_is_no_object_is_what_tensorflow_gives_each_time(kind: str, tmp_path: Path) -> None:
    import tensorflow as tf

    root: Any = tf.Variable(3.0)
    if kind == "table":
        values = tf.lookup.KeyValueTensorInitializer(["a"], [7])
        root = tf.lookup.StaticHashTable(values, 0)
    tf.saved_model.save(root, str(tmp_path / "model"))
    hubdist.init(store=str(tmp_path / "store"))
    first, second = hubdist.load(tmp_path / "model"), hubdist.load(tmp_path / "model")
    assert type(first).__name__ == type(tf.saved_model.load(str(tmp_path / "model"))).__name__
    assert first is not second
