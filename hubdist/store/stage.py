"""The stage for origins: takes the files of a model one after another, digests them and hands their chunks on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from hubdist.errors import IntegrityError
from hubdist.model.chunks import Chunk
from hubdist.model.digest_sink import Chunker, RepeatedFile, repeated_file
from hubdist.model.listing import model_folder
from hubdist.model.manifest import BLOCK_BYTES, Entry, EntryDigester, Manifest
from hubdist.model.paths import PathSet
from hubdist.store.folders import FILES
from hubdist.store.holds import IN_USE
from hubdist.store.stage_directory import StageDirectory, write_all
from hubdist.system.directories import remove_tree
from hubdist.system.disk import disk_errors
from hubdist.system.disk_space import Scratch, SpaceBudget
from hubdist.system.portable import sync_file


class StreamStage(StageDirectory):
    """A `FileSink` that writes one model to disk, digests its bytes on the way and refuses too large models.

    Args:
        parent: The store's staging directory.
        max_bytes: Most bytes that all files together may take; None for the free space of the disk only.
        watch: Gets each chunk when its bytes have been written, in order, in the thread that writes. The pieces of
            these chunks number the files in the order in which they were begun. None if nobody watches.
        chunk_bytes: Most bytes of such a chunk.
        keep_folder: Leave the folder that many archives have around a SavedModel.

    Attributes:
        scratch: A directory for what an origin needs beside the model; the store removes it before it publishes.

    Raises:
        StoreError: The disk refuses.
    """

    def __init__(
        self,
        parent: Path,
        *,
        max_bytes: int | None = None,
        watch: Callable[[Chunk], None] | None = None,
        chunk_bytes: int = BLOCK_BYTES,
        keep_folder: bool = False,
    ) -> None:
        super().__init__(parent, FILES)
        self._keep_folder = keep_folder
        self._chunker = None if watch is None else Chunker(chunk_bytes, watch)
        self._begun: list[str] = []
        self._paths = PathSet()
        self._entries: dict[str, Entry] = {}
        self._budget = SpaceBudget(parent, max_bytes)
        self.scratch = Scratch(self.path, self._budget)

    @contextlib.contextmanager
    def open_file(self, path: str) -> Iterator[_StagedFile | RepeatedFile]:
        """Begin a file; the file is digested and durable when the block ends without an error.

        A file that comes a second time with the same bytes leaves no trace: neither on disk nor among the chunks.

        Args:
            path: The file's path below the model's directory.

        Raises:
            UnsafeArchiveError: The path is unsafe or clashes with another one, or the file came with other bytes.
            StoreFullError: The disk is full, or `max_bytes` are used up.
            StoreError: The disk refuses otherwise.
        """
        if self._paths.repeats(path):
            with repeated_file(path, self._entries.get(path)) as writer:
                yield writer
            return
        self._paths.add_file(path)
        with disk_errors(self.files / path):
            descriptor = self._create(self.files / path)
        digester = EntryDigester(path)
        ordinal = len(self._begun)
        self._begun.append(path)
        try:
            yield _StagedFile(descriptor, digester, self, ordinal, self._budget)
            with disk_errors(self.files / path):
                sync_file(descriptor)
        finally:
            with disk_errors(self.files / path):
                os.close(descriptor)
        self._entries[path] = digester.entry()
        self._give(ordinal, digester)

    def path_of(self, ordinal: int) -> str:
        """The present path of a file below `files`; `finish` may strip a folder from it.

        Args:
            ordinal: The file's number in the order in which files were begun.
        """
        return self._begun[ordinal]

    @property
    def ordinals(self) -> tuple[int, ...]:
        """For each entry of the manifest, the number of its file in the order in which files were begun.

        This is known when `finish` has returned.
        """
        places = {path: ordinal for ordinal, path in enumerate(self._begun)}
        return tuple(places[path] for path in sorted(self._entries))

    def add_directory(self, path: str) -> None:
        """Note a directory, so that no file takes its name.

        Raises:
            UnsafeArchiveError: The path is unsafe, or a file has it.
        """
        self._paths.add_directory(path)

    def finish(self) -> Manifest:
        """The manifest of the staged files, without the folder that many archives have around a SavedModel.

        Raises:
            IntegrityError: There are no files.
            StoreError: The disk refuses.
        """
        if not self._entries:
            raise IntegrityError("the origin holds no files")
        self._strip_folder()
        if self._chunker is not None:
            self._chunker.finish()
        with disk_errors(self.path):
            for scratch in self.path.iterdir():  # an origin's, such as a download
                if scratch.name not in (FILES, IN_USE):
                    remove_tree(scratch)
        return Manifest.of(self._entries.values())

    def _strip_folder(self) -> None:
        folder = None if self._keep_folder else model_folder(self._entries)
        if folder is None:
            return
        with disk_errors(self.files):
            aside = self.path / "stripped"
            (self.files / folder).rename(aside)  # first, since something in the folder may have the folder's name
            for child in aside.iterdir():
                child.rename(self.files / child.name)
            aside.rmdir()
        moved = {path.removeprefix(f"{folder}/"): entry for path, entry in self._entries.items()}
        self._entries = {path: replace(entry, path=path) for path, entry in moved.items()}
        self._begun = [path.removeprefix(f"{folder}/") for path in self._begun]

    def _give(self, ordinal: int, digester: EntryDigester) -> None:
        """Hand the blocks that have been completed since the last call to the chunker."""
        if self._chunker is not None:
            self._chunker.add(ordinal, *digester.take_blocks())


class _StagedFile:
    def __init__(
        self, descriptor: int, digester: EntryDigester, stage: StreamStage, ordinal: int, budget: SpaceBudget
    ) -> None:
        self._descriptor = descriptor
        self._digester = digester
        self._stage = stage
        self._ordinal = ordinal
        self._budget = budget

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        self._budget.claim(len(view))
        self._digester.update(view)
        with disk_errors(self._stage.files, need_bytes=len(view)):
            write_all(self._descriptor, view, None)
        self._stage._give(self._ordinal, self._digester)
