"""Looks at every byte of a snapshot, and tells exactly what differs from its manifest. Changes nothing."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hubdist.errors import IntegrityError
from hubdist.model.chunks import Piece
from hubdist.model.manifest import BLOCK_BYTES, DIGEST_BYTES, Digest, Entry, EntryDigester, Manifest
from hubdist.store.folders import FILES, MANIFEST
from hubdist.store.holds import IN_USE
from hubdist.system.disk import disk_errors
from hubdist.system.portable import will_read_in_order


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a snapshot's directory holds.

    Attributes:
        digest: The model that it should be.
        manifest: The snapshot's own manifest; None if it cannot be read, or is another model's.
        manifest_whole: The file of the manifest has exactly the bytes that were written to it.
        found: Path -> the entry that the file with this path would have.
        strange: Paths of what is neither a file nor a directory.
        marked: The file is there by which processes keep the snapshot from being evicted.
    """

    digest: Digest
    manifest: Manifest | None
    manifest_whole: bool
    found: dict[str, Entry]
    strange: frozenset[str]
    marked: bool

    @property
    def proven_manifest(self) -> Manifest | None:
        """The manifest that the files themselves prove; None if they are not this model."""
        if self.strange:
            return None
        with contextlib.suppress(IntegrityError):  # a file whose name no model may have
            made = Manifest.of(self.found.values())
            return made if made.digest == self.digest else None
        return None

    @property
    def damage(self) -> tuple[str, ...]:
        """What is wrong, a text for each file; none for a whole snapshot."""
        if self.manifest is None:
            return (f"{MANIFEST} cannot be read, or is another model's",)
        told = []
        for entry in self.manifest.entries:
            found = self.found.get(entry.path)
            if found is None:
                told.append(f"{entry.path} is missing")
            elif found.size != entry.size:
                told.append(f"{entry.path} has {found.size} bytes instead of {entry.size}")
            elif found.digest != entry.digest:
                told.append(f"{entry.path} differs in {len(wrong_blocks(entry, found))} blocks")
        wanted = {entry.path for entry in self.manifest.entries}
        told += [f"{path} does not belong to it" for path in sorted((self.found.keys() | self.strange) - wanted)]
        if not told and (not self.manifest_whole or self.proven_manifest != self.manifest):
            told.append(f"{MANIFEST} is damaged, the files are not")
        if not self.marked:
            told.append("its marker of use is missing")
        return tuple(told)


class Pace:
    """Bounds how fast a thread reads.

    Args:
        bytes_per_s: Most bytes a second; None for no bound.
        wait: Waits so many seconds, and returns True if the work shall end; None waits and never ends it.
        clock: Tells the time in seconds.
    """

    def __init__(
        self,
        bytes_per_s: float | None = None,
        wait: Callable[[float], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bytes_per_s = bytes_per_s
        self._wait = wait or _sleep
        self._clock = clock
        self._free_at = clock()

    def took(self, size: int) -> None:
        """Note that bytes were read, and wait until more may be.

        Raises:
            StoppedError: The work shall end.
        """
        if self._bytes_per_s is not None:
            self._free_at = max(self._free_at, self._clock()) + size / self._bytes_per_s
        if self._wait(max(0.0, self._free_at - self._clock())):
            raise StoppedError


class StoppedError(Exception):
    """Somebody wants the work to end. Whoever gave the `Pace` handles it."""


def _sleep(seconds: float) -> bool:
    if seconds > 0:
        time.sleep(seconds)
    return False


def inspect(path: Path, digest: Digest, pace: Pace) -> Inspection:
    """Read every byte of a snapshot.

    Args:
        path: The snapshot's directory.
        digest: The model that it should be.
        pace: Bounds how fast it is read.

    Raises:
        FileNotFoundError: There is no such directory.
        StoreError: The disk refuses.
        StoppedError: The pace was told to end.
    """
    path.lstat()
    marked = (path / IN_USE).is_file()
    manifest, whole = read_manifest(path, digest)
    found: dict[str, Entry] = {}
    strange = set()
    for name, status in _walk(path / FILES):
        if stat.S_ISREG(status.st_mode):
            found[name] = digest_file(path / FILES / name, name, pace)
        else:
            strange.add(name)
    return Inspection(digest, manifest, whole, found, frozenset(strange), marked)


def read_manifest(path: Path, digest: Digest) -> tuple[Manifest | None, bool]:
    """The manifest in a snapshot's directory, or None; and whether its file is exactly as it was written.

    Args:
        path: The snapshot's directory.
        digest: The digest that the manifest must have.

    Raises:
        StoreError: The disk refuses.
    """
    try:
        with disk_errors(path / MANIFEST):
            data = _read_regular(path / MANIFEST)
        manifest = Manifest.from_json(data)
    except IntegrityError:
        return None, False
    return (manifest, data == manifest.to_json()) if manifest.digest == digest else (None, False)


def digest_file(file: Path, name: str, pace: Pace) -> Entry:
    """The entry of a file as it is now.

    Args:
        file: The file.
        name: Its path below the model's directory.
        pace: Bounds how fast it is read.

    Raises:
        StoreError: The disk refuses.
        StoppedError: The pace was told to end.
    """
    digester = EntryDigester(name)
    with disk_errors(file):
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            will_read_in_order(descriptor)
            while data := os.read(descriptor, BLOCK_BYTES):
                digester.update(data)
                pace.took(len(data))
        finally:
            os.close(descriptor)
    return digester.entry()


def wrong_blocks(entry: Entry, found: Entry | None) -> list[Piece]:
    """The blocks of an entry that a file does not have, as pieces of file 0, each of one block.

    All blocks are wrong if the digest of the whole file differs and none of the blocks' does.

    Args:
        entry: What the file must be.
        found: What the file is; None if there is none.
    """
    starts = range(0, entry.size, BLOCK_BYTES)
    pieces = [Piece(0, start, min(start + BLOCK_BYTES, entry.size)) for start in starts]
    if found is None:
        return pieces
    wrong = [piece for piece in pieces if _block(entry, piece) != _block(found, piece)]
    return pieces if not wrong and found.digest != entry.digest and found.size == entry.size else wrong


def _block(entry: Entry, piece: Piece) -> bytes:
    number = piece.start // BLOCK_BYTES
    return entry.block_digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]


def _read_regular(file: Path) -> bytes:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as opened:
            return opened.read()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise IntegrityError(f"{file} is not a file") from None


def _walk(folder: Path, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Everything below a directory but directories: path below it, and status; nothing if it is not there."""
    with disk_errors(folder):
        try:
            items = sorted(os.scandir(folder), key=lambda item: item.name)
        except (FileNotFoundError, NotADirectoryError):
            return
    for item in items:
        if item.is_dir(follow_symlinks=False):
            yield from _walk(Path(item.path), f"{prefix}{item.name}/")
        else:
            with disk_errors(folder):
                yield f"{prefix}{item.name}", item.stat(follow_symlinks=False)
