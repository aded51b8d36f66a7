"""The handle of a directory inside a model, for errors that tell users which of several directories they may mean."""

from __future__ import annotations

from hubdist.model.handle import TREE_SCHEMES
from hubdist.model.hub_urls import DEFAULT_PORTS
from hubdist.model.paths import Ending, ending_of
from hubdist.model.selection import SCHEME as SELECTION_SCHEME


def inner_handle(handle: str, directory: str) -> str | None:
    """The handle of a directory inside a model; None if no handle can name that directory.

    Args:
        handle: The text of the model's normalised handle.
        directory: The directory, below the model's root.
    """
    head, chain, base = handle.partition("::")
    if head.startswith(f"{SELECTION_SCHEME}://"):
        return inner_handle(base, directory)  # the patterns were written for paths below another root
    if chain:
        return f"{head}{'' if head.endswith('/') else '/'}{directory}::{base}"
    scheme, _, _ = handle.partition("://")
    path = handle.partition("?")[0] if scheme in DEFAULT_PORTS else handle
    if ending_of(path) is Ending.ARCHIVE:
        return f"{'zip' if path.lower().endswith('.zip') else 'tar'}://{directory}::{handle}"
    return f"{handle}/{directory}" if scheme == "hf" or scheme in TREE_SCHEMES or handle.startswith("/") else None
