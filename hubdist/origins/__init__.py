"""One module for each kind of handle; each fetches a model from its origin into a sink.

An origin is opened for one handle by `open_origin` and read by one process, on the coordinator's side.
"""

from __future__ import annotations

from pathlib import Path

from hubdist.config.schema import Config
from hubdist.model.handle import Handle, Kind, other_archive_error
from hubdist.model.suffixes import Ending, ending_of
from hubdist.origins.base import Origin
from hubdist.system.deadline import Deadline
from hubdist.system.disk_space import Scratch, SpaceBudget
from hubdist.system.foreign import call_foreign

__all__ = ["Origin", "open_origin"]


def open_origin(handle: Handle, config: Config, scratch: Scratch | Path, deadline: Deadline | None = None) -> Origin:
    """The origin of a handle.

    Args:
        handle: Any handle.
        config: Deadlines, retries, the user's own origins.
        scratch: A directory on the store's disk for temporary files, and what counts their bytes; the caller removes
            it. Of a path alone the bytes are counted against `max_bytes` and the disk's free space.
        deadline: When all of it must have been read; None is `timeout_s` from now.

    Raises:
        HandleError: The package that this kind needs is not installed, or a path is neither a file nor a directory.
        ModelNotFoundError, AccessDeniedError: Of a path; others are found out later.
        HubdistError: It cannot be opened.
    """
    until = Deadline(config.timeout_s) if deadline is None else deadline
    return call_foreign(lambda: _open(handle, config, scratch, until), handle.redacted)


def _open(handle: Handle, config: Config, scratch: Scratch | Path, deadline: Deadline) -> Origin:
    if handle.kind is Kind.CUSTOM:
        from hubdist.origins.custom import CustomOrigin

        return CustomOrigin(handle, config, deadline)
    if handle.kind is Kind.TREE:
        from hubdist.origins.objects import ObjectsOrigin

        return ObjectsOrigin(handle, config, deadline)
    room = scratch if isinstance(scratch, Scratch) else Scratch(scratch, SpaceBudget(scratch, config.max_store_bytes))
    if handle.kind is Kind.KAGGLE:
        from hubdist.origins.kaggle import KaggleOrigin

        return KaggleOrigin(handle, config, room, deadline)
    if handle.kind is Kind.LOCAL:
        from hubdist.origins.local import LocalOrigin, is_directory

        if is_directory(Path(handle.text)):
            return LocalOrigin(Path(handle.text), deadline, one_model=True)
    ending = ending_of(handle.text) if handle.kind is Kind.LOCAL else None
    if ending is Ending.OTHER_ARCHIVE:
        raise other_archive_error(handle.redacted)
    if handle.kind is Kind.FILE or ending not in (None, Ending.ARCHIVE):
        from hubdist.origins.file_origin import FileOrigin

        return FileOrigin(handle, config, deadline)
    from hubdist.origins.archive_origin import ArchiveOrigin

    return ArchiveOrigin(handle, config, room, deadline)
