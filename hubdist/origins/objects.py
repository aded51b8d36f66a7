"""Directories and files on object storage, by any fsspec file system that is allowed and installed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from hubdist.config.schema import Config
from hubdist.errors import AccessDeniedError, HubdistError, ModelNotFoundError, OriginError
from hubdist.model.handle import Handle
from hubdist.model.listing import check_versions
from hubdist.model.source import READ_BYTES, ByteStream, FileSink
from hubdist.origins.base import Origin
from hubdist.remote.compressed_objects import StoredObject
from hubdist.remote.fsspec_tree import RemoteTree
from hubdist.system.deadline import Deadline


class ObjectsOrigin(Origin):
    """A directory on object storage, or one object as a directory with one file.

    The listing is taken again after the copy: a file that was replaced or changed meanwhile is an error, never a mix.
    """

    def __init__(self, handle: Handle, config: Config, deadline: Deadline) -> None:
        super().__init__(handle.redacted, deadline)
        self._tree = RemoteTree(handle, config, deadline)
        self._name = handle.text.rpartition("/")[2]
        self._is_file = False

    def _fetch(self, sink: FileSink) -> None:
        with self._tree:
            before = self._objects()
            check_versions(before.keys(), self._tree.redacted)
            for path, stored in before.items():
                place = "" if self._is_file else path
                with sink.open_file(path) as writer, _content(self._tree, place, stored) as content:
                    while data := content.read(READ_BYTES):
                        writer.write(data)
            if self._objects() != before:
                raise _changed(self._tree.redacted)

    def _objects(self) -> dict[str, StoredObject]:
        refused: AccessDeniedError | None = None
        try:
            found = self._tree.objects()
            if found:
                return found
        except ModelNotFoundError:  # some storage says so of a file too
            pass
        except AccessDeniedError as error:  # who may read a file may not always list what lies beside it
            refused = error
        try:
            stored = self._tree.look()
        except (ModelNotFoundError, AccessDeniedError) as error:
            if isinstance(error, AccessDeniedError) or refused is not None:
                raise refused or error from None
            raise ModelNotFoundError(
                f"there is neither a file nor a directory with files at {self._tree.redacted}"
            ) from None
        self._is_file = True
        return {self._name: stored}


def is_object(handle: Handle, config: Config) -> bool:
    """True if a TREE handle is known to name one object; False for a directory, and where this cannot be seen.

    Args:
        handle: A TREE handle.
        config: Deadlines; there are no retries.
    """
    try:
        with RemoteTree(handle, config.replace({"origin_retries": 0})) as tree:
            return not tree.objects() and tree.look().file.size >= 0
    except HubdistError:
        return False


@contextlib.contextmanager
def open_object(handle: Handle, config: Config, deadline: Deadline) -> Iterator[ByteStream]:
    """One file on object storage as a stream, such as an archive.

    The object is looked at again when the block ends: one that was replaced meanwhile is an error, never a mix.
    """
    with RemoteTree(handle, config, deadline) as tree:
        before = tree.look()
        with _content(tree, "", before) as content:
            yield content
        if tree.look() != before:
            raise _changed(tree.redacted)


@contextlib.contextmanager
def _content(tree: RemoteTree, path: str, stored: StoredObject) -> Iterator[ByteStream]:
    if not stored.encoded:
        yield _PlainContent(tree, path, stored.file.size)
        return
    with tree.inflated(path, stored) as content:
        yield content


class _PlainContent:
    def __init__(self, tree: RemoteTree, path: str, size: int) -> None:
        self._tree = tree
        self._path = path
        self._size = size
        self._at = 0
        self._buffer = memoryview(b"")

    def read(self, size: int) -> bytes:
        if len(self._buffer) == 0 and self._at < self._size:
            end = min(self._at + READ_BYTES, self._size)
            data = self._tree.fetch(self._path, self._at, end)
            if len(data) != end - self._at:
                redacted = self._tree.url(self._path)
                raise OriginError(f"{redacted} ended at byte {self._at + len(data)} of {self._size}")
            self._buffer, self._at = memoryview(data), end
        data, self._buffer = bytes(self._buffer[:size]), self._buffer[size:]
        return data


def _changed(redacted: str) -> OriginError:
    return OriginError(f"{redacted} changed while it was read", advice="Try again.")
