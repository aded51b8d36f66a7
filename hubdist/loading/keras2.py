"""Models that Keras 2 saved together with their optimizer, in a process that has Keras 3."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import threading
from collections.abc import Iterator

_registering = threading.Lock()


@contextlib.contextmanager
def keras2_optimizers() -> Iterator[None]:
    """Let TensorFlow read models that were saved by Keras 2 together with their optimizer's state.

    tf_keras registers the type "optimizer" when it is imported. Where it is not installed, the optimizer that
    TensorFlow still carries for restoring stands in; for the duration of the load only, for the registry takes a type
    once, and an import of tf_keras later in the process must find it free.
    Source: tf_keras 2.21.0, `optimizers/legacy/optimizer_v2.py`; tensorflow 2.21.0,
    `python/keras/optimizer_v2/optimizer_v2.py`, where the same type is named "tf_deprecated_optimizer".
    """
    if importlib.util.find_spec("tf_keras") is not None:
        importlib.import_module("tf_keras")
        yield
        return
    types = importlib.import_module("tensorflow.python.saved_model.revived_types")
    optimizers = importlib.import_module("tensorflow.python.keras.optimizer_v2.optimizer_v2")
    with _registering:
        types.register_revived_type(
            "optimizer",
            lambda thing: isinstance(thing, optimizers.OptimizerV2),
            versions=[
                types.VersionedTypeRegistration(
                    object_factory=lambda _: optimizers.RestoredOptimizer(),
                    version=1,
                    min_producer_version=1,
                    min_consumer_version=1,
                    setter=optimizers.RestoredOptimizer._set_hyper,
                )
            ],
        )
        try:
            yield
        finally:
            types._TYPE_IDENTIFIERS.remove("optimizer")  # what a later save looks up in the registry
            del types._REVIVED_TYPE_REGISTRY["optimizer"]
