"""Whether a path of the driver has changed since it was read, told from a few names and times."""

from __future__ import annotations

import os
from dataclasses import dataclass

from hubdist.model.handle import Handle, Kind
from hubdist.origins.local import file_version

_TELLING = ("", "saved_model.pb", "variables/variables.index")
"""What TensorFlow writes when it saves a model again; the first is the path itself."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a path looked like. A look tells that something has changed, never that nothing has.

    Attributes:
        path: The path on the driver's node.
        versions: Of each of the names that tell; empty for one that is not there.
    """

    path: str
    versions: tuple[tuple[int, ...], ...]

    def has_changed(self) -> bool:
        """True if the path looks other now; in a process that sees the driver's disk."""
        return _versions(self.path) != self.versions


def look_at(handle: Handle) -> Look | None:
    """Look at what a handle names, if that is a path or inside of an archive at a path."""
    base = handle.base or handle
    return Look(base.text, _versions(base.text)) if base.kind is Kind.LOCAL else None


def _versions(path: str) -> tuple[tuple[int, ...], ...]:
    return tuple(_version(f"{path}/{name}" if name else path) for name in _TELLING)


def _version(path: str) -> tuple[int, ...]:
    try:
        return file_version(os.stat(path))  # noqa: PTH116 - paths as objects would take a fifth of a second load's time
    except OSError:
        return ()
