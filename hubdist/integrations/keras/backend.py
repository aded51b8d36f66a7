"""The module `keras`, checked: the layer needs Keras 3, and TensorFlow under it."""

from __future__ import annotations

import importlib
from typing import Any

from hubdist.errors import ConfigError
from hubdist.loading import import_tensorflow


def import_keras() -> Any:
    """The module `keras`.

    Raises:
        ConfigError: Keras or TensorFlow cannot be imported, this Keras is older than 3, or its backend is not
            TensorFlow.
    """
    import_tensorflow()
    try:
        keras = importlib.import_module("keras")
    except ImportError as error:
        raise ConfigError(
            f"Keras cannot be imported in this process: {error}", advice="Run: pip install 'keras>=3' on every node."
        ) from error
    version = str(keras.__version__)
    if int(version.partition(".")[0]) < 3:
        raise ConfigError(
            f"HubLayer is a layer of Keras 3, and this process has Keras {version}",
            advice="Run: pip install 'keras>=3', or use tensorflow_hub's KerasLayer with tf_keras.",
        )
    if keras.backend.backend() != "tensorflow":
        raise ConfigError(
            f"HubLayer needs TensorFlow under Keras, and this process has {keras.backend.backend()}",
            advice="Set KERAS_BACKEND=tensorflow in the environment before Keras is imported.",
        )
    return keras
