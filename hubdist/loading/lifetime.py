"""How long a loaded model needs its files."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any


class _Held:
    """Exists as long as something needs the files; every copy of what holds it holds the same one."""

    def __copy__(self) -> _Held:
        return self

    def __deepcopy__(self, _memo: object) -> _Held:
        return self


def hold_files(tensorflow: Any, model: Any, *releases: Callable[[], None]) -> None:
    """Call functions when a loaded model and all its functions that may read its assets are collected.

    A function can outlive the object it belongs to, and keeps the tensors with the paths of its assets.

    Args:
        tensorflow: The module.
        model: What `tf.saved_model.load` returned. Its fields hold the files, for another object may take them over.
        releases: Called by a finalizer, in any thread and at any moment; not at the end of the process.
    """
    held = _Held()
    for release in releases:
        weakref.finalize(held, release).atexit = False
    vars(model)["_hubdist_files"] = held
    if tensorflow.compat.v1.executing_eagerly_outside_functions():
        for node in tensorflow.train.TrackableView(model).descendants():
            if isinstance(node, tensorflow.saved_model.Asset):
                weakref.finalize(node.asset_path, _let_go, held).atexit = False


def _let_go(_held: _Held) -> None:
    """The finalizer ends with its arguments; the last one to do so ends what they hold."""
