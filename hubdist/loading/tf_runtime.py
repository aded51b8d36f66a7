"""TensorFlow in this process: import it when the first model is loaded and not before, and call its loader well."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import importlib.util
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hubdist.errors import ConfigError
from hubdist.loading.forks import check_fork

_collector = threading.Lock()
_pauses = 0
_was_enabled = False
_keras2_types = threading.Lock()


def import_tensorflow() -> Any:
    """The module `tensorflow`.

    Raises:
        ConfigError: TensorFlow is not installed, cannot be imported, or cannot work in this forked process.
    """
    check_fork()
    try:
        return importlib.import_module("tensorflow")
    except ImportError as error:
        raise ConfigError(
            f"TensorFlow cannot be imported in this process: {error}",
            advice="Run: pip install tensorflow (or tensorflow-cpu, tensorflow-tpu) on every node.",
        ) from error


def import_modules(names: Sequence[str]) -> None:
    """Import the modules that register the operations of the user's models.

    Raises:
        ConfigError: A module cannot be imported; the error names the module.
    """
    for user_module in names:
        try:
            importlib.import_module(user_module)
        except ImportError as error:
            raise ConfigError(
                f"the module {user_module!r}, which `imports` names, cannot be imported in this process: {error}",
                advice="Install it on every node, or name its package in Ray's runtime_env.",
            ) from error


def load_saved_model(tensorflow: Any, path: str, tags: Sequence[str] | None, options: Mapping[str, Any]) -> Any:
    """Call `tf.saved_model.load`; a model that Keras 2 saved together with its optimizer loads too.

    Args:
        tensorflow: The module `tensorflow`.
        path: The model's directory; any path that TensorFlow opens.
        tags: The tags of the MetaGraph; None for the only one.
        options: Fields of `tf.saved_model.LoadOptions`.
    """
    load_options = tensorflow.saved_model.LoadOptions(**options) if options else None
    load = functools.partial(tensorflow.saved_model.load, path, tags=tags, options=load_options)
    with gc_paused():
        try:
            return load()
        except AttributeError as error:
            if "add_slot" not in str(error):
                raise
            # Only a model with the state of a Keras 2 optimizer fails in this way.
            with _keras2_optimizers():
                return load()


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Pause garbage collection in this process, until the last of the threads that paused it is done.

    The import of a graph makes many objects, and all of them stay. To search them for garbage takes about a tenth of
    the time of a load.
    """
    global _pauses, _was_enabled  # noqa: PLW0603 - the interpreter has one collector
    with _collector:
        if _pauses == 0:
            _was_enabled = gc.isenabled()
            gc.disable()
        _pauses += 1
    try:
        yield
    finally:
        with _collector:
            _pauses -= 1
            if _pauses == 0 and _was_enabled:
                gc.enable()


@contextlib.contextmanager
def _keras2_optimizers() -> Iterator[None]:
    """Let TensorFlow read, in a process with Keras 3, the optimizer's state that Keras 2 saved with a model.

    tf_keras registers the type "optimizer" when it is imported. Where tf_keras is not installed, the optimizer that
    TensorFlow still carries for restoring takes its place, but for the duration of the load only: the registry accepts
    each type once, and a later import of tf_keras must find the name free.
    Source: tf_keras 2.21.0, `optimizers/legacy/optimizer_v2.py`; tensorflow 2.21.0,
    `python/keras/optimizer_v2/optimizer_v2.py`, where the same type is named "tf_deprecated_optimizer".
    """
    if importlib.util.find_spec("tf_keras") is not None:
        importlib.import_module("tf_keras")
        yield
        return
    types = importlib.import_module("tensorflow.python.saved_model.revived_types")
    optimizers = importlib.import_module("tensorflow.python.keras.optimizer_v2.optimizer_v2")
    with _keras2_types:
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
            # The registry has no public way to take a type back. A later save looks it up in the first list.
            types._TYPE_IDENTIFIERS.remove("optimizer")
            del types._REVIVED_TYPE_REGISTRY["optimizer"]
