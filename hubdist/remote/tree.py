"""What a directory on storage can do, whatever it lies on."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from hubdist.system.foreign import call_foreign, iterate_foreign

MAX_OBJECT_BYTES = 256 << 20
"""Most bytes of an object that `Tree.load` reads into memory."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as storage lists it.

    Attributes:
        size: Bytes, of the content where a file is stored compressed.
        version: Differs after the file was replaced: generation, etag, or time of change in nanoseconds. "" if the
            storage tells none.
        md5: The storage's own md5 of the content as 32 hex digits, "" if it tells none. No part of equality.
        changed: On a mount, when content or status changed last, in nanoseconds: a writer can set the time of change
            back, and not this one. A change of rights changes it too, so it is no part of equality.
        packed: It is stored compressed, and who reads it by other means than hubdist's may see it cut.
    """

    size: int
    version: str
    md5: str = field(default="", compare=False)
    packed: bool = False
    changed: str = field(default="", compare=False)


_VERBS = {"create": "written", "write": "written", "upload": "written", "delete": "deleted"}
_GUARDED = frozenset({"listing", "objects", "look", "fetch", "read_into", "stream", "load", *_VERBS})


class Tree(abc.ABC):
    """A directory on storage; use as a context manager. Safe for several threads.

    Whatever the methods of a kind of directory raise comes out as an error of hubdist's, in its own words.

    Paths are relative to the directory, `/` between names. Every method raises the same errors:
    ModelNotFoundError (nothing is there), AccessDeniedError (a right is missing), OriginError and
    TransferTimeoutError (every retry was made). They name the object by its full URL, secrets removed.

    Attributes:
        redacted: The directory's URL without secrets.
        exclusive: `create` lets exactly one of several writers win. Where it is False, two may.
    """

    redacted: str
    exclusive: bool

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
        """All files below `folder`: path relative to the folder -> what is stored there; empty if there are none.

        Raises:
            IntegrityError: A file that is stored compressed is damaged, or was replaced meanwhile.
            StoreFullError: One has more bytes than `max_store_bytes` of the configuration.
        """

    @abc.abstractmethod
    def read_into(self, path: str, start: int, view: memoryview, version: str = "") -> None:
        """Fill `view` with the bytes of a file from `start` on.

        Args:
            path: The file.
            start: Offset of the first byte.
            view: Where the bytes go.
            version: Read this version only. It is pinned on gs:// and checked on a mount; other storage ignores it.

        Raises:
            IntegrityError: The version is gone.
            LengthMismatchError: The file ends before the view is full.
        """

    def stream(
        self, path: str, start: int, end: int, buffer: memoryview, version: str = ""
    ) -> Iterator[tuple[int, memoryview]]:
        """Read a long range through a small buffer, with one request where the storage can.

        Yields:
            Offset in the file, and a part of `buffer` with the bytes from there; all of it but for the last part.

        Raises:
            HubdistError: As `read_into`.
        """
        for at in range(start, end, len(buffer)):
            part = buffer[: min(len(buffer), end - at)]
            self.read_into(path, at, part, version)
            yield at, part

    def read(self, path: str, start: int, end: int, version: str = "") -> bytes:
        """Bytes `start` (included) to `end` (excluded) of a file; otherwise as `read_into`."""
        data = bytearray(end - start)
        self.read_into(path, start, memoryview(data), version)
        return bytes(data)

    @abc.abstractmethod
    def load(self, path: str) -> bytes | None:
        """A small file as a whole, or None if there is none.

        Raises:
            LengthMismatchError: It has more than `MAX_OBJECT_BYTES`.
        """

    @abc.abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Write a small file that must not exist yet; False if something is there. Readers see all of it or nothing."""

    @abc.abstractmethod
    def write(self, path: str, data: bytes) -> None:
        """Write or replace a small file. Readers see the old or the new one."""

    @abc.abstractmethod
    def upload(self, path: str, file: Path, *, create: bool = True) -> bool:
        """Write a local file of any size, a part of it in memory at a time.

        Args:
            path: Where to.
            file: What.
            create: Only if nothing is there yet; else it is replaced.

        Returns:
            False if something was there and `create` is set.
        """

    @abc.abstractmethod
    def delete(self, path: str) -> None:
        """Delete a file; a missing one is fine."""

    def url(self, path: str) -> str:
        """The URL of a file, without secrets."""
        return f"{self.redacted}/{path}" if path else self.redacted


def _guarded(method: Callable[..., Any], verb: str) -> Callable[..., Any]:
    """A method of a tree behind the boundary to foreign code."""

    @functools.wraps(method)
    def call(tree: Tree, *args: Any, **options: Any) -> Any:
        redacted = tree.url(args[0]) if args and isinstance(args[0], str) else tree.redacted
        found = call_foreign(lambda: method(tree, *args, **options), redacted, verb)
        return iterate_foreign(found, redacted, verb) if isinstance(found, Iterator) else found

    return call
