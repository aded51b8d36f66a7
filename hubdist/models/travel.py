"""By-handle pickling: the pickle of a loaded model is its key, and it loads itself where it is unpickled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hubdist.models.keys import LoadKey


def let_travel(model: Any, key: LoadKey, revive: Callable[[LoadKey], Any]) -> None:
    """Give the object's class a `__reduce_ex__`, in a class of its own: TF1 objects share theirs with others."""
    kind = type(model)

    def reduce(_model: Any, _protocol: int) -> tuple[Any, ...]:
        return revive, (key,)

    model.__class__ = type(kind.__name__, (kind,), {"__reduce_ex__": reduce, "__module__": kind.__module__})
