"""Contents of objects on gs://, over plain connections, whether they are stored plainly or compressed."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from hubdist.config.schema import Config
from hubdist.errors import HubdistError, IntegrityError, LengthMismatchError
from hubdist.model.source import ByteStream
from hubdist.remote.compressed_objects import ContentReader, Inflated, KnownSizes, StoredObject
from hubdist.remote.gcs_client import GcsClient, PerhapsEncodedError, RangeStream
from hubdist.remote.inflated_copies import InflatedCopies, InflatedCopy
from hubdist.remote.retry import call_storage
from hubdist.remote.tree import MAX_OBJECT_BYTES
from hubdist.system.deadline import Deadline

_T = TypeVar("_T")
_known_sizes = KnownSizes()


class GcsContents:
    """Reads contents, with deadlines and retries; safe for several threads.

    An object is asked for as if it were stored plainly. The answer tells when it is not; then its metadata are looked
    at, and from then on ranges come from a plain copy, which lives until `close`.

    Args:
        objects: Where from.
        look: Looks at the metadata of an object.
        url: An object's URL without secrets, for errors.
        config: Deadlines, retries, and `max_store_bytes` for one content that is stored compressed.
        closing: When it is set, nothing is tried again.
        deadline: When everything is over; None gives each call `timeout_s`.
    """

    def __init__(
        self,
        objects: GcsClient,
        look: Callable[[str], StoredObject],
        url: Callable[[str], str],
        config: Config,
        closing: threading.Event,
        *,
        deadline: Deadline | None,
    ) -> None:
        self._objects = objects
        self._look = look
        self._url = url
        self._config = config
        self._closing = closing
        self._deadline = deadline
        self._reader = ContentReader(config, closing)
        self._copies = InflatedCopies(self._reader, config.timeout_s)

    def close(self) -> None:
        """Delete the plain copies."""
        self._copies.close()

    def read_into(self, name: str, start: int, view: memoryview, version: str) -> None:
        """Fill a buffer with the bytes of a content from `start` on; raises as `Tree.read_into`."""
        copy = self._copies.find(name, version)
        if copy is None:
            redacted = self._url(name)
            copy = self._try(name, version, lambda: self._objects.read_into(name, start, view, version, redacted))
        if copy is not None:
            copy.read_into(start, view)

    def stream(
        self, name: str, start: int, end: int, buffer: memoryview, version: str
    ) -> Iterator[tuple[int, memoryview]]:
        """As `Tree.stream`."""
        copy = self._copies.find(name, version)
        with contextlib.closing(RangeStream(self._objects, name, end, version, self._url(name))) as source:
            for at in range(start, end, len(buffer)):
                part = buffer[: min(len(buffer), end - at)]
                if copy is None:
                    copy = self._try(name, version, functools.partial(source.fill, at, part))
                if copy is not None:
                    copy.read_into(at, part)
                yield at, part

    def load(self, name: str) -> bytes:
        """A whole content; raises as `Tree.load`, and ModelNotFoundError if there is none."""
        redacted = self._url(name)
        try:
            return self._call(lambda: self._objects.load(name, MAX_OBJECT_BYTES, redacted), redacted)
        except PerhapsEncodedError as answer:
            copy = self._plain_copy(name, "", answer.error)
        size = copy.size()
        if size > MAX_OBJECT_BYTES:
            raise LengthMismatchError(f"{redacted} has more than {MAX_OBJECT_BYTES} bytes")
        data = bytearray(size)
        copy.read_into(0, memoryview(data))
        return bytes(data)

    @contextlib.contextmanager
    def inflated(self, name: str, stored: StoredObject) -> Iterator[ByteStream]:
        """The content of an object that is stored compressed, in order; no other version than `stored` is read."""
        size, version, redacted = stored.file.size, stored.file.version, self._url(name)
        with contextlib.closing(RangeStream(self._objects, name, size, version, redacted, stored=True)) as source:

            def fill(start: int, view: memoryview) -> None:
                self._call(functools.partial(source.fill, start, view), redacted)

            yield Inflated(_StoredBytes(fill, size), redacted)

    def measure(self, name: str, stored: StoredObject) -> int:
        """How many bytes the content of an object has that is stored compressed.

        Its metadata do not tell; so it is read, once in a process.
        """
        address, version = self._objects.address(name), stored.file.version
        size = _known_sizes.get(address, version)
        if size is None:
            with self.inflated(name, stored) as content:
                size = self._reader.measure(content, self._url(name))
            _known_sizes.keep(address, version, size)
        return size

    def _try(self, name: str, version: str, attempt: Callable[[], None]) -> InflatedCopy | None:
        """Read as if the object were stored plainly; returns what to read instead if it is not."""
        try:
            self._call(attempt, self._url(name))
        except PerhapsEncodedError as answer:
            return self._plain_copy(name, version, answer.error)
        return None

    def _plain_copy(self, name: str, version: str, error: HubdistError) -> InflatedCopy:
        """The copy of an object that did not come as asked for; raises `error` if it is not stored compressed."""
        stored, redacted = self._look(name), self._url(name)
        found = stored.file.version
        if version and version != found:
            raise IntegrityError(f"{redacted} was replaced: its generation is {found} instead of {version}")
        if not stored.encoded:
            raise error
        return self._copies.add(name, found, lambda: self.inflated(name, stored), redacted)

    def _call(self, attempt: Callable[[], _T], redacted: str) -> _T:
        return call_storage(attempt, redacted, self._config, self._closing, deadline=self._deadline)


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
