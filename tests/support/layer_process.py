"""A process that loads outer models which another one saved, and trains one on two devices; run by a test.

python -m tests.support.layer_process PUBLISHED SAVED
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.layer_cases import answers, cases


def load_outer_models(published: Path, saved: Path) -> None:
    """Write what saved models answer to `<case>.after.npz`.

    Args:
        published: The directory of the models that the layers name.
        saved: The directory with `<case>.keras`.
    """
    import keras

    import hubdist.integrations.keras  # noqa: F401 - so that Keras knows the layer

    for case in cases(published):
        model = keras.models.load_model(saved / f"{case.name}.keras")
        np.savez(saved / f"{case.name}.after.npz", **answers(model, case))


def train_on_two_devices(published: Path, saved: Path) -> None:
    """Train the same outer model on one device and on two, save and load it, and write all weights.

    Args:
        published: The directory of the models that the layers name.
        saved: Where `mirrored.npz` goes.
    """
    import keras
    import tensorflow as tf

    from hubdist.integrations.keras import HubLayer

    x = np.arange(12.0, dtype=np.float32)[:, None]
    seen: dict[str, Any] = {}

    def note(kind: str, model: Any) -> None:
        seen.update({f"{kind} {number}": value for number, value in enumerate(model.get_weights())})

    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for kind, scope in (("alone", tf.distribute.get_strategy()), ("mirrored", strategy)):
        with scope.scope():
            layer = HubLayer(published / "half_plus_one_raw", trainable=True)
            model = keras.Sequential([keras.Input((1,)), layer, keras.layers.Dense(1, kernel_initializer="ones")])
            model.compile(keras.optimizers.SGD(0.001, momentum=0.9), "mse")
        model.fit(x, 2 * x, batch_size=12, epochs=3, shuffle=False, verbose=0)
        note(kind, model)
    seen["replicas"] = np.array(len(layer.weights[0].value.values))
    model.save(saved / "mirrored.keras")
    note("loaded", keras.models.load_model(saved / "mirrored.keras"))
    with strategy.scope():
        note("loaded mirrored", keras.models.load_model(saved / "mirrored.keras"))
    np.savez(saved / "mirrored.npz", **seen)


if __name__ == "__main__":
    import tensorflow as tf

    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
    load_outer_models(Path(sys.argv[1]), Path(sys.argv[2]))
    train_on_two_devices(Path(sys.argv[1]), Path(sys.argv[2]))
