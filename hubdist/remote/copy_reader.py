"""Read a remote copy against its manifest: all of it in parallel ranges, or single chunks. Errors name the object."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence

from hubdist.errors import DigestMismatchError, HubdistError, IntegrityError, LengthMismatchError
from hubdist.model.chunks import Chunk, Piece, chunk_of
from hubdist.model.manifest import BLOCK_BYTES, Entry, Manifest
from hubdist.remote import Tree, open_tree
from hubdist.remote.parallel_ranges import PART_BYTES, OrderedRangeReader, UnorderedRangeReader
from hubdist.remote.snapshot_copy import RemoteCopy
from hubdist.system.deadline import Deadlines

_MIN_REQUEST_BYTES = 8 << 20
"""The answer to a smaller request takes longer to begin than to be transferred."""

_MAX_REQUEST_BYTES = 32 << 20
_MIN_REQUESTS = 8
_MAX_REQUESTS = 16
_MAX_DIGEST_BYTES = 64 << 20


def copy_remote(
    copy: RemoteCopy,
    manifest: Manifest,
    write_chunk: Callable[[Chunk, memoryview], None],
    deadlines: Deadlines,
    *,
    in_flight_bytes: int,
    max_bytes: int | None = None,
    max_digest_bytes: int = _MAX_DIGEST_BYTES,
    ordered: bool = False,
    pieces: Sequence[Piece] | None = None,
) -> int:
    """Read a model from a remote copy in parallel ranges.

    Args:
        copy: Where the files are.
        manifest: What the files must be.
        write_chunk: Takes chunks of whole blocks of one file, and checks them against the manifest, such as
            `ChunkStage.write_chunk`. The bytes are valid during the call only. Several threads call it, in any order,
            unless `ordered`.
        deadlines: Timeouts and retries; `total_s` bounds the whole copy.
        in_flight_bytes: Most bytes in memory.
        max_bytes: Most bytes of the content of one object that is stored compressed; None: no limit.
        max_digest_bytes: Longest wrong object that is read again, so that the error tells its digest.
        ordered: Pass on the chunks in order, from the calling thread.
        pieces: Which whole blocks to read; None for all. The listing is checked in any case.

    Returns:
        Bytes that were read.

    Raises:
        IntegrityError: The files are not the manifest's; the message names the object's URL, and both digests where
            the content differs.
        TransferTimeoutError: The time is over.
        ResolveError, TransferError: The files cannot be read.
        Exception: What `write_chunk` raised.
    """
    with open_tree(copy.url, deadlines, max_bytes=max_bytes) as tree:
        _check_listing(tree, copy, manifest, max_digest_bytes)

        def stream(piece: Piece, buffer: memoryview) -> Iterator[tuple[int, memoryview]]:
            entry = manifest.entries[piece.entry_index]
            try:
                yield from tree.stream(entry.path, piece.start, piece.end, buffer, copy.files[entry.path].version)
            except IntegrityError as error:
                raise _with_digests(error, tree, entry, max_digest_bytes) from None

        def write(piece: Piece, data: memoryview) -> None:
            chunk = chunk_of(manifest, (piece,))
            try:
                write_chunk(chunk, data)
            except IntegrityError as error:
                raise _with_object_url(error, tree, manifest, chunk, data) from None

        kind = OrderedRangeReader if ordered else UnorderedRangeReader
        if pieces is None:
            pieces = [Piece(index, 0, entry.size) for index, entry in enumerate(manifest.entries)]
        size, requests = _plan_requests(manifest, in_flight_bytes, ordered=ordered)
        reader = kind(_split(pieces, size), stream, write, requests=requests, stop=tree.close)
        reader.run(timeout_s=deadlines.total_s, redacted=tree.redacted)
    return sum(piece.size for piece in pieces)


def copy_memory_bytes(in_flight_bytes: int) -> int:
    """Most bytes that one `copy_remote` keeps in memory, if it is not ordered.

    Args:
        in_flight_bytes: The limit that `copy_remote` gets.
    """
    return _unordered_requests(in_flight_bytes) * PART_BYTES


class CopyReader:
    """Reads single chunks of a remote copy, for several threads; close it.

    Args:
        copy: Where the files are.
        manifest: What the files must be.
        deadlines: Timeouts and retries of each call.
        max_bytes: Most bytes of the content of one object that is stored compressed; None: no limit.

    Raises:
        IntegrityError: The copy does not have the manifest's files.
        ResolveError, TransferError: The directory cannot be opened.
    """

    def __init__(
        self, copy: RemoteCopy, manifest: Manifest, deadlines: Deadlines, *, max_bytes: int | None = None
    ) -> None:
        self._copy = copy
        self._manifest = manifest
        self._opened = contextlib.ExitStack()
        self._tree = self._opened.enter_context(open_tree(copy.url, deadlines, max_bytes=max_bytes))
        _check_listing(self._tree, copy, manifest, _MAX_DIGEST_BYTES)

    def read(self, chunk: Chunk, buffer: memoryview) -> None:
        """Read a chunk, without checking its bytes.

        Args:
            chunk: The chunk.
            buffer: Gets the bytes; of the chunk's size.

        Raises:
            IntegrityError: A file's version is gone, or a file is too short.
            ResolveError, TransferError: A file cannot be read.
        """
        for part in chunk.parts(buffer):
            path = self._manifest.entries[part.piece.entry_index].path
            self._tree.read_into(path, part.piece.start, part.data, self._copy.files[path].version)

    def with_object_url(self, error: IntegrityError, chunk: Chunk, data: memoryview) -> IntegrityError:
        """Name the object whose bytes are wrong.

        Args:
            error: The error of a chunk that `read` has read.
            chunk: The chunk.
            data: The chunk's bytes.

        Returns:
            An error with the object's URL and both digests; `error` itself if no block of the chunk is wrong.
        """
        return _with_object_url(error, self._tree, self._manifest, chunk, data)

    def close(self) -> None:
        """Close the connections."""
        self._opened.close()


def _plan_requests(manifest: Manifest, in_flight_bytes: int, *, ordered: bool) -> tuple[int, int]:
    """Most bytes that each request reads, and how many requests to make in parallel.

    Unordered readers keep a part of a request in memory, ordered ones the whole.
    """
    requests = _requests(in_flight_bytes)
    if ordered:
        size = min(in_flight_bytes, max(_MIN_REQUEST_BYTES, in_flight_bytes // _MAX_REQUESTS))
    else:
        requests = _unordered_requests(in_flight_bytes)
        size = min(_MAX_REQUEST_BYTES, max(_MIN_REQUEST_BYTES, manifest.total_bytes // (2 * requests)))
    return size // BLOCK_BYTES * BLOCK_BYTES, requests


def _split(pieces: Sequence[Piece], size: int) -> list[Piece]:
    return [
        Piece(piece.entry_index, start, min(start + size, piece.end))
        for piece in pieces
        for start in range(piece.start, piece.end, size)
    ]


def _requests(in_flight_bytes: int) -> int:
    return min(_MAX_REQUESTS, max(1, in_flight_bytes // _MIN_REQUEST_BYTES))


def _unordered_requests(in_flight_bytes: int) -> int:
    return max(_requests(in_flight_bytes), min(_MIN_REQUESTS, in_flight_bytes // PART_BYTES))


def _check_listing(tree: Tree, copy: RemoteCopy, manifest: Manifest, max_digest_bytes: int) -> None:
    """Compare names and sizes with the manifest before anything is read."""
    entries = {entry.path: entry for entry in manifest.entries}
    for path in sorted(entries.keys() | copy.files.keys()):
        if path not in entries:
            raise IntegrityError(f"{tree.url(path)} is not a file of the model {manifest.digest}")
        if path not in copy.files:
            raise IntegrityError(f"{tree.url(path)}, a file of the model {manifest.digest}, is missing")
        if copy.files[path].size != entries[path].size:
            text = f"{tree.url(path)} has {copy.files[path].size} bytes instead of {entries[path].size}"
            raise _with_digests(LengthMismatchError(text), tree, entries[path], max_digest_bytes)


def _with_digests(error: IntegrityError, tree: Tree, entry: Entry, max_digest_bytes: int) -> IntegrityError:
    """The same finding, with the digest that the file should have and the digest of the file that is there now."""
    folder, _, name = entry.path.rpartition("/")
    actual = "nothing that can be read"
    with contextlib.suppress(HubdistError):
        file = tree.listing(folder).get(name)
        if file is not None:
            actual = f"{file.size} bytes"
        if file is not None and file.size <= max_digest_bytes:
            actual = f"sha256:{hashlib.sha256(tree.read(entry.path, 0, file.size)).hexdigest()}"
    if actual == str(entry.digest):
        return IntegrityError(f"{error.what}; the content that is there now is the model's, {actual}")
    return DigestMismatchError(error.what, expected=str(entry.digest), actual=actual)


def _with_object_url(
    error: IntegrityError, tree: Tree, manifest: Manifest, chunk: Chunk, data: memoryview
) -> IntegrityError:
    """The error of a chunk, with the URL of the object whose bytes are wrong."""
    for part in chunk.parts(data):
        url = tree.url(manifest.entries[part.piece.entry_index].path)
        try:
            part.check(url)
        except DigestMismatchError as found:
            return DigestMismatchError(
                f"{url} is not the model's file: block {part.piece.start // BLOCK_BYTES} and on",
                expected=found.expected,
                actual=found.actual,
            )
    return error
