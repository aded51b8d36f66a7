"""Puts the models of an export into a store, with the pins that let handles be resolved without a network."""

from __future__ import annotations

import contextlib
from typing import Self

from hubdist.export_file.layout import ExportLayout, FileBlock, Progress
from hubdist.export_file.reading import ExportReader
from hubdist.model.chunks import Chunk, Piece
from hubdist.model.manifest import Digest, Manifest
from hubdist.store.chunk_stage import ChunkStage
from hubdist.store.left_stages import stage_again, unmark
from hubdist.store.pins import Pins
from hubdist.store.snapshot import Snapshot
from hubdist.store.store import Store


class ModelImport:
    """One model on its way into a store. Use it as a context manager, which discards what is not published.

    Args:
        store: The store.
        manifest: The model.

    Attributes:
        kept_bytes: Bytes that the store had already, of a whole snapshot or of an import that was killed.
        snapshot: The published model, which this object keeps in use; None before.
    """

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self._store = store
        self._manifest = manifest
        self._stack = contextlib.ExitStack()
        self._stage: ChunkStage | None = None
        self._missing = {entry.digest for entry in manifest.entries if entry.size}
        self.kept_bytes = 0
        self.snapshot = store.find(manifest.digest)
        if self.snapshot is not None:
            self.kept_bytes = manifest.total_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]  # what a context manager gets
        if self.snapshot is not None:
            self.snapshot.release()

    def write(self, entry: int, block: FileBlock, data: memoryview) -> None:
        """Take a block of a file, unless the model is there already.

        Args:
            entry: The number of the file's entry in the manifest.
            block: Which block.
            data: Its bytes, checked.

        Raises:
            StoreError: The store is read-only, or the disk refuses.
        """
        if self.snapshot is None:
            piece = Piece(entry, block.start, block.start + block.size)
            self._open().write_chunk(Chunk(0, (piece,), block.digest), data)

    def end_file(self, digest: Digest) -> None:
        """Note that all blocks of a file have come, and that the whole file has its digest."""
        self._missing.discard(digest)

    def publish(self) -> Snapshot | None:
        """The published model; None as long as files are missing.

        Raises:
            IntegrityError: The model is incomplete by its own index.
            StoreError: The disk refuses.
        """
        if self.snapshot is None and not self._missing:
            stage = self._open()
            unmark(stage)
            self.snapshot = self._store.publish(stage)
            self._stack.close()
        return self.snapshot

    def _open(self) -> ChunkStage:
        if self._stage is None:
            # The reader proves the block digests of each file before it is the last one that is missing.
            manifest = Manifest(self._manifest.entries)
            self._stage, self.kept_bytes = self._stack.enter_context(stage_again(self._store, manifest))
        return self._stage


def import_export(reader: ExportReader, store: Store, progress: Progress) -> tuple[ExportLayout, list[Snapshot], int]:
    """Read a whole export, and publish each of its models once all of the model's bytes were checked.

    Args:
        reader: The export, from its first byte on.
        store: Where the models go, and the notes of which model each handle stands for.
        progress: Is told how many bytes of how many were read.

    Returns:
        What the export holds; the snapshot of each model, in the same order; and the bytes that the store had already.

    Raises:
        IntegrityError: The export is damaged; the error names the byte. Models that came before it are published.
        StoreError: The store is read-only, or the disk refuses.
    """
    layout = reader.read_layout()
    total, pins = layout.total_bytes, Pins(store.root / "pins" / "last")
    with contextlib.ExitStack() as stack:
        models = [stack.enter_context(ModelImport(store, model.manifest)) for model in layout.models]
        noted: set[int] = set()

        def publish_ready() -> None:
            for number in range(len(models)):
                if number not in noted and models[number].publish() is not None:
                    noted.add(number)
                    model = layout.models[number]
                    for handle in model.handles:
                        pins.keep_named(handle.key, handle.label, model.manifest.digest)

        for block, data in reader.blocks(layout):
            for number, entry in layout.places[block.entry.digest]:
                models[number].write(entry, block, data)
                if block.is_last:
                    models[number].end_file(block.entry.digest)
            if block.is_last:
                publish_ready()
            progress(reader.offset, total)
        publish_ready()
        snapshots = [model.snapshot for model in models if model.snapshot is not None]
        kept = sum(model.kept_bytes for model in models)
        for model in models:
            model.snapshot = None  # the caller keeps it in use
    progress(total, total)
    return layout, snapshots, kept
