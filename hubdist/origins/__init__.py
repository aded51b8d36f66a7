"""One module for each kind of handle; each fetches a model from its origin into a sink.

`open_origin` opens the origin of one handle. One process, on the coordinator's side, reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hubdist.model.access import OriginAccess
from hubdist.model.handle import Handle, Kind, other_archive_error
from hubdist.model.paths import Ending, ending_of
from hubdist.model.source import Source
from hubdist.origins.base import Origin
from hubdist.store.store import Store
from hubdist.system.deadline import Deadline, Deadlines
from hubdist.system.disk_space import Scratch, SpaceBudget
from hubdist.system.foreign import call_foreign

__all__ = ["Origin", "OriginSettings", "keeps_folder", "open_origin"]


@dataclass(frozen=True, slots=True)
class OriginSettings:
    """How origins are read.

    Attributes:
        deadlines: Timeouts and retries.
        max_bytes: Most bytes of one model, and of what is downloaded for it; None: no limit.
        custom: Scheme -> function that makes a `Source` from a handle; for the user's own schemes.
        find_access: Returns the headers and logins for servers of hubs and archives; called for each read, because
            they may change.
        store: Files that this store has need not be read from a hub that tells their digests; None reads all.
    """

    deadlines: Deadlines
    max_bytes: int | None = None
    custom: Mapping[str, Callable[[str], Source]] = field(default_factory=dict)
    find_access: Callable[[], OriginAccess] = OriginAccess
    store: Store | None = None


def open_origin(
    handle: Handle, settings: OriginSettings, scratch: Scratch | Path, deadline: Deadline | None = None
) -> Origin:
    """Open the origin of a handle.

    Args:
        handle: Any handle.
        settings: Deadlines, limits, and the user's own schemes.
        scratch: A directory on the store's disk for temporary files, with the budget that counts their bytes; the
            caller removes the directory. For a path alone, `max_bytes` and the disk's free space are the budget.
        deadline: When everything must have been read; None is `total_s` from now.

    Raises:
        HandleError: The package that this kind needs is not installed, or a path is neither a file nor a directory.
        ModelNotFoundError, AccessDeniedError: A path does not exist or may not be read. Other origins find this out
            when they fetch.
        ResolveError, TransferError: The storage of a TREE handle cannot be opened.
    """
    until = Deadline(settings.deadlines.total_s) if deadline is None else deadline
    whole = handle.base if handle.kind is Kind.SELECTION else handle
    assert whole is not None
    origin = call_foreign(lambda: _open(whole, settings, scratch, until), handle.redacted)
    origin.selection = handle.selection
    return origin


def keeps_folder(handle: Handle) -> bool:
    """True if a folder around a SavedModel stays, because callers know the paths: of repositories, or chosen ones."""
    return handle.kind in (Kind.HUGGING_FACE, Kind.KAGGLE, Kind.SELECTION)


def _open(handle: Handle, settings: OriginSettings, scratch: Scratch | Path, deadline: Deadline) -> Origin:
    deadlines, max_bytes = settings.deadlines, settings.max_bytes
    if handle.kind is Kind.CUSTOM:
        from hubdist.origins.base import CustomOrigin

        return CustomOrigin(handle, settings.custom[handle.scheme], deadline)
    if handle.kind is Kind.TREE:
        from hubdist.origins.directory import ObjectsOrigin

        return ObjectsOrigin(handle, deadlines, deadline, max_bytes=max_bytes)
    room = scratch if isinstance(scratch, Scratch) else Scratch(scratch, SpaceBudget(scratch, max_bytes))
    if handle.kind in (Kind.KAGGLE, Kind.HUGGING_FACE):
        return _open_with_library(handle, settings, room, deadline)
    if handle.kind is Kind.LOCAL:
        from hubdist.origins.directory import DirectoryOrigin
        from hubdist.origins.local import is_directory

        if is_directory(Path(handle.text)):
            return DirectoryOrigin.at_path(Path(handle.text), deadline)
    ending = ending_of(handle.text) if handle.kind is Kind.LOCAL else None
    if ending is Ending.OTHER_ARCHIVE:
        raise other_archive_error(handle.redacted)
    if handle.kind is Kind.FILE or ending not in (None, Ending.ARCHIVE):
        from hubdist.origins.local import FileOrigin

        return FileOrigin(handle, deadlines, deadline, access=settings.find_access())
    from hubdist.origins.archive_origin import ArchiveOrigin

    access = settings.find_access()
    return ArchiveOrigin(handle, deadlines, room, deadline, max_bytes=max_bytes, access=access)


def _open_with_library(handle: Handle, settings: OriginSettings, room: Scratch, deadline: Deadline) -> Origin:
    if handle.kind is Kind.KAGGLE:
        from hubdist.origins.kaggle import KaggleOrigin

        return KaggleOrigin(handle, settings.deadlines, room, deadline)
    from hubdist.origins.huggingface import HuggingFaceOrigin

    return HuggingFaceOrigin(handle, settings.deadlines, room, deadline, settings.store)
