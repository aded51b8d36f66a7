"""What makes two loads equal, and the loaded models of one process."""

from __future__ import annotations

import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hubdist.errors import ConfigError
from hubdist.manifest import Digest
from hubdist.models.importing import import_tensorflow

_OPTIONS = (
    "allow_partial_checkpoint",
    "experimental_io_device",
    "experimental_load_function_aliases",
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
        device: The TensorFlow device to load under, as `tf.DeviceSpec` prints it; None takes the current one.
    """

    handle: str
    digest: Digest
    tags: tuple[str, ...] | None
    options: tuple[tuple[str, Any], ...]
    device: str | None = None

    @property
    def identity(self) -> tuple[Any, ...]:
        """Equal for loads that give the same model, by whatever handle."""
        return self.digest, self.tags, self.options, self.device


def load_key(
    handle: str, digest: Digest, tags: Sequence[str] | str | None, options: Any, device: str | None = None
) -> LoadKey:
    """The key of a load, from the arguments that `hub.load` takes and a device.

    Raises:
        ConfigError: The device cannot be understood.
    """
    if isinstance(tags, str):
        tags = (tags,)
    device = None if device is None else _device_name(device)
    return LoadKey(handle, digest, None if tags is None else tuple(sorted(tags)), _freeze(options), device)


def _freeze(options: Any) -> tuple[tuple[str, Any], ...]:
    if options is None:
        return ()
    values = {name: getattr(options, name, None) for name in _OPTIONS}
    plain = {name: getattr(value, "value", value) for name, value in values.items()}  # a policy is an enum
    return tuple(sorted((name, value) for name, value in plain.items() if value))


def _device_name(device: str) -> str:
    try:
        name = str(import_tensorflow().DeviceSpec.from_string(device).to_string())
    except (AttributeError, TypeError, ValueError):
        name = ""
    if not name:
        raise ConfigError(
            f"{device!r} is no TensorFlow device",
            advice="Write it as tf.DeviceSpec does, for example /job:worker/task:0 or /device:GPU:0.",
        )
    return name


class LoadedModels:
    """The loaded models of one process: the least recently used go when there are more than `max_loaded`.

    Threads that load the same model at once share one load; loads of different models run side by side. A model that
    was loaded under a `tf.distribute` strategy or a `tf.device` is returned under that same one only, for its
    variables live there.
    """

    def __init__(self, max_loaded: int) -> None:
        self._max_loaded = max_loaded
        self._guard = threading.Lock()
        self._models: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._loading: dict[tuple[Any, ...], threading.Lock] = {}

    def find(self, key: LoadKey) -> Any | None:
        """The loaded model, or None."""
        return self._find((*key.identity, *_scope()))

    def get(self, key: LoadKey, load: Callable[[], Any], *, fresh: bool = False) -> Any:
        """The loaded model, or what `load` returns; `fresh` loads anew and keeps the new one."""
        identity = (*key.identity, *_scope())
        with self._guard:
            loading = self._loading.setdefault(identity, threading.Lock())
        with loading:
            model = None if fresh else self._find(identity)
            if model is None:
                model = load()
                with self._guard:
                    self._models[identity] = model
                    self._models.move_to_end(identity)
                    while len(self._models) > self._max_loaded:
                        self._models.popitem(last=False)
        return model

    def clear(self) -> None:
        """Forget all loaded models; those that are in use elsewhere live on."""
        with self._guard:
            self._models.clear()

    def _find(self, identity: tuple[Any, ...]) -> Any | None:
        with self._guard:
            if identity in self._models:
                self._models.move_to_end(identity)
                return self._models[identity]
        return None


def _scope() -> tuple[Any, str]:
    """The strategy and the device that a load in this thread would happen under; does not import tensorflow.

    A strategy is told by a weak reference, which is equal to none but those to the same object.
    """
    strategies = sys.modules.get("tensorflow.python.distribute.distribute_lib")
    has_strategy = getattr(strategies, "has_strategy", None)  # None while another thread imports tensorflow
    context = getattr(sys.modules.get("tensorflow.python.eager.context"), "context", None)
    if strategies is None or has_strategy is None or context is None:
        return None, ""
    strategy = weakref.ref(strategies.get_strategy()) if has_strategy() else None
    return strategy, context().device_name or ""
