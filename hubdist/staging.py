"""Stages: where a snapshot's files are written under a temporary name before they are published.

A stage is a fresh directory that only its maker writes to. Two kinds of writing: `Stage.open_file`, file after file
in order, for what comes from an origin; `FilledStage.write_chunk`, chunks in any order, for what comes from peers.
Every file is made with O_EXCL and O_NOFOLLOW below the stage's directory and is on disk (fsync) when it is closed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from hubdist.disk import disk_errors, free_bytes, remove_tree, sync_directory
from hubdist.errors import IntegrityError, StoreFullError
from hubdist.makers import unique_name
from hubdist.manifest import BLOCK_BYTES, Chunk, Digest, Entry, EntryDigester, Manifest
from hubdist.paths import PathSet, check_entry_path
from hubdist.savedmodel import ModelKind, model_kind
from hubdist.snapshot import FILES

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_RESERVE_BYTES = 64 << 20
"""Free space that a stage leaves to others; a twentieth of what is free if that is less."""


class _StageDirectory:
    """A fresh directory with the model's files below `files`; removed on leaving unless it was published."""

    def __init__(self, parent: Path) -> None:
        with disk_errors(parent):
            self.path = parent / unique_name()
        self.files = self.path / FILES
        try:
            with disk_errors(self.path):
                self.path.mkdir(mode=0o700)
                self.files.mkdir(mode=0o700)
        except BaseException:
            self.discard()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def discard(self) -> None:
        """Delete what was staged; harmless after publishing, for the directory has moved then."""
        remove_tree(self.path)

    def _create(self, path: str) -> int:
        target = self.files / path
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(target, _NEW_FILE, 0o600)


class Stage(_StageDirectory):
    """A `FileSink` that writes one model to disk, digests it on the way and refuses what does not fit.

    Args:
        parent: The store's staging directory.
        max_bytes: Most bytes that all files together may take; None for the free space of the disk only.
    """

    def __init__(self, parent: Path, *, max_bytes: int | None = None) -> None:
        super().__init__(parent)
        self._paths = PathSet()
        self._entries: dict[str, Entry] = {}
        self._written = 0
        free = free_bytes(parent)
        self._room = free - min(_RESERVE_BYTES, free // 20)
        self._max_bytes = max_bytes

    @contextlib.contextmanager
    def open_file(self, path: str) -> Iterator[_StagedFile]:
        """Begin a file; it is digested and durable when the block ends without an error."""
        self._paths.add_file(path)
        with disk_errors(self.files / path):
            handle = self._create(path)
        digester = EntryDigester(path)
        try:
            yield _StagedFile(handle, digester, self)
            with disk_errors(self.files / path):
                os.fsync(handle)
        finally:
            with disk_errors(self.files / path):
                os.close(handle)
        self._entries[path] = digester.entry()

    def add_directory(self, path: str) -> None:
        """Note a directory, so that no file takes its name."""
        self._paths.add_directory(path)

    def claim(self, size: int) -> None:
        """Count bytes that are about to be written.

        Raises:
            StoreFullError: They do not fit under `max_bytes` or on the disk.
        """
        self._written += size
        limit = self._room if self._max_bytes is None else min(self._room, self._max_bytes)
        if self._written > limit:
            why = "its disk has free" if limit == self._room else "max_bytes allows"
            raise StoreFullError(
                f"the model needs more than the {limit} bytes that {why} at {self.path.parent}",
                path=str(self.path.parent),
                need_bytes=self._written,
                free_bytes=limit,
                advice="Free space, raise max_bytes or set store to another disk.",
            )

    def finish(self) -> Manifest:
        """The manifest of what was staged; a single top-level folder around a SavedModel is stripped.

        Raises:
            IntegrityError: Nothing was staged.
        """
        if not self._entries:
            raise IntegrityError("the origin holds no files")
        self._strip_folder()
        with disk_errors(self.path):
            for scratch in self.path.iterdir():  # of an origin, such as a download
                if scratch != self.files:
                    scratch.unlink() if scratch.is_symlink() or scratch.is_file() else remove_tree(scratch)
        return Manifest.of(self._entries.values())

    def _strip_folder(self) -> None:
        folders = {path.partition("/")[0] for path in self._entries}
        folder = next(iter(folders))
        inner = {path.removeprefix(f"{folder}/"): path for path in self._entries if path.startswith(f"{folder}/")}
        if len(folders) > 1 or len(inner) != len(self._entries) or model_kind(inner) is ModelKind.OTHER:
            return
        with disk_errors(self.files):
            aside = self.path / "stripped"
            self.files.rename(aside)
            (aside / folder).rename(self.files)
            aside.rmdir()
        old = self._entries
        self._entries = {
            path: Entry(path, old[full].size, old[full].digest, old[full].blocks) for path, full in inner.items()
        }


class _StagedFile:
    def __init__(self, handle: int, digester: EntryDigester, stage: Stage) -> None:
        self._handle = handle
        self._digester = digester
        self._stage = stage

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        self._stage.claim(len(view))
        self._digester.update(view)
        with disk_errors(self._stage.files, need_bytes=len(view)):
            _write_all(self._handle, view, None)


class DigestSink:
    """A `FileSink` that keeps nothing: it tells which model the files are, for nodes that have no disk for them."""

    def __init__(self) -> None:
        self._paths = PathSet()
        self._entries: list[Entry] = []

    @contextlib.contextmanager
    def open_file(self, path: str) -> Iterator[_Digested]:
        """Begin a file."""
        self._paths.add_file(path)
        digester = EntryDigester(path)
        yield _Digested(digester)
        self._entries.append(digester.entry())

    def add_directory(self, path: str) -> None:
        """Note a directory, so that no file takes its name."""
        self._paths.add_directory(path)

    def finish(self) -> Manifest:
        """The manifest of what came.

        Raises:
            IntegrityError: Nothing came.
        """
        if not self._entries:
            raise IntegrityError("the origin holds no files")
        return Manifest.of(self._entries)


class _Digested:
    def __init__(self, digester: EntryDigester) -> None:
        self.write = digester.update


class FilledStage(_StageDirectory):
    """A stage for a known manifest, filled chunk by chunk in any order, from any thread.

    Every chunk is checked against the manifest before it is written, and a stage is finished only with all of them,
    so it holds exactly the manifest's bytes.

    Args:
        parent: The store's staging directory.
        manifest: What will be there.
        unproven: The manifest's block digests are not to be trusted; digest whole files before publishing.
    """

    def __init__(self, parent: Path, manifest: Manifest, *, unproven: bool = False) -> None:
        room = free_bytes(parent)
        if manifest.total_bytes > room:
            raise StoreFullError(
                f"the model has {manifest.total_bytes} bytes, the disk at {parent} has {room} free",
                path=str(parent),
                need_bytes=manifest.total_bytes,
                free_bytes=room,
                advice="Free space, lower max_bytes or set store to another disk.",
            )
        super().__init__(parent)
        self._manifest = manifest
        self._unproven = unproven
        self._blocks_left = {
            (index, start)
            for index, entry in enumerate(manifest.entries)
            for start in range(0, entry.size, BLOCK_BYTES)
        }
        try:
            with disk_errors(self.files, need_bytes=manifest.total_bytes):
                for entry in manifest.entries:
                    handle = self._create(check_entry_path(entry.path))
                    try:
                        os.ftruncate(handle, entry.size)
                    finally:
                        os.close(handle)
        except BaseException:
            self.discard()
            raise

    def write_chunk(self, chunk: Chunk, data: memoryview) -> None:
        """Check a chunk's bytes and write them into their files.

        Raises:
            DigestMismatchError: The bytes are not the manifest's; nothing was written.
            StoreFullError, StoreError: The disk refuses.
        """
        if len(data) != chunk.size:
            raise IntegrityError(f"chunk {chunk.index} came with {len(data)} bytes instead of {chunk.size}")
        parts: list[tuple[Entry, int, memoryview]] = []
        at = 0
        for piece in chunk.pieces:
            entry = self._manifest.entries[piece.entry_index]
            part = data[at : at + piece.end - piece.start]
            entry.check_range(piece.start, part)
            parts.append((entry, piece.start, part))
            at += len(part)
        for entry, start, part in parts:
            target = self.files / entry.path
            with disk_errors(target, need_bytes=len(part)):
                handle = os.open(target, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    _write_all(handle, part, start)
                finally:
                    os.close(handle)
        for piece in chunk.pieces:
            self._blocks_left.difference_update(
                (piece.entry_index, start) for start in range(piece.start, piece.end, BLOCK_BYTES)
            )

    def finish(self) -> Manifest:
        """Make every file durable and return the manifest.

        Raises:
            IntegrityError: Not all chunks were written, or a whole file is not the manifest's.
            StoreError: The disk refuses.
        """
        if self._blocks_left:
            raise IntegrityError(f"{len(self._blocks_left)} blocks of {self._manifest.digest} have not arrived")
        if self._unproven:
            for entry in self._manifest.entries:
                self._check_whole(entry)
        with disk_errors(self.files):
            for entry in self._manifest.entries:
                handle = os.open(self.files / entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
        return self._manifest

    def _check_whole(self, entry: Entry) -> None:
        with disk_errors(self.files / entry.path), (self.files / entry.path).open("rb") as file:
            found = Digest(hashlib.file_digest(file, entry.digest.algorithm).hexdigest())
        entry.check_whole(found)


def sync_directories(root: Path) -> None:
    """Make every directory below `root`, and `root`, durable."""
    for folder, _, _ in os.walk(root, topdown=False):
        sync_directory(Path(folder))


def _write_all(handle: int, view: memoryview, offset: int | None) -> None:
    while len(view) > 0:
        written = os.write(handle, view) if offset is None else os.pwrite(handle, view, offset)
        view = view[written:]
        if offset is not None:
            offset += written
