"""Stages: where a snapshot's files are written under a temporary name before they are published.

A stage is a fresh directory that only its maker writes to. `StreamStage` takes what comes from an origin, one file
after another; `ChunkStage` and `FilledStage` of `chunk_stage` take chunks in any order.
Every file is made with O_EXCL and O_NOFOLLOW below the stage's directory and is on disk (fsync) when it is finished.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from hubdist.errors import IntegrityError
from hubdist.model.chunker import ChunkCutter
from hubdist.model.digest_sink import RepeatedFile, repeated_file
from hubdist.model.listing import model_folder
from hubdist.model.manifest import BLOCK_BYTES, Digest, Entry, EntryDigester, Manifest, ProvenChunk
from hubdist.model.paths import PathSet
from hubdist.store.holds import IN_USE, HeldDirectory
from hubdist.store.snapshot import FILES
from hubdist.system.disk import disk_errors, remove_tree, sync_directory
from hubdist.system.disk_space import Scratch, SpaceBudget

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class StageDirectory(HeldDirectory):
    """A fresh directory with the model's files below `files`; removed on leaving unless it was published.

    Args:
        parent: The store's staging directory.
        folders: Names of the directories in it.
    """

    def __init__(self, parent: Path, *folders: str) -> None:
        super().__init__(parent, *folders)
        self.files = self.path / FILES

    def _create(self, target: Path) -> int:
        """Make a file and the directories above it."""
        self._make_parents(target)
        return os.open(target, _NEW_FILE, 0o600)

    def _make_parents(self, target: Path) -> None:
        """Make the directories above a file; but not the stage itself, if it was discarded or a cleaner removed it."""
        for folder in reversed(target.relative_to(self.path).parents[:-1]):
            (self.path / folder).mkdir(mode=0o700, exist_ok=True)


class StreamStage(StageDirectory):
    """A `FileSink` that writes one model to disk, digests it on the way and refuses what does not fit.

    Args:
        parent: The store's staging directory.
        max_bytes: Most bytes that all files together may take; None for the free space of the disk only.
        watch: Gets chunks of what has been written, in order, in the thread that writes. In them, files are numbered
            in the order in which they were begun.
        chunk_bytes: Most bytes of such a chunk.

    Attributes:
        scratch: For what an origin needs beside the model; it is gone when the model is published.
    """

    def __init__(
        self,
        parent: Path,
        *,
        max_bytes: int | None = None,
        watch: Callable[[ProvenChunk], None] | None = None,
        chunk_bytes: int = BLOCK_BYTES,
    ) -> None:
        super().__init__(parent, FILES)
        self._cutter = None if watch is None else ChunkCutter(chunk_bytes, watch)
        self._begun: list[str] = []
        self._paths = PathSet()
        self._entries: dict[str, Entry] = {}
        self._room = SpaceBudget(parent, max_bytes)
        self.scratch = Scratch(self.path, self._room)

    @contextlib.contextmanager
    def open_file(self, path: str) -> Iterator[_StagedFile | RepeatedFile]:
        """Begin a file; it is digested and durable when the block ends without an error.

        One that comes a second time with the same bytes leaves no trace: neither on disk nor among the chunks.
        """
        if self._paths.repeats(path):
            with repeated_file(path, self._entries.get(path)) as writer:
                yield writer
            return
        self._paths.add_file(path)
        with disk_errors(self.files / path):
            handle = self._create(self.files / path)
        digester = EntryDigester(path)
        ordinal = len(self._begun)
        self._begun.append(path)
        try:
            yield _StagedFile(handle, digester, self, ordinal, self._room)
            with disk_errors(self.files / path):
                os.fsync(handle)
        finally:
            with disk_errors(self.files / path):
                os.close(handle)
        self._entries[path] = digester.entry()
        self._give(ordinal, digester)

    def path_of(self, ordinal: int) -> str:
        """Where a file is below `files`; `finish` may change that."""
        return self._begun[ordinal]

    @property
    def ordinals(self) -> tuple[int, ...]:
        """For each entry of the manifest, which file it was in the order of `open_file`; after `finish`."""
        places = {path: ordinal for ordinal, path in enumerate(self._begun)}
        return tuple(places[path] for path in sorted(self._entries))

    def add_directory(self, path: str) -> None:
        """Note a directory, so that no file takes its name."""
        self._paths.add_directory(path)

    def finish(self) -> Manifest:
        """The manifest of what was staged; a top-level folder around a SavedModel is stripped, see `model_folder`.

        Raises:
            IntegrityError: Nothing was staged.
        """
        if not self._entries:
            raise IntegrityError("the origin holds no files")
        self._strip_folder()
        if self._cutter is not None:
            self._cutter.finish()
        with disk_errors(self.path):
            for scratch in self.path.iterdir():  # of an origin, such as a download
                if scratch.name not in (FILES, IN_USE):
                    remove_tree(scratch)
        return Manifest.of(self._entries.values())

    def _strip_folder(self) -> None:
        folder = model_folder(self._entries)
        if folder is None:
            return
        with disk_errors(self.files):
            aside = self.path / "stripped"
            (self.files / folder).rename(aside)  # first: something in it may have its name
            for child in aside.iterdir():
                child.rename(self.files / child.name)
            aside.rmdir()
        moved = {path.removeprefix(f"{folder}/"): entry for path, entry in self._entries.items()}
        self._entries = {path: Entry(path, entry.size, entry.digest, entry.blocks) for path, entry in moved.items()}
        self._begun = [path.removeprefix(f"{folder}/") for path in self._begun]

    def _give(self, ordinal: int, digester: EntryDigester) -> None:
        """Hand on the blocks that are complete and were not handed on yet."""
        if self._cutter is not None:
            start, size, blocks = digester.take_blocks()
            self._cutter.add(ordinal, start, size, blocks)


class _StagedFile:
    def __init__(
        self, handle: int, digester: EntryDigester, stage: StreamStage, ordinal: int, room: SpaceBudget
    ) -> None:
        self._handle = handle
        self._digester = digester
        self._stage = stage
        self._ordinal = ordinal
        self._room = room

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        self._room.claim(len(view))
        self._digester.update(view)
        with disk_errors(self._stage.files, need_bytes=len(view)):
            write_all(self._handle, view, None)
        self._stage._give(self._ordinal, self._digester)


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
