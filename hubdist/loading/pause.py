"""Garbage collection, paused while a model loads."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

_switch = threading.Lock()
_pauses = 0
_was_enabled = False


@contextlib.contextmanager
def garbage_collection_paused() -> Iterator[None]:
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
