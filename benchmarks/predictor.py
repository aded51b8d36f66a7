"""What `Predictor` costs over the same model called by hand in a class, in batches as Ray Data gives them.

    python benchmarks/predictor.py MODEL_WHEEL [--rows 10000] [--batch 256] [--rounds 5]

MODEL_WHEEL is `guesslang-2.2.1-py3-none-any.whl`. Both predictors have the same loaded model and get the same batches,
in turns; which one is first alternates. Printed are the seconds of each round and the ratios, for three ways: as
batches come, filled up to a fixed number of rows, and with numbers that have to be cast (a small model that is
made here, in which everything but the model weighs most). No cluster is started.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf
from ray.data.block import BlockAccessor

import hubdist
from hubdist.integrations.ray_data import Predictor

Batch = dict[str, np.ndarray]
CODE = "def f{0}(x):\n    return [x + {0} for x in range({0})]\n"


class ByHand:
    """What people write: load once, call the signature, add the outputs."""

    def __init__(self, handle: str, column: str, argument: str, cast: Any = None) -> None:
        self.model = hubdist.load(handle)
        self.function = self.model.signatures["serving_default"]
        self.column = column
        self.argument = argument
        self.cast = cast

    def __call__(self, batch: Batch) -> Batch:
        """One batch."""
        values = batch[self.column] if self.cast is None else batch[self.column].astype(self.cast)
        outputs = self.function(**{self.argument: tf.constant(values)})
        return {**batch, **{name: values.numpy() for name, values in outputs.items()}}


def batches_of(table: pa.Table, rows: int) -> list[Batch]:
    """A table's rows as Ray Data cuts them into batches for `map_batches`, without a copy where it can."""

    def cut() -> Iterator[Batch]:
        for begin in range(0, table.num_rows, rows):
            yield BlockAccessor.for_block(table.slice(begin, rows)).to_batch_format("numpy")

    return list(cut())


def spend(call: Callable[[Batch], Batch], batch: Batch) -> np.ndarray:
    """Seconds by the clock and by the processors for one batch."""
    clock, processors = time.perf_counter(), time.process_time()
    call(batch)
    return np.array([time.perf_counter() - clock, time.process_time() - processors])


def compare(name: str, by_hand: ByHand, predictor: Predictor, batches: list[Batch], rounds: int) -> None:
    """Take turns with each batch, and print the ratios."""
    rows = sum(len(next(iter(batch.values()))) for batch in batches)
    ratios = []
    for number in range(-1, rounds):
        took = {id(by_hand): np.zeros(2), id(predictor): np.zeros(2)}
        for at, batch in enumerate(batches):
            order: list[Any] = [by_hand, predictor] if (number + at) % 2 else [predictor, by_hand]
            for call in order:
                took[id(call)] += spend(call, batch)
        if number < 0:  # the first round warms both up
            continue
        ratios.append(took[id(predictor)] / took[id(by_hand)])
        seconds = f"by hand {took[id(by_hand)][0]:.3f} s, Predictor {took[id(predictor)][0]:.3f} s"
        print(f"  {seconds}, ratio {ratios[-1][0]:.3f}, of processor time {ratios[-1][1]:.3f}", flush=True)
    clock, processors = np.median(ratios, axis=0)
    print(f"{name}: {rows} rows, median ratio {clock:.3f}, of processor time {processors:.3f}\n", flush=True)


def export_small(folder: Path) -> str:
    """A model that does next to nothing."""
    module = tf.Module()
    module.scale = tf.Variable(tf.ones((64, 8)))
    call = tf.function(
        lambda x: {"y": tf.matmul(x, module.scale)}, input_signature=[tf.TensorSpec((None, 64), name="x")]
    )
    tf.saved_model.save(module, str(folder), signatures=call)
    return str(folder)


def main() -> None:
    """Compare in three ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        hubdist.init(store=f"{folder}/store")
        handle = f"zip://guesslang/data/model::{options.wheel.resolve()}"
        texts = pa.table({"text": [CODE.format(number) for number in range(options.rows)]})
        batches = batches_of(texts, options.batch)
        by_hand = ByHand(handle, "text", "inputs")
        inputs = {"text": "inputs"}
        compare("guesslang, as batches come", by_hand, Predictor(handle, inputs=inputs), batches, options.rounds)
        padding = Predictor(handle, inputs=inputs, pad_to=options.batch)
        compare(f"guesslang, filled up to {options.batch}", by_hand, padding, batches, options.rounds)

        small = export_small(Path(folder, "small"))
        numbers = np.random.default_rng(1).random((options.rows, 64))
        table = BlockAccessor.batch_to_block({"x": numbers})
        batches = batches_of(table, options.batch)
        by_hand = ByHand(small, "x", "x", np.float32)
        compare("a small model, float64 cast", by_hand, Predictor(small), batches, options.rounds)
        hubdist.shutdown()


if __name__ == "__main__":
    main()
