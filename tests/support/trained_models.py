"""Models with every kind of state, and every kind of write to it, for tests of what is shared and what travels."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_EXPORT = """
import sys
import tensorflow as tf

class Model(tf.Module):
    def __init__(self):
        self.scalar = tf.Variable(1.0)
        self.rows = tf.Variable(tf.ones([4, 3]))
        self.words = tf.Variable(["a", "b"])
        self.inner = tf.Module()
        self.inner.count = tf.Variable([1, 2, 3])
        self.layers = [tf.Variable([1.0]), tf.Variable([2.0])]
        self.table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
        self.table.insert(["one"], [1])
        self.inner.double = tf.function(lambda x: 2.0 * x * self.scalar, [tf.TensorSpec([None])])

    @tf.function(input_signature=[tf.TensorSpec([None])])
    def __call__(self, x):
        return self.scalar * x

    @tf.function(input_signature=[])
    def bump(self):
        self.scalar.assign_add(1.0)

    @tf.function(input_signature=[])
    def scatter(self):
        self.rows.scatter_nd_update([[1]], [[7.0, 7.0, 7.0]])

    @tf.function(input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64)])
    def put(self, key, value):
        self.table.insert(key, value)

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def get(self, key):
        return self.table.lookup(key)

model = Model()
tf.saved_model.save(model, sys.argv[1], signatures={"serve": model.__call__})
"""


def export_stateful(folder: Path) -> Path:
    """Save a model with scalars, rows, strings, an inner object, a list and a table that can be written to."""
    command = [sys.executable, "-c", _EXPORT, str(folder)]
    subprocess.run(command, check=True, timeout=180, capture_output=True)
    return folder


def values(model: Any) -> dict[str, Any]:
    """Everything that the model holds, by name, as plain Python values."""
    import tensorflow as tf

    found = {
        "scalar": model.scalar.numpy().tolist(),
        "rows": model.rows.numpy().tolist(),
        "words": model.words.numpy().tolist(),
        "count": model.inner.count.numpy().tolist(),
        "layers": [layer.numpy().tolist() for layer in model.layers],
        "table": {key: int(model.get(tf.constant(key))) for key in ("one", "two")},
    }
    assert model(tf.constant([2.0])).numpy().tolist() == [2.0 * found["scalar"]]  # the functions see the same variables
    return found


PUBLISHED = {
    "scalar": 1.0,
    "rows": [[1.0] * 3] * 4,
    "words": [b"a", b"b"],
    "count": [1, 2, 3],
    "layers": [[1.0], [2.0]],
    "table": {"one": 1, "two": -1},
}


def _gradient_descent(model: Any) -> None:
    import tensorflow as tf

    tf.raw_ops.ResourceApplyGradientDescent(var=model.rows.handle, alpha=0.5, delta=tf.ones([4, 3]))


def _sparse_adagrad(model: Any) -> None:
    import tensorflow as tf

    slots = tf.Variable(tf.ones([4, 3]))
    tf.raw_ops.ResourceSparseApplyAdagradV2(
        var=model.rows.handle, accum=slots.handle, lr=0.1, epsilon=1e-7, grad=tf.ones([1, 3]), indices=[2]
    )


def _compiled(model: Any) -> None:
    import tensorflow as tf

    tf.function(lambda: model.rows.assign_sub(tf.ones([4, 3])), jit_compile=True)()


def _in_a_graph_function(model: Any) -> None:
    import tensorflow as tf

    @tf.function
    def step() -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(tf.constant([3.0])) ** 2)
        model.scalar.assign_sub(0.01 * tape.gradient(loss, model.scalar))

    step()


def _insert(model: Any) -> None:
    import tensorflow as tf

    model.put(tf.constant("two"), tf.constant(2, tf.int64))


WRITES: dict[str, Callable[[Any], Any]] = {
    "assign": lambda model: model.scalar.assign(5.0),
    "assign of another variable of the model": lambda model: model.layers[0].assign(model.layers[1]),
    "assign_add of an inner object": lambda model: model.inner.count.assign_add([1, 1, 1]),
    "strings": lambda model: model.words.assign(["x", "b"]),
    "the model's own function": lambda model: model.bump(),
    "the model's own sparse function": lambda model: model.scatter(),
    "scatter_nd_add": lambda model: model.rows.scatter_nd_add([[0]], [[1.0, 2.0, 3.0]]),
    "slice": lambda model: model.rows[1:2].assign([[4.0, 4.0, 4.0]]),
    "raw gradient descent": _gradient_descent,
    "raw sparse Adagrad": _sparse_adagrad,
    "compiled by XLA": _compiled,
    "trained in a function": _in_a_graph_function,
    "a table's entry": _insert,
}
"""Ways to write to a loaded model."""
