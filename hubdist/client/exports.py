"""Models as one file, for clusters without a network: `export_models` and `import_models`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hubdist.client.current import current_process
from hubdist.client.process import Process
from hubdist.errors import ConfigError
from hubdist.export_file.importing import import_export
from hubdist.export_file.layout import ExportedHandle, ExportedModel, ExportLayout, no_progress
from hubdist.export_file.reading import ExportReader
from hubdist.export_file.writing import ExportSource, stream_export, write_export
from hubdist.model.handle import BUILT_IN_SCHEMES, Handle, handle_text, parse_handle
from hubdist.model.manifest import Digest
from hubdist.resolver.node_store import open_store
from hubdist.resolver.values import CallOptions
from hubdist.store.snapshot import Snapshot
from hubdist.system.disk import disk_errors, working_directory

_OUTSIDE = "outside"
"""The id of the node of a Ray Client, whose machine is none of the cluster's."""

_File = str | os.PathLike[str] | BinaryIO


@dataclass(frozen=True, slots=True)
class ModelOfFile:
    """A model that was exported or imported.

    Attributes:
        handles: What stands for it, without secrets.
        loadable: Those of the handles that hold no secret, so that they can be loaded as they stand here.
        digest: The model.
        total_bytes: Bytes of all files.
        directory: The model's directory in this node's store.
    """

    handles: tuple[str, ...]
    loadable: tuple[str, ...]
    digest: str
    total_bytes: int
    directory: str


@dataclass(frozen=True, slots=True)
class FileReport:
    """What an export or import did.

    Attributes:
        models: The models, sorted by digest.
        total_bytes: Bytes of the whole file.
        kept_bytes: Bytes that did not have to be written, because an earlier run, or the store, had them already.
    """

    models: tuple[ModelOfFile, ...]
    total_bytes: int
    kept_bytes: int


def export_models(
    file: _File,
    handles: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    progress: Callable[[int, int], None] = no_progress,
) -> FileReport:
    """Write models into one file, which `import_models` reads where there is no network.

    Models that this node lacks are brought to it first. The file is written as `<file>.part`, and gets its name when it
    is whole. If the process is killed, the next one checks what is there and goes on with it. The file is an
    uncompressed tar archive, and holds no secrets of handles. Equal models give equal bytes.

    Args:
        file: The path of the file, or a binary stream.
        handles: One handle or several.
        progress: Gets how many bytes of how many are written, often.

    Raises:
        IntegrityError: A snapshot in the store is damaged.
        StoreError: The disk refuses, or another process writes the same file.
        HubdistError: A model cannot be brought to this node, as for `load`.
    """
    process = current_process()
    several = [handles] if isinstance(handles, (str, os.PathLike)) else list(handles)
    if not several:
        raise ConfigError("there are no handles to export")
    with contextlib.ExitStack() as stack:
        snapshots: dict[Digest, Snapshot] = {}
        models = []
        for text in map(handle_text, several):
            snapshot = process.backend.locate(process.pin_of(text, CallOptions.checked(None, "store")))
            stack.enter_context(snapshot)
            snapshots[snapshot.manifest.digest] = snapshot
            models.append(ExportedModel((ExportedHandle.of(_parse(text, process)),), snapshot.manifest))
        layout = ExportLayout(models)
        source, kept = ExportSource(layout, snapshots), 0
        if isinstance(file, (str, os.PathLike)):
            kept = write_export(Path(file), layout, source, progress)
        else:
            stream_export(file, layout, source, progress)
        return _report(layout, [snapshots[model.manifest.digest] for model in layout.models], kept)


def import_models(file: _File, *, progress: Callable[[int, int], None] = no_progress) -> FileReport:
    """Read a file of `export_models` into this node's store. No network is asked.

    Every byte of the file is checked, and a model is published when all of its own were. The store then knows which
    model each handle stands for. So with `offline`, or for handles whose bytes never change, `load` works on all nodes
    of a cluster whose driver runs on this node; the others get the files from here. After a kill, the next call keeps
    what has been written.

    Args:
        file: The path of the file, or a binary stream.
        progress: Gets how many bytes of how many are read, often.

    Raises:
        ConfigError: This process is a Ray Client, whose machine has no store of the cluster.
        IntegrityError: The file is damaged; the error names the byte. Models that came before it are published.
        StoreError: The store is read-only, or the disk refuses.
    """
    process = current_process()
    if process.backend.node_id == _OUTSIDE:
        raise ConfigError(
            "a Ray Client cannot import: its machine has no store of the cluster",
            advice="Run it on a node, as by ray job submit -- hubdist import FILE.",
        )
    store = open_store(process.config, process.backend.node_id)
    with contextlib.ExitStack() as stack:
        if isinstance(file, (str, os.PathLike)):
            path = Path(file)
            with disk_errors(path, setting="the file"):
                stream: BinaryIO = stack.enter_context(path.open("rb", buffering=0))
            reader = ExportReader(stream, str(path))
        else:
            reader = ExportReader(file, "standard input")
        layout, snapshots, kept = import_export(reader, store, progress)
        for snapshot in snapshots:
            stack.enter_context(snapshot)
        return _report(layout, snapshots, kept)


def _report(layout: ExportLayout, snapshots: Iterable[Snapshot], kept: int) -> FileReport:
    models = tuple(
        ModelOfFile(
            tuple(handle.label for handle in model.handles),
            tuple(handle.label for handle in model.handles if handle.whole),
            str(model.manifest.digest),
            model.manifest.total_bytes,
            str(snapshot.path),
        )
        for model, snapshot in zip(layout.models, snapshots, strict=True)
    )
    return FileReport(models, layout.total_bytes, kept)


def _parse(text: str, process: Process) -> Handle:
    """The handle as the job understands it, whose own origins this process may not know."""
    scheme = text.partition("://")[0].lower()
    custom = ({scheme} - BUILT_IN_SCHEMES) | set(process.config.origins)
    return parse_handle(text, base_dir=working_directory(), custom_schemes=custom)
