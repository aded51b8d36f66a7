"""`Tree`: what every kind of directory on storage can do, for the readers and writers of this package and above."""

from __future__ import annotations

import abc
import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from hubdist.errors import AccessDeniedError, OriginError
from hubdist.model.source import READ_BYTES, ByteStream
from hubdist.system.foreign import call_foreign, iterate_foreign

MAX_OBJECT_BYTES = 256 << 20
"""Most bytes of a file that `Tree.load` reads into memory."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as a storage lists it.

    Attributes:
        size: Bytes, of the content where a file is stored compressed.
        version: Differs after the file was replaced: generation, etag, or time of change in nanoseconds. "" if the
            storage reports none.
        md5: The storage's own md5 of the content as 32 hex digits, "" if the storage reports none. Not compared.
        packed: The file is stored compressed, and readers other than hubdist may see it cut.
        changed: On a mount, when content or status changed last, in nanoseconds. A writer can set the time of change
            back, but not this time. A change of access rights also moves it, so it is not compared.
    """

    size: int
    version: str
    md5: str = field(default="", compare=False)
    packed: bool = False
    changed: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A file as a storage keeps it.

    Attributes:
        file: The file; size and md5 are those of the stored bytes.
        gzipped: The metadata say that the stored bytes are a gzip of the content.
    """

    file: StoredFile
    gzipped: bool = False


_VERBS = {"create": "written", "write": "written", "upload": "written", "delete": "deleted"}
_GUARDED = frozenset({"listing", "objects", "look", "fetch", "read_into", "stream", "load", *_VERBS})


class Tree(abc.ABC):
    """A directory on storage; use as a context manager. Safe for several threads.

    Whatever the methods of a subclass raise comes out as an error of hubdist's, in hubdist's own words.

    Paths are relative to the directory, with `/` between names. Every method raises the same errors:
    ModelNotFoundError (nothing is there), AccessDeniedError (a right is missing), OriginError and
    TransferTimeoutError (every retry was made). The errors name the file by its full URL, secrets removed.

    Attributes:
        redacted: The directory's URL without secrets.
        exclusive: `create` lets exactly one of several writers win. Where this is False, two may.
        find_identity: Tells who this process is to the storage, without secrets, for errors of rights; None if the
            errors say so themselves.
    """

    redacted: str
    exclusive: bool
    find_identity: Callable[[], str] | None = None

    def __init_subclass__(cls) -> None:
        for name in _GUARDED & vars(cls).keys():
            setattr(cls, name, _guarded(vars(cls)[name], _VERBS.get(name, "read")))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abc.abstractmethod
    def close(self) -> None:
        """Close the connections. Reads that wait in other threads fail soon after."""

    @abc.abstractmethod
    def listing(self, folder: str = "") -> dict[str, StoredFile]:
        """All files below `folder`: path relative to the folder -> file; empty if there are none.

        Raises:
            IntegrityError: A file that is stored compressed is damaged, or was replaced meanwhile.
            StoreFullError: Such a file has more bytes than the tree's `max_bytes`.
        """

    def objects(self, folder: str = "") -> dict[str, StoredObject]:
        """All files below `folder`, as the storage keeps them; nothing is read to learn the sizes of contents.

        Raises:
            OriginError: A file is stored in an encoding that hubdist cannot decode.
        """
        return {path: StoredObject(file) for path, file in self.listing(folder).items()}

    @abc.abstractmethod
    def read_into(self, path: str, start: int, view: memoryview, version: str = "") -> None:
        """Fill `view` with the bytes of a file from `start` on.

        Args:
            path: The file.
            start: Offset of the first byte.
            view: Where the bytes go.
            version: Read this version only; "" reads any. gs:// pins the version, a mount checks it after the read,
                other storage ignores it.

        Raises:
            IntegrityError: The version is gone.
            LengthMismatchError: The file ends before the view is full.
        """

    def stream(
        self, path: str, start: int, end: int, buffer: memoryview, version: str = ""
    ) -> Iterator[tuple[int, memoryview]]:
        """Read a long range through a small buffer, with one request where the storage can.

        Args:
            path: The file.
            start: Offset of the first byte.
            end: Offset behind the last byte.
            buffer: Reused for every part.
            version: Read this version only, the same as for `read_into`.

        Yields:
            Offset in the file, and the bytes from there in `buffer`, which is full for all parts but the last.

        Raises:
            IntegrityError: The version is gone.
            LengthMismatchError: The file ends before `end`.
        """
        for at in range(start, end, len(buffer)):
            part = buffer[: min(len(buffer), end - at)]
            self.read_into(path, at, part, version)
            yield at, part

    def read(self, path: str, start: int, end: int, version: str = "") -> bytes:
        """Read a range of a file into memory.

        Args:
            path: The file.
            start: Offset of the first byte.
            end: Offset behind the last byte.
            version: Read this version only, the same as for `read_into`.

        Raises:
            IntegrityError: The version is gone.
            LengthMismatchError: The file ends before `end`.
        """
        data = bytearray(end - start)
        self.read_into(path, start, memoryview(data), version)
        return bytes(data)

    def fetch(self, path: str, start: int, end: int) -> bytes:
        """Read a range of the stored bytes of a file; the result may be short where the file ends.

        Args:
            path: The file.
            start: Offset of the first byte.
            end: Offset behind the last byte.
        """
        return self.read(path, start, end)

    @contextlib.contextmanager
    def open_stream(self, path: str, stored: StoredObject) -> Iterator[ByteStream]:
        """Read the content of a file in order.

        Args:
            path: The file.
            stored: The file as `objects` listed it.

        Yields:
            The content, decompressed where it is stored compressed.
        """
        yield _FileStream(self, path, stored.file.size)

    @abc.abstractmethod
    def load(self, path: str) -> bytes | None:
        """A small file as a whole, or None if nothing is there.

        Raises:
            LengthMismatchError: The file has more than `MAX_OBJECT_BYTES`.
        """

    @abc.abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Write a small file that must not exist yet. Readers see all of it or nothing.

        Args:
            path: Where to write.
            data: The content.

        Returns:
            False if something was there; then nothing was written.
        """

    @abc.abstractmethod
    def write(self, path: str, data: bytes) -> None:
        """Write or replace a small file. Readers see the old or the new one.

        Args:
            path: Where to write.
            data: The content.
        """

    @abc.abstractmethod
    def upload(self, path: str, file: Path, *, create: bool = True) -> bool:
        """Write a local file of any size, with a part of it in memory at a time.

        Args:
            path: Where to write.
            file: The local file.
            create: Write only if nothing is there yet; otherwise replace what is there.

        Returns:
            False if something was there and `create` is set.
        """

    @abc.abstractmethod
    def delete(self, path: str, version: str = "") -> None:
        """Delete a file; a missing file is not an error.

        Args:
            path: The file.
            version: Delete this version only, and let another one stay; "" deletes any. gs:// does so in one step, a
                mount looks first, other storage deletes any.
        """

    def url(self, path: str) -> str:
        """The URL of a file, without secrets."""
        return f"{self.redacted}/{path}" if path else self.redacted


class _FileStream:
    """A `ByteStream` of the stored bytes of a file."""

    def __init__(self, tree: Tree, path: str, size: int) -> None:
        self._tree = tree
        self._path = path
        self._size = size
        self._at = 0
        self._buffer = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        if len(self._buffer) == 0 and self._at < self._size:
            end = min(self._at + READ_BYTES, self._size)
            data = self._tree.fetch(self._path, self._at, end)
            if len(data) != end - self._at:
                redacted = self._tree.url(self._path)
                raise OriginError(f"{redacted} ended at byte {self._at + len(data)} of {self._size}")
            self._at = end
            if len(data) <= size:
                return data  # without a copy, which costs time with large files
            self._buffer = memoryview(data)
        data, self._buffer = bytes(self._buffer[:size]), self._buffer[size:]
        return data


def _guarded(method: Callable[..., Any], verb: str) -> Callable[..., Any]:
    """A method of a tree behind the boundary to foreign code."""

    @functools.wraps(method)
    def call(tree: Tree, *args: Any, **options: Any) -> Any:
        redacted = tree.url(args[0]) if args and isinstance(args[0], str) else tree.redacted
        with _told(tree):
            found = call_foreign(lambda: method(tree, *args, **options), redacted, verb)
        return _iterate(tree, found, redacted, verb) if isinstance(found, Iterator) else found

    return call


def _iterate(tree: Tree, found: Iterator[Any], redacted: str, verb: str) -> Iterator[Any]:
    with _told(tree):
        yield from iterate_foreign(found, redacted, verb)


@contextlib.contextmanager
def _told(tree: Tree) -> Iterator[None]:
    """Let errors of rights in the block say who was refused."""
    try:
        yield
    except AccessDeniedError as error:
        if tree.find_identity is None:
            raise
        raise error.asked(tree.find_identity()) from None
