"""Mends a damaged snapshot where it lies, block by block, with blocks that others have.

Only wrong bytes are written, each block after it was checked, and never a right one: so processes that have the
snapshot open see each block wrong or right, as before, and a repair that is stopped anywhere leaves the snapshot less
damaged. A snapshot counts as repaired when its files are again exactly those that its digest names.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from hubdist.care.inspection import Inspection, Pace, digest_file, wrong_blocks
from hubdist.errors import HubdistError, IntegrityError
from hubdist.model.chunks import Piece, chunk_of
from hubdist.model.manifest import BLOCK_BYTES, Digest, Entry, Manifest
from hubdist.model.paths import check_entry_path
from hubdist.store.folders import FILES, MANIFEST
from hubdist.store.holds import IN_USE
from hubdist.store.snapshot import check_snapshot
from hubdist.store.stage_directory import make_read_only, write_all
from hubdist.system.directories import remove_tree
from hubdist.system.disk import disk_errors, mode_below, unique_name, write_durably
from hubdist.system.portable import sync_file

_LOG = logging.getLogger(__name__)
_MAX_READ_BYTES = 4 << 20


class BlockSource(Protocol):
    """Where right bytes may be had. Any method may raise a `HubdistError`; then the next source is asked."""

    @property
    def name(self) -> str:
        """What reports call it, without secrets."""
        ...

    def manifest(self, digest: Digest) -> Manifest | None:
        """The manifest of a model; None if the source does not have the model."""
        ...

    def read(self, manifest: Manifest, piece: Piece) -> bytes:
        """Bytes of one file, which nobody has checked.

        Args:
            manifest: What `manifest` gave.
            piece: Whole blocks of one file, at most 4 MiB.
        """
        ...


def repair(path: Path, inspection: Inspection, sources: Sequence[BlockSource]) -> tuple[Inspection, tuple[str, ...]]:
    """Mend a snapshot as far as the sources go. The caller holds the snapshot.

    Args:
        path: The snapshot's directory.
        inspection: What is in it.
        sources: Where to get blocks, the nearest first.

    Returns:
        What is in it now, and the names of the sources that gave something.

    Raises:
        StoreError: The disk refuses.
    """
    found, used = inspection, []
    with _writable(path / FILES):
        if found.manifest is not None:
            found = _without_surplus(path, found, found.manifest)
        for source in sources:
            if found.proven_manifest is not None:
                break
            before = found
            found, failure = _take(path, found, source)
            if failure is not None:
                _LOG.warning("hubdist: %s does not give all blocks of %s: %s", source.name, found.digest, failure)
            if found != before:
                used.append(source.name)
    proven = found.proven_manifest
    if proven is not None:
        _complete(path, proven)
        found = replace(found, manifest=proven, manifest_whole=True, marked=True)
    return found, tuple(used)


def _without_surplus(path: Path, inspection: Inspection, manifest: Manifest) -> Inspection:
    """Delete what a manifest does not have."""
    wanted = {entry.path for entry in manifest.entries}
    for name in (inspection.found.keys() | inspection.strange) - wanted:
        with disk_errors(path / FILES / name):
            (path / FILES / name).unlink(missing_ok=True)
    found = {name: entry for name, entry in inspection.found.items() if name in wanted}
    return replace(inspection, found=found, strange=inspection.strange & wanted)


def _take(path: Path, inspection: Inspection, source: BlockSource) -> tuple[Inspection, HubdistError | None]:
    """Mend all files with the blocks of one source; what is there now, and why the source did not give all of them."""
    try:
        manifest = source.manifest(inspection.digest)
        if manifest is None:
            return inspection, None
        if manifest.digest != inspection.digest:
            raise IntegrityError(f"{source.name} gave the manifest of another model")
    except HubdistError as error:
        return inspection, error
    inspection = _without_surplus(path, inspection, manifest)
    found, failure = dict(inspection.found), None
    for number, entry in enumerate(manifest.entries):
        before, file = found.get(entry.path), path / FILES / check_entry_path(entry.path)
        if before is None or before.digest != entry.digest:
            trusted = [known for known in (manifest, inspection.manifest) if known is not None]
            failure = _mend(file, number, before, trusted, source) or failure
            found[entry.path] = digest_file(file, entry.path, Pace())
            if failure is not None and not isinstance(failure, IntegrityError):
                break  # the source is gone; a block that is damaged there, too, would not end it
    return replace(inspection, found=found, strange=frozenset()), failure


def _mend(
    file: Path, number: int, found: Entry | None, manifests: Sequence[Manifest], source: BlockSource
) -> HubdistError | None:
    """Write the wrong blocks of one file; the last error of the source, if it did not give all of them.

    Args:
        file: The file; it need not be there.
        number: The number of its entry.
        found: What the file is; None if there is none.
        manifests: The source's manifest, and the snapshot's own if it can be read. They differ in block digests only,
            if in anything, and a block that fits one of them is taken: the digest of the whole file decides in the end.
        source: Where to get the blocks.
    """
    entry, failure = manifests[0].entries[number], None
    with disk_errors(file, need_bytes=entry.size), _opened(file) as descriptor:
        os.ftruncate(descriptor, entry.size)
        wrong = wrong_blocks(entry, found)
        todo = list(_joined(wrong))[::-1]
        while todo:
            piece = replace(todo.pop(), entry_index=number)
            try:
                data = memoryview(source.read(manifests[0], piece))
                _check(data, piece, manifests)
            except IntegrityError as error:
                if piece.size <= BLOCK_BYTES:
                    failure = error
                else:  # some of its blocks may be right
                    todo += [block for block in wrong[::-1] if piece.start <= block.start < piece.end]
            except HubdistError as error:
                return error
            else:
                write_all(descriptor, data, piece.start)
        sync_file(descriptor)
    return failure


def _check(data: memoryview, piece: Piece, manifests: Sequence[Manifest]) -> None:
    """Check bytes against block digests; bytes of several blocks against those of one manifest."""
    *others, last = manifests
    for manifest in others:
        with contextlib.suppress(IntegrityError):
            chunk_of(manifest, (piece,)).check(data)
            return
    chunk_of(last, (piece,)).check(data)


def _joined(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """Neighbours as one piece of at most 4 MiB."""
    joined: Piece | None = None
    for piece in pieces:
        if joined is not None and joined.end == piece.start and piece.end - joined.start <= _MAX_READ_BYTES:
            joined = replace(joined, end=piece.end)
            continue
        if joined is not None:
            yield joined
        joined = piece
    if joined is not None:
        yield joined


@contextlib.contextmanager
def _writable(files: Path) -> Iterator[None]:
    """Let this user change a model's files while the block runs."""
    with disk_errors(files):
        if not files.is_dir():
            files.mkdir(mode=0o755)
        for folder, _, _ in os.walk(files):
            Path(folder).chmod(0o755)
    try:
        yield
    finally:
        with disk_errors(files):
            make_read_only(files)


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[int]:
    """Open a file of a snapshot for writing; it is made, and so are the directories above it, if they are missing."""
    file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if os.path.lexists(file):
        if stat.S_ISREG(file.lstat().st_mode):
            file.chmod(0o644)
        else:
            remove_tree(file)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _complete(path: Path, manifest: Manifest) -> None:
    """Give a snapshot whose files are right its manifest and its marker, and check it as every reader does.

    Raises:
        StoreError: The disk refuses, or others may write to a part of the snapshot.
    """
    with disk_errors(path):
        if not os.path.lexists(path / IN_USE):
            os.close(os.open(path / IN_USE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        mode = mode_below(path.parents[1])
        write_durably(path / MANIFEST, manifest.to_json(), unique_name(), mode=mode & 0o644)
        check_snapshot(manifest.digest, path)
