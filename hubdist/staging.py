"""Stages: where a snapshot's files are written under a temporary name before they are published.

A stage is a fresh directory that only its maker writes to. `Stage` takes what comes from an origin, file after file in
order; `filled.FilledStage` and `growing.GrowingStage` take chunks in any order.
Every file is made with O_EXCL and O_NOFOLLOW below the stage's directory and is on disk (fsync) when it is closed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from hubdist.cutting import ChunkCutter
from hubdist.disk import disk_errors, free_bytes, remove_tree, sync_directory
from hubdist.errors import IntegrityError, StoreFullError
from hubdist.makers import unique_name
from hubdist.manifest import BLOCK_BYTES, Digest, Entry, EntryDigester, Manifest, ProvenChunk
from hubdist.paths import PathSet
from hubdist.savedmodel import ModelKind, model_kind
from hubdist.snapshot import FILES

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_RESERVE_BYTES = 64 << 20
"""Free space that a stage leaves to others; a twentieth of what is free if that is less."""


class StageDirectory:
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


class Stage(StageDirectory):
    """A `FileSink` that writes one model to disk, digests it on the way and refuses what does not fit.

    Args:
        parent: The store's staging directory.
        max_bytes: Most bytes that all files together may take; None for the free space of the disk only.
        watch: Gets chunks of what has been written, in order, in the thread that writes. In them, files are numbered
            in the order in which they were begun.
        chunk_bytes: Most bytes of such a chunk.
    """

    def __init__(
        self,
        parent: Path,
        *,
        max_bytes: int | None = None,
        watch: Callable[[ProvenChunk], None] | None = None,
        chunk_bytes: int = BLOCK_BYTES,
    ) -> None:
        super().__init__(parent)
        self._cutter = None if watch is None else ChunkCutter(chunk_bytes, watch)
        self._begun: list[str] = []
        self._ordinals: dict[str, int] = {}
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
        ordinal = self._ordinals[path] = len(self._begun)
        self._begun.append(path)
        try:
            yield _StagedFile(handle, digester, self, ordinal)
            with disk_errors(self.files / path):
                os.fsync(handle)
        finally:
            with disk_errors(self.files / path):
                os.close(handle)
        self._entries[path] = digester.entry()
        self._give(ordinal, digester)

    def path_of(self, ordinal: int) -> str:
        """Where a file is below `files`, until `finish`."""
        return self._begun[ordinal]

    @property
    def ordinals(self) -> tuple[int, ...]:
        """For each entry of the manifest, which file it was in the order of `open_file`; after `finish`."""
        return tuple(self._ordinals[path] for path in sorted(self._entries))

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
        if self._cutter is not None:
            self._cutter.finish()
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
        self._ordinals = {path: self._ordinals[full] for path, full in inner.items()}

    def _give(self, ordinal: int, digester: EntryDigester) -> None:
        """Hand on the blocks that are complete and were not handed on yet."""
        if self._cutter is not None:
            start, size, blocks = digester.take_blocks()
            self._cutter.add(ordinal, start, size, blocks)


class _StagedFile:
    def __init__(self, handle: int, digester: EntryDigester, stage: Stage, ordinal: int) -> None:
        self._ordinal = ordinal
        self._handle = handle
        self._digester = digester
        self._stage = stage

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        self._stage.claim(len(view))
        self._digester.update(view)
        with disk_errors(self._stage.files, need_bytes=len(view)):
            write_all(self._handle, view, None)
        self._stage._give(self._ordinal, self._digester)


def write_at(target: Path, start: int, part: memoryview) -> None:
    """Write bytes into a staged file that is there, from `start` on."""
    with disk_errors(target, need_bytes=len(part)):
        handle = os.open(target, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            write_all(handle, part, start)
        finally:
            os.close(handle)


def check_whole(files: Path, manifest: Manifest) -> None:
    """Digest whole files and compare them with their manifest.

    Raises:
        DigestMismatchError: One differs.
    """
    for entry in manifest.entries:
        with disk_errors(files / entry.path), (files / entry.path).open("rb") as file:
            found = Digest(hashlib.file_digest(file, entry.digest.algorithm).hexdigest())
        entry.check_whole(found)


def sync_files(files: Path, manifest: Manifest) -> None:
    """Make a manifest's files durable."""
    with disk_errors(files):
        for entry in manifest.entries:
            handle = os.open(files / entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def sync_directories(root: Path) -> None:
    """Make every directory below `root`, and `root`, durable."""
    for folder, _, _ in os.walk(root, topdown=False):
        sync_directory(Path(folder))


def write_all(handle: int, view: memoryview, offset: int | None) -> None:
    """Write everything, from `offset` on or where the file is."""
    while len(view) > 0:
        written = os.write(handle, view) if offset is None else os.pwrite(handle, view, offset)
        view = view[written:]
        if offset is not None:
            offset += written
