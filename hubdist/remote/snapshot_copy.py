"""Remote copies: model files on object storage or a mount that a node can read by itself.

A copy is listed once, by whoever found it; nodes then read those very versions, in parallel ranges, and believe only
what the manifest confirms, which comes from the coordinator and not from the storage. A copy that somebody else reads,
who checks nothing, must be a digested one; see `RemoteCopy`.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from hubdist.config.schema import Config
from hubdist.errors import (
    DigestMismatchError,
    HandleError,
    HubdistError,
    IntegrityError,
    LengthMismatchError,
    ModelNotFoundError,
    ResolveError,
    TransferError,
    TransferTimeoutError,
)
from hubdist.model.chunks import Chunk, Piece, chunk_of
from hubdist.model.manifest import BLOCK_BYTES, Entry, Manifest
from hubdist.model.redact import redact_url
from hubdist.remote import StoredFile, Tree, open_tree
from hubdist.remote.parallel_ranges import PART_BYTES, OrderedReading, UnorderedReading
from hubdist.system.threads import run_within

_MIN_REQUEST_BYTES = 8 << 20
"""A request for less takes longer to be answered than to be transferred."""

_MAX_REQUEST_BYTES = 32 << 20
_MIN_REQUESTS = 8
_MAX_REQUESTS = 16
_PROBE_BYTES = 1024
_DIGESTED_BYTES = 64 << 20
"""Longest object that is read again to tell its digest in an error."""


@dataclass(frozen=True, slots=True)
class RemoteCopy:
    """Where nodes can read a model's files, and which versions of them. Pickles.

    Attributes:
        url: The directory, on object storage or a path; may hold secrets.
        files: Path below it -> what is stored there.
        digested: The files were listed like this before and after the manifest's digests were taken from them. Without
            that they may be any: what is read must be checked, byte by byte.
    """

    url: str
    files: Mapping[str, StoredFile]
    digested: bool = False

    def __repr__(self) -> str:
        return f"RemoteCopy({self.redacted!r}, {len(self.files)} files)"

    @property
    def redacted(self) -> str:
        """The URL without secrets."""
        return redact_url(self.url)

    def fits(self, manifest: Manifest) -> bool:
        """True if there are a manifest's files, by name and size."""
        sizes = {entry.path: entry.size for entry in manifest.entries}
        return {path: file.size for path, file in self.files.items()} == sizes


FALLBACK_ERRORS = (HandleError, IntegrityError, ResolveError, TransferError)
"""What reading from another place may mend; a node's own disk is not among them."""


def list_copy(url: str, config: Config) -> RemoteCopy:
    """The files of a directory as they are now.

    Raises:
        HubdistError: It cannot be read; ModelNotFoundError if it holds no files.
    """
    with open_tree(url, config) as tree:
        return RemoteCopy(url, _list_files(tree))


def check_copy(copy: RemoteCopy, config: Config) -> None:
    """Check that the same versions of the same files still lie there; for readers that read by themselves.

    Times that cannot be set back are compared too, for nobody looks at the bytes.

    Raises:
        IntegrityError: A file was added, removed or replaced; it is named.
        HubdistError: The directory cannot be read.
    """
    with open_tree(copy.url, config) as tree:
        found = tree.listing()
    difference = find_difference(copy.files, found, strictly=True)
    if difference is not None:
        path, what = difference
        raise IntegrityError(f"{copy.redacted}/{path} {what} after it was listed")


def find_difference(
    expected: Mapping[str, StoredFile], found: Mapping[str, StoredFile], *, strictly: bool = False
) -> tuple[str, str] | None:
    """The first path at which two listings differ and what happened to it, in words; None if they are equal.

    Args:
        expected: What was listed before.
        found: What is listed now.
        strictly: Compare `StoredFile.changed` as well.
    """
    for path in sorted(expected.keys() | found.keys()):
        before, after = expected.get(path), found.get(path)
        if before is None:
            return path, "was added"
        if after is None:
            return path, "was deleted"
        if before != after:
            return path, f"was replaced ({_shown(before)}, now {_shown(after)})"
        if strictly and before.changed != after.changed:
            return path, "was written to, or its rights were changed,"
    return None


def probe(place: RemoteCopy | str, config: Config, *, timeout_s: float) -> None:
    """Find out, with one small read, whether this process can read a directory.

    Args:
        place: A copy, or the URL of a directory, which is listed then.
        config: The job's settings.
        timeout_s: Longest time in seconds. A mount that hangs cannot be interrupted: its thread is left behind.

    Raises:
        HubdistError: It cannot be read; TransferTimeoutError if that is not known in time.
    """
    url = place if isinstance(place, str) else place.url
    quick = config.changed({"retries": 0, "timeout_s": timeout_s, "stall_timeout_s": timeout_s})

    def look() -> None:
        with open_tree(url, quick) as tree:
            files = _list_files(tree) if isinstance(place, str) else place.files
            path, file = min(files.items(), key=lambda item: (item[1].size == 0, item[1].size))
            tree.read(path, 0, min(file.size, _PROBE_BYTES), file.version)

    try:
        run_within(look, "hubdist-probe", timeout_s)
    except TimeoutError:
        raise TransferTimeoutError(f"{redact_url(url)} could not be read within {timeout_s:g} s") from None


def copy_remote(
    copy: RemoteCopy,
    manifest: Manifest,
    write_chunk: Callable[[Chunk, memoryview], None],
    config: Config,
    *,
    ordered: bool = False,
) -> int:
    """Read a model from a remote copy in parallel ranges.

    Args:
        copy: Where the files are.
        manifest: What they must be.
        write_chunk: Takes chunks of one file each, whole blocks, and checks them against the manifest, as
            `ChunkStage.write_chunk` does. The bytes are valid during the call only. Called by several threads, in
            any order, unless `ordered`.
        config: Deadlines, retries, and `in_flight_bytes`, which bounds the memory.
        ordered: Hand on the chunks in order, from the calling thread.

    Returns:
        Bytes that were read.

    Raises:
        IntegrityError: The files are not the manifest's; the message names the object's URL, and both digests where
            its content differs.
        HubdistError: The files cannot be read, or what `write_chunk` raised.
    """
    with open_tree(copy.url, config) as tree:
        _check_listing(tree, copy, manifest)

        def stream(piece: Piece, buffer: memoryview) -> Iterator[tuple[int, memoryview]]:
            entry = manifest.entries[piece.entry_index]
            try:
                yield from tree.stream(entry.path, piece.start, piece.end, buffer, copy.files[entry.path].version)
            except IntegrityError as error:
                raise _with_digests(error, tree, entry) from None

        def write(piece: Piece, data: memoryview) -> None:
            chunk = chunk_of(manifest, (piece,))
            try:
                write_chunk(chunk, data)
            except IntegrityError as error:
                raise _placed(error, tree, manifest, chunk, data) from None

        kind = OrderedReading if ordered else UnorderedReading
        pieces, requests = _plan_requests(manifest, config.in_flight_bytes, ordered=ordered)
        reading = kind(pieces, stream, write, requests=requests, stop=tree.close)
        reading.run(timeout_s=config.timeout_s, redacted=tree.redacted)
    return manifest.total_bytes


def bytes_in_flight(config: Config) -> int:
    """Most bytes that one `copy_remote` keeps in memory, in any order."""
    return _unordered_requests(config.in_flight_bytes) * PART_BYTES


class CopyReader:
    """Reads single chunks of a remote copy, for several threads; close it.

    Args:
        copy: Where the files are.
        manifest: What they must be.
        config: Deadlines and retries.

    Raises:
        IntegrityError: The copy does not have the manifest's files.
        HubdistError: It cannot be opened.
    """

    def __init__(self, copy: RemoteCopy, manifest: Manifest, config: Config) -> None:
        self._copy = copy
        self._manifest = manifest
        self._opened = contextlib.ExitStack()
        self._tree = self._opened.enter_context(open_tree(copy.url, config))
        _check_listing(self._tree, copy, manifest)

    def read(self, chunk: Chunk, buffer: memoryview) -> None:
        """Read a chunk into a buffer of its size, unchecked.

        Raises:
            HubdistError: It cannot be read.
        """
        for part in chunk.parts(buffer):
            path = self._manifest.entries[part.piece.entry_index].path
            self._tree.read_into(path, part.piece.start, part.data, self._copy.files[path].version)

    def blame(self, error: IntegrityError, chunk: Chunk, data: memoryview) -> IntegrityError:
        """The error of a chunk that was read here, with the URL of the object that is to blame."""
        return _placed(error, self._tree, self._manifest, chunk, data)

    def close(self) -> None:
        """Drop the connections."""
        self._opened.close()


def _plan_requests(manifest: Manifest, in_flight_bytes: int, *, ordered: bool) -> tuple[list[Piece], int]:
    """What each request reads, and how many to make side by side.

    Unordered readers keep a part of a request in memory, ordered ones all of it.
    """
    requests = _requests(in_flight_bytes)
    if ordered:
        size = min(in_flight_bytes, max(_MIN_REQUEST_BYTES, in_flight_bytes // _MAX_REQUESTS))
    else:
        requests = _unordered_requests(in_flight_bytes)
        size = min(_MAX_REQUEST_BYTES, max(_MIN_REQUEST_BYTES, manifest.total_bytes // (2 * requests)))
    size = size // BLOCK_BYTES * BLOCK_BYTES
    pieces = [
        Piece(index, start, min(start + size, entry.size))
        for index, entry in enumerate(manifest.entries)
        for start in range(0, entry.size, size)
    ]
    return pieces, requests


def _requests(in_flight_bytes: int) -> int:
    return min(_MAX_REQUESTS, max(1, in_flight_bytes // _MIN_REQUEST_BYTES))


def _unordered_requests(in_flight_bytes: int) -> int:
    return max(_requests(in_flight_bytes), min(_MIN_REQUESTS, in_flight_bytes // PART_BYTES))


def _list_files(tree: Tree) -> dict[str, StoredFile]:
    files = tree.listing()
    if not files:
        raise ModelNotFoundError(f"there is no directory with files at {tree.redacted}")
    return files


def _check_listing(tree: Tree, copy: RemoteCopy, manifest: Manifest) -> None:
    """Compare names and sizes with the manifest before anything is read."""
    entries = {entry.path: entry for entry in manifest.entries}
    for path in sorted(entries.keys() | copy.files.keys()):
        if path not in entries:
            raise IntegrityError(f"{tree.url(path)} is no file of the model {manifest.digest}")
        if path not in copy.files:
            raise IntegrityError(f"{tree.url(path)}, a file of the model {manifest.digest}, is missing")
        if copy.files[path].size != entries[path].size:
            text = f"{tree.url(path)} has {copy.files[path].size} bytes instead of {entries[path].size}"
            raise _with_digests(LengthMismatchError(text), tree, entries[path])


def _with_digests(error: IntegrityError, tree: Tree, entry: Entry) -> IntegrityError:
    """The same finding with the digests of what should be there and of what is there now."""
    folder, _, name = entry.path.rpartition("/")
    actual = "nothing that can be read"
    with contextlib.suppress(HubdistError):
        file = tree.listing(folder).get(name)
        if file is not None:
            actual = f"{file.size} bytes"
        if file is not None and file.size <= _DIGESTED_BYTES:
            actual = f"sha256:{hashlib.sha256(tree.read(entry.path, 0, file.size)).hexdigest()}"
    if actual == str(entry.digest):
        return IntegrityError(f"{error.what}; the content that is there now is the model's, {actual}")
    return DigestMismatchError(error.what, expected=str(entry.digest), actual=actual)


def _placed(error: IntegrityError, tree: Tree, manifest: Manifest, chunk: Chunk, data: memoryview) -> IntegrityError:
    """The error of a chunk with the URL of the object that is to blame."""
    for part in chunk.parts(data):
        url = tree.url(manifest.entries[part.piece.entry_index].path)
        try:
            part.check(url)
        except DigestMismatchError as found:
            return DigestMismatchError(
                f"{url} is not the model's file: block {part.piece.start >> 20} and on",
                expected=found.expected,
                actual=found.actual,
            )
    return error


def _shown(file: StoredFile) -> str:
    return f"{file.size} bytes, version {file.version or 'unknown'}"
