"""The cache of one process's loaded models, which hands a model out again while it is known to be unchanged."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hubdist.loading.load_key import LoadKey
from hubdist.loading.pickling import is_unchanged, state_of
from hubdist.loading.state.eager import EagerState
from hubdist.model.manifest import Digest

_COLLECT_BYTES = 32 << 20
"""A garbage collection takes some tenths of a second: fewer freed bytes than these are not worth one."""


@dataclass(slots=True)
class _Entry:
    """One loaded model.

    Attributes:
        model: Refers to the model weakly: while a user holds it, it can be shared with others.
        kept: The model itself, so that it stays although no user holds it; None once it had to make room.
        total_bytes: The size of its variables.
    """

    model: weakref.ref[Any]
    kept: Any
    total_bytes: int


class LoadedModels:
    """Hands out a loaded model again to whoever asks for an equal one, if the model is as it was published.

    A model that a user has changed belongs to that user: hubdist forgets it and loads anew. A model whose state hubdist
    cannot read (see `EagerState.unchanged`), or that is in a `tf.Graph`, is loaded anew each time.

    Models that no user holds stay for the next caller, within two limits. The model that was used last stays whatever
    its size, until another one is loaded.

    Threads that load the same model at once share one load; loads of different models run side by side. A model that
    was loaded under a `tf.distribute` strategy or a `tf.device` is returned under that same one only, because its
    variables live there.

    Args:
        max_loaded: The number of models to keep at most.
        max_bytes: The size of the models to keep at most while another one is loaded, in bytes.
    """

    def __init__(self, max_loaded: int, max_bytes: int) -> None:
        self._max_loaded = max_loaded
        self._max_bytes = max_bytes
        self._guard = threading.Lock()
        self._entries: OrderedDict[tuple[Any, ...], _Entry] = OrderedDict()
        self._loading: dict[tuple[Any, ...], threading.Lock] = {}

    def get(self, key: LoadKey, load: Callable[[], Any], *, fresh: bool = False) -> Any:
        """The loaded model if it is unchanged, or what `load` returns.

        Args:
            key: Which model, and how it is loaded.
            load: Loads the model.
            fresh: True loads anew in any case; later calls get the new object.
        """
        scope = _scope()
        if scope is None:
            return load()
        identity = (*key.identity, *scope)
        with self._guard:
            loading = self._loading.setdefault(identity, threading.Lock())
        with loading:
            model = None if fresh else self._find(identity)
            if model is None:
                self._make_room(identity)
                model = load()
                if not is_unchanged(model):  # nobody can tell, so it will not be handed out again
                    return model
            self._keep(identity, model)
        return model

    def __bool__(self) -> bool:
        """True if a model is kept or shared."""
        return bool(self._entries)

    def forget(self, *digests: Digest) -> bool:
        """Forget the loaded models of these digests; without digests, all. A model that a user holds lives on.

        Returns:
            True if there was such a model.
        """
        with self._guard:
            gone = [identity for identity in self._entries if not digests or identity[0] in digests]
            entries = [self._entries.pop(identity) for identity in gone]
        total_bytes = sum(entry.total_bytes for entry in entries)
        found = bool(entries)
        del entries
        if total_bytes >= _COLLECT_BYTES:
            gc.collect()
        return found

    def _find(self, identity: tuple[Any, ...]) -> Any | None:
        with self._guard:
            entry = self._entries.get(identity)
        model = None if entry is None else entry.model()
        if model is not None and is_unchanged(model):
            return model
        with self._guard:
            self._entries.pop(identity, None)
        return None

    def _keep(self, identity: tuple[Any, ...], model: Any) -> None:
        state = state_of(model)
        if self._max_loaded == 0 or not isinstance(state, EagerState):
            return
        with self._guard:
            entry = self._entries.setdefault(identity, _Entry(weakref.ref(model), model, state.total_bytes))
            entry.kept = model
            self._entries.move_to_end(identity)
            freed = self._over(self._max_loaded, None)
        del freed  # outside of the lock, because finalizers run when the last reference goes

    def _make_room(self, identity: tuple[Any, ...]) -> None:
        """Drop models for one that is about to be loaded.

        TensorFlow's graphs are reference cycles that hold the variables, so the memory is free only after a garbage
        collection. That takes some tenths of a second, as long as the load of a small model.
        """
        with self._guard:
            self._entries.pop(identity, None)
            freed = self._over(max(0, self._max_loaded - 1), self._max_bytes)
        total_bytes = sum(state_of(model).total_bytes for model in freed)
        del freed
        if total_bytes >= _COLLECT_BYTES:
            gc.collect()

    def _over(self, max_loaded: int, max_bytes: int | None) -> list[Any]:
        """Take out models, the least recently used first, until the others are within the limits."""
        for identity in [identity for identity, entry in self._entries.items() if entry.model() is None]:
            del self._entries[identity]
        kept = [entry for entry in self._entries.values() if entry.kept is not None]
        total_bytes = sum(entry.total_bytes for entry in kept)
        freed = []
        for number, entry in enumerate(kept):
            if len(kept) - number <= max_loaded and (max_bytes is None or total_bytes <= max_bytes):
                break
            freed.append(entry.kept)
            entry.kept = None
            total_bytes -= entry.total_bytes
        return freed


def _scope() -> tuple[Any, str] | None:
    """The strategy and the device that a load in this thread would happen under; None in a `tf.Graph`.

    Does not import tensorflow. A weak reference stands for a strategy: it equals only references to the same object,
    also after a new object has taken the same address.
    """
    strategies = sys.modules.get("tensorflow.python.distribute.distribute_lib")
    has_strategy = getattr(strategies, "has_strategy", None)  # None while another thread imports tensorflow
    context = getattr(sys.modules.get("tensorflow.python.eager.context"), "context", None)
    outside = getattr(sys.modules.get("tensorflow.python.framework.ops"), "executing_eagerly_outside_functions", None)
    if strategies is None or has_strategy is None or context is None or outside is None:
        return None, ""
    if not outside():
        return None
    strategy = weakref.ref(strategies.get_strategy()) if has_strategy() else None
    return strategy, context().device_name or ""
