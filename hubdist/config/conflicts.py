"""Settings that contradict each other, or have no effect together; they are refused, so that nobody relies on them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from hubdist.config.keys import Keys
from hubdist.config.model_settings import listed_handle
from hubdist.errors import ConfigError
from hubdist.model.paths import expand_home


def find_contradiction(settings: Keys) -> tuple[str, str] | None:
    """The first key that cannot be meant as it is, and why, as a clause; None if all agree."""
    return next(_contradictions(settings), None)


def _contradictions(settings: Keys) -> Iterator[tuple[str, str]]:
    handles = [listed_handle(model.handle) for model in settings.models]
    keys: set[str] = set()
    for handle in handles:
        if handle.key in keys:
            yield "models", f"{handle.redacted} is listed twice; say all of a model in one place"
        keys.add(handle.key)
    if settings.shared_cache is None:
        if settings.shared_cache_read_only:
            yield "shared_cache_read_only", "there is no shared_cache"
        if settings.route == "shared":
            yield "route", "shared has no effect without a shared_cache"
        for model, handle in zip(settings.models, handles, strict=True):
            if model.route == "shared":
                yield "models", f"the route shared of {handle.redacted} has no effect without a shared_cache"
    elif _nested(settings.store, settings.shared_cache):
        yield "shared_cache", "it and the store must not be one directory, nor one in the other"
    if settings.max_loaded_models == 0 and settings.max_loaded_bytes:
        yield "max_loaded_bytes", "max_loaded_models is 0, so no model is kept"


def _nested(store: str, shared_cache: str) -> bool:
    """True if two directories are one, or one is in the other.

    Only the names are compared: a mount may hang, so neither directory is looked at.
    """
    if "://" in shared_cache:
        return False
    with contextlib.suppress(ConfigError):  # there is no home here, perhaps on another node
        store = str(expand_home(store, "store"))
    # A placeholder is a name that no directory of the user's has.
    one, other = (Path(os.path.normpath(path)) for path in (store.format(node_id="\0"), shared_cache))
    return one.is_relative_to(other) or other.is_relative_to(one)
