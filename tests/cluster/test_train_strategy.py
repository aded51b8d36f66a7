"""`MultiWorkerMirroredStrategy` over Ray Train: each worker loads under its own scope, by the usual routes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import hubdist
from hubdist.testing.cluster import RayCluster

pytestmark = [pytest.mark.cluster, pytest.mark.tf, pytest.mark.timeout(400)]


def train_loop(config: dict[str, Any]) -> None:
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        model = hubdist.load(config["handle"])

    def answer() -> tf.Tensor:
        summed = strategy.run(lambda: tf.reduce_sum(model(tf.constant(["one"]))))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, summed, axis=None)

    kind = type(model.scale).__name__
    total = float(tf.function(answer)())
    assert "Mirrored" in kind, kind
    assert strategy.num_replicas_in_sync == 2
    assert total == 2 * (2.0 + 3.0)  # the word's row, summed over two workers


def test_workers_load_under_their_own_scope(tmp_path: Path, models: Path) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.tensorflow import TensorflowTrainer

    with RayCluster(tmp_path, nodes=2, cpus=2, log_to_driver=False) as cluster:
        hubdist.init(store=cluster.store, route="driver")
        result = TensorflowTrainer(
            train_loop,
            train_loop_config={"handle": str(models / "tf2")},
            scaling_config=ScalingConfig(num_workers=2, placement_strategy="STRICT_SPREAD"),
            run_config=RunConfig(storage_path=str(tmp_path / "results"), name="mirrored"),
        ).fit()
        assert result.error is None
        (pin,) = hubdist.status().pins
        assert pin.origin_reads == 1
        assert sorted(str(report.route) for report in hubdist.status().deliveries) in (["driver"], ["driver", "store"])
