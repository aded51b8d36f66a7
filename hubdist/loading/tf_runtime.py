"""TensorFlow in this process: import it when the first model is loaded and not before, and call its loader well.

Processes that were forked after TensorFlow had begun to work get an error instead of a hang. A fork does not copy
TensorFlow's threads, so the first op that needs one would wait for ever in the child. A process that imported
TensorFlow before the fork, but had run no op, is fine: TensorFlow works in its child.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import importlib.util
import os
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from hubdist.errors import ConfigError
from hubdist.loading.state.parts import set_class

_collector = threading.Lock()
_pauses = 0
_was_enabled = False
_keras2_types = threading.Lock()

_living: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
"""Every loaded model in this process, and every part of one that a user may hold."""

_forked = False


def import_tensorflow() -> Any:
    """The module `tensorflow`.

    Raises:
        ConfigError: TensorFlow is not installed, cannot be imported, or cannot work in this forked process.
    """
    check_fork()
    try:
        with gc_paused():
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

    The import of TensorFlow, and of a graph, makes many objects, and all of them stay. To search them for garbage takes
    a fifth of the time of TensorFlow's import and a tenth of a load's.
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


def remember(part: Any) -> None:
    """Note a loaded model, or a part of one, so that it becomes unusable in forked children of this process."""
    _watch()
    # By id, and not in a WeakSet: a part may compare by value, or have no hash.
    _living[id(part)] = part


def check_fork() -> None:
    """Check that TensorFlow can work in this process.

    Raises:
        ConfigError: This process was forked from one in which TensorFlow had worked.
    """
    _watch()
    if _forked:
        _refuse()


@functools.cache
def _watch() -> None:
    os.register_at_fork(after_in_child=_disable_models)


def _disable_models() -> None:
    """Make all models unusable; Python calls this in the child right after the fork."""
    global _forked  # noqa: PLW0603 - a process is forked or it is not
    context = getattr(sys.modules.get("tensorflow.python.eager.context"), "_context", None)
    # TensorFlow starts its threads with the context's handle; before that a fork does no harm.
    if getattr(context, "_context_handle", None) is None:
        return
    _forked = True
    for part in list(_living.values()):
        set_class(part, ForkedMap if isinstance(part, Mapping) else Forked)


def _refuse(*_args: object, **_kwargs: object) -> NoReturn:
    raise ConfigError(
        "this process was forked from one in which TensorFlow had already worked, and TensorFlow would hang here",
        advice='Start processes with multiprocessing.get_context("spawn"), or fork before the first model is loaded.',
    )


class Forked:
    """The class of a loaded model in a forked process: every use raises an error, but Python can still inspect it."""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__") and name != "__call__":
            return object.__getattribute__(self, name)
        _refuse()

    __setattr__ = __call__ = __getitem__ = __reduce_ex__ = __deepcopy__ = __copy__ = _refuse


class ForkedMap(Mapping[str, Any], Forked):
    """The class of a model's signatures in a forked process; Python lets them take a class of the same layout only."""

    __getattribute__ = Forked.__getattribute__
    __setattr__ = __call__ = __getitem__ = __reduce_ex__ = __deepcopy__ = __copy__ = _refuse
    __len__ = __iter__ = __contains__ = _refuse
