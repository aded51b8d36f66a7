"""Snapshot -> loaded SavedModel that can travel; the only home of tensorflow.

A loaded model cannot be pickled by itself. Here it gets a way to travel: its pickle is the handle, the digest and the
arguments of its load, and where it is unpickled it loads itself again from that node's store.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import importlib.util
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hubdist.errors import ConfigError, NotAModelError
from hubdist.manifest import Digest
from hubdist.savedmodel import ModelKind, model_kind
from hubdist.snapshot import Snapshot

_OPTIONS = (
    "allow_partial_checkpoint",
    "experimental_io_device",
    "experimental_skip_checkpoint",
    "experimental_variable_policy",
)
"""The fields of `tf.saved_model.LoadOptions`, tensorflow 2.21.0."""


@dataclass(frozen=True, slots=True)
class LoadKey:
    """What makes two loads equal.

    Attributes:
        handle: The handle without secrets; tells a person what it is, and a later job where to look.
        digest: The model.
        tags: The MetaGraph's tags; None leaves the choice to TensorFlow.
        options: Fields of `tf.saved_model.LoadOptions` as sorted pairs; empty for none.
    """

    handle: str
    digest: Digest
    tags: tuple[str, ...] | None
    options: tuple[tuple[str, Any], ...]

    @property
    def identity(self) -> tuple[Any, ...]:
        """Equal for loads that give the same model, by whatever handle."""
        return self.digest, self.tags, self.options


def load_key(handle: str, digest: Digest, tags: Sequence[str] | str | None, options: Any) -> LoadKey:
    """The key of a load, from the arguments that `hub.load` takes."""
    if isinstance(tags, str):
        tags = (tags,)
    return LoadKey(handle, digest, None if tags is None else tuple(sorted(tags)), _freeze(options))


def _freeze(options: Any) -> tuple[tuple[str, Any], ...]:
    if options is None:
        return ()
    values = {name: getattr(options, name, None) for name in _OPTIONS}
    plain = {name: getattr(value, "value", value) for name, value in values.items()}  # a policy is an enum
    return tuple(sorted((name, value) for name, value in plain.items() if value))


class LoadedModels:
    """The loaded models of one process: the least recently used go when there are more than `max_loaded`.

    Threads that load the same model at once share one load; loads of different models run side by side.
    """

    def __init__(self, max_loaded: int) -> None:
        self._max_loaded = max_loaded
        self._guard = threading.Lock()
        self._models: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._loading: dict[tuple[Any, ...], threading.Lock] = {}

    def find(self, key: LoadKey) -> Any | None:
        """The loaded model, or None."""
        with self._guard:
            if key.identity in self._models:
                self._models.move_to_end(key.identity)
                return self._models[key.identity]
        return None

    def get(self, key: LoadKey, load: Callable[[], Any], *, fresh: bool = False) -> Any:
        """The loaded model, or what `load` returns; `fresh` loads anew and keeps the new one."""
        with self._guard:
            loading = self._loading.setdefault(key.identity, threading.Lock())
        with loading:
            model = None if fresh else self.find(key)
            if model is None:
                model = load()
                with self._guard:
                    self._models[key.identity] = model
                    self._models.move_to_end(key.identity)
                    while len(self._models) > self._max_loaded:
                        self._models.popitem(last=False)
        return model

    def clear(self) -> None:
        """Forget all loaded models; those that are in use elsewhere live on."""
        with self._guard:
            self._models.clear()


def open_model(snapshot: Snapshot, key: LoadKey, revive: Callable[[LoadKey], Any]) -> Any:
    """Load the SavedModel or TF1 hub module in a snapshot, as `hub.load` does.

    Source: tensorflow_hub 0.16.1, `module_v2.py`: `tags` defaults to `[]` for TF1 hub modules, and the object says
    by `_is_hub_module_v1` which of the two it is.

    Args:
        snapshot: Where the model lies; it stays in use as long as the loaded object lives.
        key: Tags and options.
        revive: The module-level function that a pickle of the object calls with `key` where it is unpickled.

    Raises:
        NotAModelError: The directory holds other files.
    """
    manifest = snapshot.manifest
    kind = model_kind([entry.path for entry in manifest.entries])
    if kind is ModelKind.OTHER:
        found = ", ".join(entry.path for entry in manifest.entries[:5])
        raise NotAModelError(
            f"this is no SavedModel: of saved_model.pb and saved_model.pbtxt none is among its"
            f" {len(manifest.entries)} files ({found}{', ...' if len(manifest.entries) > 5 else ''})",
            handle=key.handle,
            advice="hubdist.resolve(handle) gives the directory for other frameworks.",
        )
    tensorflow = _tensorflow()
    tags = list(key.tags) if key.tags is not None else ([] if kind is ModelKind.HUB_MODULE else None)
    options = tensorflow.saved_model.LoadOptions(**dict(key.options)) if key.options else None
    load = functools.partial(tensorflow.saved_model.load, str(snapshot.path), tags=tags, options=options)
    with _garbage_collection_paused():
        try:
            model = load()
        except AttributeError as error:
            if "add_slot" not in str(error):
                raise
            with _keras2_optimizers():
                model = load()
    model._is_hub_module_v1 = kind is ModelKind.HUB_MODULE
    _let_travel(model, key, snapshot, revive)
    return model


def _tensorflow() -> Any:
    try:
        return importlib.import_module("tensorflow")
    except ImportError as error:
        raise ConfigError(
            f"TensorFlow cannot be imported in this process: {error}",
            advice="Run: pip install tensorflow (or tensorflow-cpu, tensorflow-tpu) on every node.",
        ) from error


def _let_travel(model: Any, key: LoadKey, snapshot: Snapshot, revive: Callable[[LoadKey], Any]) -> None:
    """Give the object's class a `__reduce_ex__`, in a class of its own: TF1 objects share theirs with others.

    The object keeps the snapshot in use too, for functions may still read its assets.
    """
    kind = type(model)

    def reduce(_model: Any, _protocol: int) -> tuple[Any, ...]:
        return revive, (key,)

    fields = {"__reduce_ex__": reduce, "__module__": kind.__module__, "_hubdist_snapshot": snapshot}
    model.__class__ = type(kind.__name__, (kind,), fields)


_registering = threading.Lock()


@contextlib.contextmanager
def _keras2_optimizers() -> Iterator[None]:
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
            del types._REVIVED_TYPE_REGISTRY["optimizer"]


_switch = threading.Lock()
_pauses = 0
_was_enabled = False


@contextlib.contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Importing a graph makes many objects that stay; looking for garbage among them costs about a tenth of a load."""
    global _pauses, _was_enabled  # noqa: PLW0603 - the interpreter has one collector
    with _switch:
        if _pauses == 0:
            _was_enabled = gc.isenabled()
            gc.disable()
        _pauses += 1
    try:
        yield
    finally:
        with _switch:
            _pauses -= 1
            if _pauses == 0 and _was_enabled:
                gc.enable()
