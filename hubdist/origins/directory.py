"""Directories as origins, on the driver's disk and on object storage alike, and single objects as streams."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Self

from hubdist.errors import AccessDeniedError, HubdistError, ModelNotFoundError
from hubdist.model.handle import Handle
from hubdist.model.listing import check_versions
from hubdist.model.source import READ_BYTES, ByteStream, FileSink
from hubdist.origins.base import Origin, changed_error
from hubdist.remote.mounted_tree import MountedTree
from hubdist.remote.tree import StoredObject, Tree
from hubdist.system.deadline import Deadline, Deadlines


class DirectoryOrigin(Origin):
    """All files of a directory. In a local directory, symbolic links are followed.

    The directory is listed again after the copy: a file that was replaced or written to meanwhile is an error, so
    the copy is never a mix.

    Args:
        tree: The directory; closed by `fetch`.
        deadline: When everything must have been read.
        one_model: Refuse a directory of several versions of a model, before anything is copied.
    """

    def __init__(self, tree: Tree, deadline: Deadline, *, one_model: bool = True) -> None:
        super().__init__(tree.redacted, deadline)
        self._tree = tree
        self._one_model = one_model

    @classmethod
    def at_path(cls, root: Path, deadline: Deadline, *, one_model: bool = True) -> Self:
        """A directory of the driver's disk.

        Args:
            root: The directory.
            deadline: When everything must have been read.
            one_model: Refuse a directory of several versions of a model, before anything is copied.
        """
        return cls(MountedTree(root, on_driver=True), deadline, one_model=one_model)

    def _fetch(self, sink: FileSink) -> None:
        with self._tree:
            before = self._chosen()
            if self._one_model:
                check_versions(before.keys(), self.redacted)
            for path, stored in before.items():
                with sink.open_file(path) as writer, self._tree.open_stream(self._place(path), stored) as content:
                    while data := content.read(READ_BYTES):
                        writer.write(data)
            if _evidence(self._chosen()) != _evidence(before):
                raise changed_error(self.redacted)

    def _chosen(self) -> dict[str, StoredObject]:
        return {path: stored for path, stored in self._list().items() if self.selection.accepts(path)}

    def _list(self) -> dict[str, StoredObject]:
        return self._tree.objects()

    def _place(self, path: str) -> str:
        """Where in the tree a file of the model is."""
        return path


class ObjectsOrigin(DirectoryOrigin):
    """A directory on object storage, or one object as a directory with one file.

    Args:
        handle: A TREE handle.
        deadlines: Timeouts and retries of each call.
        deadline: When everything must have been read.
        max_bytes: Most bytes of the content of one object that is stored compressed; None: no limit.
    """

    def __init__(self, handle: Handle, deadlines: Deadlines, deadline: Deadline, *, max_bytes: int | None) -> None:
        from hubdist.remote.fsspec_tree import RemoteTree  # loads aiohttp, which other origins do not need

        self._objects = RemoteTree(handle, deadlines, deadline, max_bytes=max_bytes)
        super().__init__(self._objects, deadline)
        self._name = handle.text.rpartition("/")[2]
        self._is_file = False

    def _list(self) -> dict[str, StoredObject]:
        refused: AccessDeniedError | None = None
        try:
            found = self._objects.objects()
            if found:
                return found
        except ModelNotFoundError:  # some storage says so of a file too
            pass
        except AccessDeniedError as error:  # a user who may read a file may not always list its folder
            refused = error
        try:
            stored = self._objects.look()
        except HubdistError as error:
            if refused is not None or not isinstance(error, ModelNotFoundError):
                raise refused or error from None
            raise ModelNotFoundError(
                f"there is neither a file nor a directory with files at {self.redacted}", advice=error.advice
            ) from None
        self._is_file = True
        return {self._name: stored}

    def _place(self, path: str) -> str:
        return "" if self._is_file else path


def is_object(handle: Handle, deadlines: Deadlines) -> bool:
    """True if a TREE handle is known to name one object; False for a directory, and where this cannot be seen.

    Args:
        handle: A TREE handle.
        deadlines: Timeouts; there are no retries.
    """
    from hubdist.remote.fsspec_tree import RemoteTree

    try:
        with RemoteTree(handle, replace(deadlines, retries=0)) as tree:
            return not tree.objects() and tree.look().file.size >= 0
    except HubdistError:
        return False


@contextlib.contextmanager
def open_object(
    handle: Handle, deadlines: Deadlines, deadline: Deadline, *, max_bytes: int | None
) -> Iterator[ByteStream]:
    """One object as a stream, such as an archive.

    The object is looked at again when the block ends: one that was replaced meanwhile is an error, so the bytes are
    never a mix.

    Args:
        handle: An ARCHIVE handle on object storage.
        deadlines: Timeouts and retries of each call.
        deadline: When everything must have been read.
        max_bytes: Most bytes of the content if the object is stored compressed; None: no limit.

    Raises:
        ModelNotFoundError: No object is there.
        OriginError: The object changed while the block ran.
        ResolveError, TransferError: The object cannot be read.
    """
    from hubdist.remote.fsspec_tree import RemoteTree

    with RemoteTree(handle, deadlines, deadline, max_bytes=max_bytes) as tree:
        before = tree.look()
        with tree.open_stream("", before) as content:
            yield content
        if tree.look() != before:
            raise changed_error(tree.redacted)


def _evidence(objects: Mapping[str, StoredObject]) -> dict[str, tuple[StoredObject, str]]:
    """The listing with the times that a writer cannot set back, which are not part of equality."""
    return {path: (stored, stored.file.changed) for path, stored in objects.items()}
