"""Contents of objects on gs://, through `GcsClient`, whether they are stored plainly or compressed."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from hubdist.errors import HubdistError, IntegrityError, LengthMismatchError
from hubdist.model.source import ByteStream
from hubdist.remote.compressed_objects import ContentReader, Inflated, KnownSizes
from hubdist.remote.gcs_client import GcsClient, MaybeGzippedError, RangeStream
from hubdist.remote.inflated_copies import InflatedCopies, InflatedCopy
from hubdist.remote.retry import call_storage
from hubdist.remote.tree import MAX_OBJECT_BYTES, StoredObject
from hubdist.system.deadline import Deadline, Deadlines

_T = TypeVar("_T")
_known_sizes = KnownSizes()


class GcsContents:
    """Reads and writes contents, with deadlines and retries; safe for several threads.

    An object is first read as if it were stored plainly. If the answer shows that it is not, its metadata are looked
    up, and from then on its ranges come from a decompressed copy, which lives until `close`.

    Args:
        client: Reads and writes objects; closed by `close`.
        look: Looks up the metadata of an object by its name.
        url: Makes an object's URL without secrets from its name, for errors.
        deadlines: Timeouts and retries of each call.
        closing: When this is set, nothing is tried again.
        deadline: When the task must be done that the contents are for; None gives each call `total_s`.
        max_bytes: Most bytes of one content that is stored compressed; None: no limit.
        anonymous: No credentials are sent, because this node has none; None: not known.
    """

    def __init__(
        self,
        client: GcsClient,
        look: Callable[[str], StoredObject],
        url: Callable[[str], str],
        deadlines: Deadlines,
        closing: threading.Event,
        *,
        deadline: Deadline | None,
        max_bytes: int | None,
        anonymous: bool | None = None,
    ) -> None:
        self._client = client
        self._anonymous = anonymous
        self._look = look
        self._url = url
        self._deadlines = deadlines
        self._closing = closing
        self._deadline = deadline
        self._reader = ContentReader(deadlines.total_s, max_bytes, closing)
        self._copies = InflatedCopies(self._reader, deadlines.total_s)

    def close(self) -> None:
        """Close the connections, and delete the decompressed copies."""
        self._client.close()
        self._copies.close()

    def read_into(self, name: str, start: int, view: memoryview, version: str) -> None:
        """Fill a buffer with the bytes of a content from `start` on.

        Args:
            name: The object.
            start: Offset of the first byte.
            view: Where the bytes go.
            version: Read this generation only; "" reads any.

        Raises:
            IntegrityError: The version is gone, or the stored gzip is damaged.
            LengthMismatchError: The content ends before the view is full.
        """
        copy = self._copies.find(name, version)
        if copy is None:
            redacted = self._url(name)
            copy = self._try(name, version, lambda: self._client.read_into(name, start, view, version, redacted))
        if copy is not None:
            copy.read_into(start, view)

    def stream(
        self, name: str, start: int, end: int, buffer: memoryview, version: str
    ) -> Iterator[tuple[int, memoryview]]:
        """Read a long range of a content through a small buffer, with one request.

        Args:
            name: The object.
            start: Offset of the first byte.
            end: Offset behind the last byte.
            buffer: Reused for every part.
            version: Read this generation only; "" reads any.

        Yields:
            Offset in the content, and the bytes from there in `buffer`.

        Raises:
            IntegrityError: The version is gone, or the stored gzip is damaged.
            LengthMismatchError: The content ends before `end`.
        """
        copy = self._copies.find(name, version)
        with contextlib.closing(RangeStream(self._client, name, end, version, self._url(name))) as source:
            for at in range(start, end, len(buffer)):
                part = buffer[: min(len(buffer), end - at)]
                if copy is None:
                    copy = self._try(name, version, functools.partial(source.fill, at, part))
                if copy is not None:
                    copy.read_into(at, part)
                yield at, part

    def load(self, name: str) -> bytes:
        """A whole content.

        Raises:
            ModelNotFoundError: Nothing is there.
            LengthMismatchError: The content has more than `MAX_OBJECT_BYTES`.
        """
        redacted = self._url(name)
        try:
            return self._call(lambda: self._client.load(name, MAX_OBJECT_BYTES, redacted), redacted)
        except MaybeGzippedError as answer:
            copy = self._inflated_copy(name, "", answer.error)
        size = copy.size()
        if size > MAX_OBJECT_BYTES:
            raise LengthMismatchError(f"{redacted} has more than {MAX_OBJECT_BYTES} bytes")
        data = bytearray(size)
        copy.read_into(0, memoryview(data))
        return bytes(data)

    @contextlib.contextmanager
    def inflated(self, name: str, stored: StoredObject) -> Iterator[ByteStream]:
        """The content of an object that is stored compressed, in order.

        Args:
            name: The object.
            stored: The object as it was listed; no other version is read.
        """
        size, version, redacted = stored.file.size, stored.file.version, self._url(name)
        with contextlib.closing(RangeStream(self._client, name, size, version, redacted, stored=True)) as source:

            def fill(start: int, view: memoryview) -> None:
                self._call(functools.partial(source.fill, start, view), redacted)

            yield Inflated(_StoredBytes(fill, size), redacted)

    def measure(self, name: str, stored: StoredObject) -> int:
        """Count the bytes of a content that is stored compressed.

        The metadata do not tell, so the content is read, once in a process.

        Args:
            name: The object.
            stored: The object as it was listed; no other version is read.
        """
        address, version = self._client.address(name), stored.file.version
        size = _known_sizes.get(address, version)
        if size is None:
            with self.inflated(name, stored) as content:
                size = self._reader.measure(content, self._url(name))
            _known_sizes.keep(address, version, size)
        return size

    def put(self, name: str, body: bytes | Path, *, create: bool) -> None:
        """Write an object, all of it or nothing.

        Args:
            name: The object.
            body: The content, or a local file with it.
            create: Write only if nothing is there yet.

        Raises:
            FileExistsError: Something is there and `create` is set.
            ResolveError, TransferError: The object cannot be written.
        """
        redacted = self._url(name)
        self._call(lambda: self._client.put(name, body, redacted, create=create), redacted, verb="written")

    def _try(self, name: str, version: str, attempt: Callable[[], None]) -> InflatedCopy | None:
        """Read as if the object were stored plainly; returns the copy to read instead if it is not."""
        try:
            self._call(attempt, self._url(name))
        except MaybeGzippedError as answer:
            return self._inflated_copy(name, version, answer.error)
        return None

    def _inflated_copy(self, name: str, version: str, error: HubdistError) -> InflatedCopy:
        """A copy of an object that did not come as asked for; raises `error` if it is not stored compressed."""
        stored, redacted = self._look(name), self._url(name)
        found = stored.file.version
        if version and version != found:
            raise IntegrityError(f"{redacted} was replaced: its generation is {found} instead of {version}")
        if not stored.gzipped:
            raise error
        return self._copies.add(name, found, lambda: self.inflated(name, stored), redacted)

    def _call(self, attempt: Callable[[], _T], redacted: str, verb: str = "read") -> _T:
        return call_storage(
            attempt,
            redacted,
            self._deadlines,
            self._closing,
            verb=verb,
            deadline=self._deadline,
            anonymous=self._anonymous,
        )


class _StoredBytes:
    """A `ByteStream` of an object as it is stored."""

    def __init__(self, fill: Callable[[int, memoryview], None], size: int) -> None:
        self._fill = fill
        self._size = size
        self._at = 0

    def read(self, size: int, /) -> bytes:
        data = bytearray(min(size, self._size - self._at))
        if data:
            self._fill(self._at, memoryview(data))
            self._at += len(data)
        return bytes(data)
