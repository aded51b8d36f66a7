"""Loaded models, trained models and parts of models in tasks, actors and Ray Data."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

import hubdist
from hubdist.testing.cluster import RayCluster
from hubdist.testing.hub import LoopbackHub
from tests.support.trained_models import PUBLISHED, export_stateful, values

pytestmark = [pytest.mark.cluster, pytest.mark.tf]

EXPECTED = [[2.0, 3.0], [4.0, 6.0], [-2.0, -3.0]]
WORDS = ["one", "two", "unknown"]


@pytest.fixture(scope="module")
def stateful(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(export_stateful(tmp_path_factory.mktemp("stateful") / "model"))


@pytest.fixture
def there(cluster: RayCluster) -> dict[str, Any]:
    """The options of a task on the second node, so that Ray reuses one worker there."""
    hubdist.init(store=cluster.store)
    return {**cluster.on(cluster.node_ids[1]), "num_cpus": 1}


@ray.remote
def train(handle: str, own: bool) -> tuple[Any, ...]:
    import os

    model = hubdist.load(handle, own=own)
    begin = values(model)
    for _ in range(3):
        model.bump()
    model.rows.assign_add(model.rows)
    return os.getpid(), begin, model, values(model)


@ray.remote
def look(model: Any) -> Any:
    return values(model)


@pytest.mark.parametrize("own", [True, False])
def test_every_task_of_a_worker_begins_with_the_published_weights(
    stateful: str, there: dict[str, Any], own: bool
) -> None:
    runs = [ray.get(train.options(**there).remote(stateful, own), timeout=200) for _ in range(3)]
    assert [begin for _, begin, _, _ in runs] == [PUBLISHED] * 3
    for _, _, arrived, trained in runs:
        assert values(arrived) == trained != PUBLISHED
    assert values(hubdist.load(stateful)) == PUBLISHED


def test_a_model_trained_in_the_driver_arrives_trained(stateful: str, there: dict[str, Any]) -> None:
    ray.get(train.options(**there).remote(stateful, False), timeout=200)  # leaves another trained one in the worker
    model = hubdist.load(stateful, own=True)
    model.scalar.assign(2.5)
    trained = values(model)

    @ray.remote
    def look_at_closure() -> Any:
        return values(model)

    reference = ray.put(model)
    ways = [look.options(**there).remote(model), look.options(**there).remote(reference)]
    ways.append(look_at_closure.options(**there).remote())
    assert ray.get(ways, timeout=200) == [trained] * 3
    model.scalar.assign(3.5)
    assert ray.get(look.options(**there).remote(reference), timeout=200) == trained  # as it was when it was put
    assert values(model)["scalar"] == 3.5


def test_what_a_task_gets_is_nobody_elses(stateful: str, there: dict[str, Any]) -> None:
    model = hubdist.load(stateful)

    @ray.remote
    def spoil(model: Any) -> Any:
        before = values(model)
        model.bump()
        return before

    reference = ray.put(model)
    assert ray.get([spoil.options(**there).remote(reference) for _ in range(3)], timeout=200) == [PUBLISHED] * 3


def test_signatures_and_functions_travel(stateful: str, there: dict[str, Any]) -> None:
    model = hubdist.load(stateful, own=True)
    model.scalar.assign(3.0)
    infer, double = model.signatures["serve"], model.inner.double

    @ray.remote
    def by_closure(x: float) -> Any:
        import tensorflow as tf

        return infer(x=tf.constant([x]))["output_0"].numpy().tolist()

    @ray.remote
    def by_argument(signature: Any, function: Any, x: float) -> Any:
        import tensorflow as tf

        return signature(x=tf.constant([x]))["output_0"].numpy().tolist() + function(tf.constant([x])).numpy().tolist()

    assert ray.get(by_closure.options(**there).remote(2.0), timeout=200) == [6.0]
    assert ray.get(by_argument.options(**there).remote(infer, double, 2.0), timeout=200) == [6.0, 12.0]
    rows = ray.data.from_items([{"x": 1.0}, {"x": 2.0}]).map_batches(
        lambda batch: {"y": infer(x=np.asarray(batch["x"], np.float32))["output_0"].numpy()}
    )
    assert sorted(row["y"] for row in rows.take_all()) == [3.0, 6.0]


def test_a_model_that_a_task_gets_opens_after_the_tasks_first_lines(stateful: str, there: dict[str, Any]) -> None:
    model = hubdist.load(stateful)

    @ray.remote(max_calls=1)
    def first_lines(given: Any) -> Any:
        import tensorflow as tf

        early = "not opened yet" in repr(given) and "not opened yet" in repr(model)
        tf.config.threading.set_inter_op_parallelism_threads(1)  # an error once TensorFlow has begun to work
        return early, values(given)["scalar"], values(model)["scalar"]

    fresh = {**there, "runtime_env": {"env_vars": {"A_WORKER_OF_ITS_OWN": "1"}}}
    assert ray.get(first_lines.options(**fresh).remote(model), timeout=200) == (True, 1.0, 1.0)


def test_a_model_keeps_its_read_mode_on_the_way(cluster: RayCluster, stateful: str, there: dict[str, Any]) -> None:
    other = str(export_stateful(Path(stateful).parent / "other"))
    Path(other, "note.txt").write_text("other bytes")
    model = hubdist.load(other, read_mode="memory", route="driver")
    snapshots = cluster.store_of(cluster.node_ids[1]) / "snapshots"
    before = set(snapshots.iterdir()) if snapshots.exists() else set()
    assert ray.get(look.options(**there).remote(model), timeout=200) == PUBLISHED
    assert (set(snapshots.iterdir()) if snapshots.exists() else set()) == before


def test_a_tuned_model_that_tensorflow_saves_needs_neither_store_nor_hub(models: Path, tmp_path: Path) -> None:
    import tensorflow as tf

    hubdist.init(store=str(tmp_path / "store"))
    for mode in ("store", "memory"):
        model = hubdist.load(str(models / "tf2"), own=True, read_mode=mode)
        model.scale.assign([5.0, 7.0])
        tf.saved_model.save(model, str(tmp_path / f"by-{mode}"))
    script = """
        import sys, tensorflow as tf
        print([tf.saved_model.load(path)(tf.constant(["two"])).numpy().tolist() for path in sys.argv[1:]])
    """
    hubdist.shutdown()
    (tmp_path / "store").rename(tmp_path / "gone")
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "by-store"), str(tmp_path / "by-memory")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[[[10.0, 14.0]], [[10.0, 14.0]]]"


def test_models_travel_by_closure_argument_and_actor(cluster: RayCluster, models: Path) -> None:
    hubdist.init(store=cluster.store)
    with LoopbackHub() as hub:
        handle = hub.add_model("acme/tf2/1", models / "tf2")
        tf1 = hubdist.load(hub.add_model("acme/tf1/1", models / "tf1"))
        tf2 = hubdist.load(handle)
        other = cluster.on(cluster.node_ids[1])

        @ray.remote(num_cpus=0)
        class Model:
            def __init__(self, model: Any) -> None:
                self.model = model

            def ask(self, words: list[str]) -> Any:
                return self.model(np.array(words)).numpy().tolist()

            def ask_closure(self) -> Any:
                return tf1.signatures["serving_default"](x=np.array([[1.0, 2.0]], np.float32))["y"].numpy().tolist()

            def ask_both(self, model: Any) -> bool:
                alone = model is not self.model and hubdist.load(handle) not in (model, self.model)
                return alone and model(np.array(WORDS)).numpy().tolist() == EXPECTED

        actor = Model.options(**other).remote(tf2)
        assert ray.get(actor.ask.remote(WORDS), timeout=120) == EXPECTED
        assert ray.get(actor.ask_closure.remote(), timeout=120) == [[21.0]]
        assert ray.get(actor.ask_both.remote(tf2), timeout=120) is True
        assert hub.reads(handle) == 1
        snapshots = cluster.store_of(cluster.node_ids[1]) / "snapshots"
        digests = {report.digest.removeprefix("sha256:") for report in hubdist.status().deliveries}
        assert len(digests) == 2
        assert digests <= {path.name for path in snapshots.iterdir()}
