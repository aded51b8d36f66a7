"""Stages that go on where a killed process has stopped: what it has written is checked and kept.

A stage whose maker is dead is removed by whoever stages next. So a stage that should be taken up again has a mark that
names its model, and who takes it up holds an exclusive lock on it, which keeps others from removing it meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from hubdist.errors import StoreFullError
from hubdist.model.chunks import Piece, chunk_of
from hubdist.model.manifest import BLOCK_BYTES, DIGEST_BYTES, Digest, Entry, Manifest, digest_block
from hubdist.store.chunk_stage import COMING, ChunkStage
from hubdist.store.folders import FILES
from hubdist.store.holds import IN_USE, remove_unheld
from hubdist.store.store import Store
from hubdist.system.directories import children
from hubdist.system.disk import disk_errors
from hubdist.system.locks import LockResult, try_proven_lock, unlock_and_close

_MARK = "model"
"""A file in a stage that names the model; nothing reads it in a snapshot."""


@contextlib.contextmanager
def stage_again(store: Store, manifest: Manifest) -> Iterator[tuple[ChunkStage, int]]:
    """A stage that begins with the blocks that killed processes have left of the same model, if any are there.

    Args:
        store: The store.
        manifest: The model. Its block digests need not be proven: blocks that are kept were checked against them, and
            the caller proves them before it publishes.

    Yields:
        The stage, and how many bytes it begins with.

    Raises:
        StoreError: The store is read-only, the disk refuses, or there is no room.
    """
    with contextlib.ExitStack() as stack:
        left = [] if store.read_only else _lock_left(store.root / "staging", manifest.digest, stack)
        try:
            stage = stack.enter_context(store.stage_chunks(manifest))
        except StoreFullError:
            if not left:
                raise
            left = []
            stack.close()  # which removes what is left; perhaps only that fills the disk
            stage = stack.enter_context(store.stage_chunks(manifest))
        with disk_errors(stage.path):
            (stage.path / _MARK).write_text(str(manifest.digest))
            kept = sum(_take_up(stage, manifest, path) for path in left)
        try:
            yield stage, kept
        except KeyboardInterrupt:
            stage.forget()  # for the next try, as if the process had been killed
            raise


def unmark(stage: ChunkStage) -> None:
    """Take the mark away before the stage is published.

    Raises:
        StoreError: The disk refuses.
    """
    with disk_errors(stage.path):
        (stage.path / _MARK).unlink(missing_ok=True)


def _lock_left(staging: Path, digest: Digest, stack: contextlib.ExitStack) -> list[Path]:
    """The stages of dead processes with the mark of a model, locked until the stack ends, and removed then."""
    found = []
    for path in sorted(children(staging)):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if (path / _MARK).read_text() != str(digest):
                continue
            marker = os.open(path / IN_USE, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            taken = False
            try:
                taken = try_proven_lock(marker, fcntl.LOCK_EX, path / IN_USE) is LockResult.TAKEN
            finally:
                if not taken:
                    os.close(marker)
            if not taken:
                continue
            stack.callback(_remove, path)  # called last, when the lock is free again
            stack.callback(unlock_and_close, marker)
            found.append(path)
    return found


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        remove_unheld(path)


def _take_up(stage: ChunkStage, manifest: Manifest, left: Path) -> int:
    """Move the files of a dead stage that are not in the new one yet; how many of their bytes are right."""
    kept = 0
    for number, entry in enumerate(manifest.entries):
        for file in (left / COMING / str(number), left / FILES / entry.path):
            if entry.size and _make_writable(file):
                pieces = _right_pieces(file, number, entry)
                if stage.take_file(number, file, chunk_of(manifest, pieces)):
                    kept += sum(piece.size for piece in pieces)
    return kept


def _make_writable(file: Path) -> bool:
    """Let this user move and change a file, which may have been made read-only; False if there is no such file."""
    try:
        if not stat.S_ISREG(file.lstat().st_mode):
            return False
        file.parent.chmod(stat.S_IRWXU)
        file.chmod(stat.S_IRUSR | stat.S_IWUSR)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _right_pieces(file: Path, number: int, entry: Entry) -> tuple[Piece, ...]:
    """The blocks of a file that are the manifest's. What the file has beyond its size is cut off."""
    pieces = []
    with file.open("r+b", buffering=0) as opened:
        if os.fstat(opened.fileno()).st_size > entry.size:
            opened.truncate(entry.size)
        for start in range(0, entry.size, BLOCK_BYTES):
            end = min(start + BLOCK_BYTES, entry.size)
            data = os.pread(opened.fileno(), end - start, start)
            at = start // BLOCK_BYTES * DIGEST_BYTES
            if digest_block(data) == entry.block_digests[at : at + DIGEST_BYTES]:
                pieces.append(Piece(number, start, end))
    return tuple(pieces)
