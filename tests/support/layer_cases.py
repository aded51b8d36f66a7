"""Outer models with one layer of a published model, for Keras 2 and Keras 3 alike, and what they answer and learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """An outer model.

    Attributes:
        name: The case.
        handle: The model's directory.
        inputs: The one input, or inputs by name, with the batch.
        options: Further arguments of the layer.
        output: The output of the layer that is looked at; None for all.
        fits: True if the outer model is fitted as well, with a `Dense` layer behind.
    """

    name: str
    handle: Path
    inputs: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    output: str | None = None
    fits: bool = False


def cases(root: Path, *, all_of_them: bool = False) -> list[Case]:
    """The cases whose models are below a directory.

    Args:
        root: The directory.
        all_of_them: True gives those whose models are missing, too.
    """
    random = np.random.default_rng(7)
    column = np.array([[11.0], [12.0], [13.0]], dtype=np.float32)
    pair = {"x": column, "y": column.astype(np.int64) * 2}
    code = ["def f(x):\n    return x + 1\n", "#include <stdio.h>\nint main(void) { return 0; }\n"]
    sound = (0.1 * random.standard_normal((1, 43844, 1))).astype(np.float32)
    trained = {"trainable": True}
    found = [
        Case("hub_module", root / "hub_module", np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)),
        Case("hub_module_train", root / "hub_module", np.ones((2, 2), np.float32), {"tags": ["train"]}),
        Case("signature", root / "signature", pair, {"signature": "pair", "signature_outputs_as_dict": True}),
        Case("half_plus_one", root / "half_plus_one_raw", column / 10, trained, fits=True),
        Case("half_plus_one_frozen", root / "half_plus_one_raw", column / 10, fits=True),
        Case("batch_norm", root / "batch_norm_of_keras", column, trained, fits=True),
        Case("words", root / "words", np.array(["one", "two", "mauve"], dtype=object), trained, fits=True),
        Case("guesslang", root / "guesslang", np.array(code, dtype=object), _SCORES, output="scores"),
        Case("basic_pitch", root / "basic_pitch", sound, output="note"),
    ]
    return [case for case in found if all_of_them or case.handle.is_dir()]


_SCORES = {"signature": "serving_default", "signature_outputs_as_dict": True}


def outer_model(keras: Any, layer: Any, case: Case) -> Any:
    """The outer model of a case.

    Args:
        keras: The module `keras` or `tf_keras`.
        layer: The layer of the published model.
        case: The case.
    """
    named = case.inputs if isinstance(case.inputs, dict) else {"value": case.inputs}
    symbols = {
        name: keras.Input(value.shape[1:], dtype="string" if value.dtype == object else str(value.dtype), name=name)
        for name, value in named.items()
    }
    inputs = symbols if isinstance(case.inputs, dict) else symbols["value"]
    outputs = layer(inputs)
    if case.output is not None:
        outputs = outputs[case.output]
    if case.fits:
        outputs = keras.layers.Dense(1, kernel_initializer="ones")(outputs)
    return keras.Model(inputs, outputs)


def tensors(case: Case) -> Any:
    """The inputs of a case as tensors."""
    import tensorflow as tf

    return tf.nest.map_structure(tf.constant, case.inputs)


def answers(model: Any, case: Case) -> dict[str, Any]:
    """What an outer model returns, by name."""
    outputs = model(tensors(case))
    named = outputs if isinstance(outputs, dict) else {"output": outputs}
    return {name: value.numpy() for name, value in named.items()}


def measure(keras: Any, layer_class: Any, case: Case) -> tuple[Any, dict[str, Any]]:
    """Build the outer model of a case, train it, and note outputs, losses, gradients and weights.

    Args:
        keras: The module `keras` or `tf_keras`.
        layer_class: `hub.KerasLayer` or `HubLayer`.
        case: The case.

    Returns:
        The outer model, and what was noted.
    """
    import tensorflow as tf

    layer = layer_class(str(case.handle), **case.options)
    model = outer_model(keras, layer, case)
    seen = answers(model, case)
    if case.options.get("trainable"):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(tensors(case), training=True) - 1.0)) + sum(model.losses)
        seen["loss"] = loss.numpy()
        gradients = tape.gradient(loss, model.trainable_variables)
        seen |= {f"gradient {number}": tf.convert_to_tensor(each).numpy() for number, each in enumerate(gradients)}
    if case.fits:
        model.compile(keras.optimizers.SGD(0.001), "mse")
        wanted = np.arange(len(case.inputs), dtype=np.float32)[:, None]
        fitted = model.fit(tensors(case), wanted, batch_size=len(wanted), epochs=4, shuffle=False, verbose=0)
        seen["losses"] = np.array(fitted.history["loss"])
        seen |= {f"trained {name}": value for name, value in answers(model, case).items()}
        seen["regularization"] = np.float32(sum(model.losses))
    seen |= {f"weight {number}": value for number, value in enumerate(layer.get_weights())}
    return model, seen
