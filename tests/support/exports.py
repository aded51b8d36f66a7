"""Exports of small models, and stores that they come from and go to."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path

from hubdist.export_file.importing import import_export
from hubdist.export_file.layout import ExportedHandle, ExportedModel, ExportLayout, Progress, no_progress
from hubdist.export_file.reading import ExportReader
from hubdist.export_file.writing import ExportSource, stream_export, write_export
from hubdist.model.handle import parse_handle
from hubdist.model.manifest import Digest
from hubdist.store.snapshot import Snapshot
from hubdist.store.store import Store
from tests.support.store_models import content, publish

Models = Mapping[str, dict[str, bytes]]
"""Handle -> path -> content of a file."""


class Exporter:
    """Models in a store, and their export.

    Args:
        root: Where the store is made.
        models: The models by handle.
    """

    def __init__(self, root: Path, models: Models) -> None:
        self.store = Store(root)
        self.snapshots: dict[Digest, Snapshot] = {}
        found = []
        for handle, files in models.items():
            snapshot = publish(self.store, files)
            self.snapshots[snapshot.manifest.digest] = snapshot
            found.append(ExportedModel((ExportedHandle.of(parse_handle(handle)),), snapshot.manifest))
        self.layout = ExportLayout(found)

    def write(self, path: Path, progress: Progress = no_progress) -> int:
        """Write the export to a file; how many bytes were kept of an earlier try."""
        return write_export(path, self.layout, ExportSource(self.layout, self.snapshots), progress)

    def data(self) -> bytes:
        """The export."""
        out = io.BytesIO()
        stream_export(out, self.layout, ExportSource(self.layout, self.snapshots), no_progress)
        return out.getvalue()


def import_bytes(data: bytes, store: Store) -> tuple[list[dict[str, bytes]], int]:
    """The files of each model that was imported, in the order of the digests, and the bytes that were there before."""
    _, snapshots, kept = import_export(ExportReader(io.BytesIO(data), "export"), store, no_progress)
    with contextlib.ExitStack() as stack:
        return [content(stack.enter_context(snapshot).path) for snapshot in snapshots], kept
