"""One module for each kind of handle; each fetches a model from its origin into a sink.

An origin is opened for one handle by `open_origin` and read by one process, on the coordinator's side.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from hubdist.config import Config
from hubdist.endings import Ending, ending_of
from hubdist.handle import Handle, Kind, other_archive_error
from hubdist.listing import check_versions
from hubdist.source import FileSink, copy_source


class Origin(Protocol):
    """Where the bytes of one handle first come from."""

    def fetch(self, sink: FileSink) -> None:
        """Write every file of the model into `sink`.

        Raises:
            ResolveError: The origin says no.
            TransferError: The origin failed although every retry was made.
            IntegrityError: What came is damaged or unsafe.
        """
        ...


def open_origin(handle: Handle, config: Config, scratch: Path) -> Origin:
    """The origin of a handle.

    Args:
        handle: Any handle.
        config: Deadlines, retries, the user's own origins.
        scratch: A directory on the store's disk for temporary files; the caller removes it.

    Raises:
        HandleError: The package that this kind needs is not installed, or a path is neither a file nor a directory.
        ModelNotFoundError, AccessDeniedError: Of a path; others are found out later.
    """
    if handle.kind is Kind.CUSTOM:
        return _Custom(handle, config)
    if handle.kind is Kind.KAGGLE:
        from hubdist.origins.kaggle import KaggleOrigin

        return KaggleOrigin(handle, config, scratch)
    if handle.kind is Kind.TREE:
        from hubdist.origins.objects import ObjectsOrigin

        return ObjectsOrigin(handle, config)
    if handle.kind is Kind.LOCAL:
        from hubdist.origins.local import LocalOrigin, is_directory

        if is_directory(Path(handle.text)):
            return LocalOrigin(Path(handle.text), one_model=True)
    ending = ending_of(handle.text) if handle.kind is Kind.LOCAL else None
    if ending is Ending.OTHER_ARCHIVE:
        raise other_archive_error(handle.public)
    if handle.kind is Kind.FILE or ending not in (None, Ending.ARCHIVE):
        from hubdist.origins.files import FileOrigin

        return FileOrigin(handle, config)
    from hubdist.origins.archives import ArchiveOrigin

    return ArchiveOrigin(handle, config, scratch)


class _Custom:
    """A `Source` that the user registered for a scheme."""

    def __init__(self, handle: Handle, config: Config) -> None:
        self._handle = handle
        self._make = config.origins[handle.scheme]

    def fetch(self, sink: FileSink) -> None:
        source = self._make(self._handle.text)
        files = source.entries()
        check_versions([file.path for file in files], self._handle.public)
        copy_source(source, sink, files)
