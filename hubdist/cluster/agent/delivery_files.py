"""Where one node has the files of the models that it sends: in stages that are being filled, and in snapshots."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hubdist.errors import IntegrityError, UnknownDeliveryError
from hubdist.model.chunks import Chunk
from hubdist.model.paths import check_entry_path
from hubdist.store.chunk_stage import ChunkStage
from hubdist.store.snapshot import Snapshot
from hubdist.system.disk import disk_errors, read_open_file

_HOLD_S = 10.0
"""How long a stage that has become a snapshot may be gone before the coordinator lets this node hold the snapshot."""


@dataclass(slots=True)
class _Filling:
    """A stage that this agent fills.

    Attributes:
        stage: The stage.
        publishing: Held while the stage becomes a snapshot. Whoever finds the stage gone waits for the lock and then
            finds the snapshot.
    """

    stage: ChunkStage
    publishing: threading.Lock = field(default_factory=threading.Lock)


@dataclass(slots=True)
class _Held:
    """A published snapshot; `paths` are its files in the order of the delivery."""

    snapshot: Snapshot
    paths: tuple[str, ...]


@dataclass(slots=True)
class _Offered:
    """The files of a stage that another process of this node writes; `paths` grow while the origin is being read."""

    root: Path
    paths: dict[int, str] = field(default_factory=dict)


class DeliveryFiles:
    """Finds the files of each delivery, by their numbers in the delivery's chunks. Safe for several threads."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held_more = threading.Condition(self._guard)
        self._offered: dict[str, _Offered] = {}
        self._filling: dict[str, _Filling] = {}
        self._held: dict[str, _Held] = {}

    # What this node has

    def fill(self, delivery: str, stage: ChunkStage) -> bool:
        """Note the stage that this agent fills; False if there is one for the delivery already.

        Args:
            delivery: Name of the delivery.
            stage: The stage.
        """
        with self._guard:
            if delivery in self._filling:
                return False
            self._filling[delivery] = _Filling(stage)
            return True

    def stage(self, delivery: str) -> ChunkStage:
        """Return the stage that this agent fills.

        Raises:
            UnknownDeliveryError: This node receives nothing for the delivery.
        """
        with self._guard:
            filling = self._filling.get(delivery)
        if filling is None:
            raise UnknownDeliveryError(f"this node takes no part in the delivery {delivery}")
        return filling.stage

    @contextlib.contextmanager
    def publishing(self, delivery: str) -> Iterator[ChunkStage | None]:
        """Let the block publish the stage and hold the snapshot; None if another call has done both."""
        with self._guard:
            filling = self._filling.get(delivery)
        if filling is None:
            yield None
            return
        with filling.publishing:
            with self._guard:
                is_held = delivery in self._held
            yield None if is_held else filling.stage

    def offer(self, delivery: str, root: Path, chunks: Sequence[tuple[Chunk, Sequence[str]]]) -> None:
        """Note files of a stage that another process of this node writes.

        Args:
            delivery: Name of the delivery.
            root: The directory of the stage's files.
            chunks: Chunks that are in the stage, each with the path of the file of each piece.
        """
        with self._guard:
            offered = self._offered.setdefault(delivery, _Offered(root))
            for chunk, paths in chunks:
                offered.paths.update(zip((piece.entry_index for piece in chunk.pieces), paths, strict=True))

    def hold(self, delivery: str, snapshot: Snapshot, ordinals: Sequence[int]) -> None:
        """Take the files from a snapshot from now on, which stays in use until `release`.

        Args:
            delivery: Name of the delivery.
            snapshot: The snapshot, which this object releases.
            ordinals: For each entry of the snapshot's manifest, the number of its file in the delivery's chunks.
        """
        with contextlib.ExitStack() as undo:
            undo.callback(snapshot.release)
            paths = [""] * len(ordinals)
            for entry, ordinal in zip(snapshot.manifest.entries, ordinals, strict=True):
                paths[ordinal] = entry.path
            undo.pop_all()
        with self._guard:
            before = self._held.get(delivery)
            self._held[delivery] = _Held(snapshot, tuple(paths))
            self._held_more.notify_all()
        if before is not None:  # the coordinator repeated the call, because the answer was lost
            before.snapshot.release()

    # Sending

    def open(self, delivery: str, number: int) -> int:
        """Open a file for reading, wherever this node has the file now, and return the descriptor.

        Args:
            delivery: Name of the delivery.
            number: The file's number in the chunks.

        Raises:
            IntegrityError: The file is gone.
            StoreError: The disk refuses.
        """
        with self._guard:
            filling = self._filling.get(delivery)
        if filling is not None:
            try:
                return filling.stage.open_file(number)
            except IntegrityError:
                with filling.publishing, self._guard:  # the stage may have become a snapshot meanwhile
                    if delivery not in self._held:
                        raise
        with self._guard:
            held, offered = self._held.get(delivery), self._offered.get(delivery)
        if held is None and offered is not None:
            with contextlib.suppress(IntegrityError):
                return _open(offered.root / check_entry_path(offered.paths[number]))
            with self._guard:  # the stage has become a snapshot, and the coordinator is about to say so
                self._held_more.wait_for(lambda: delivery in self._held or delivery not in self._offered, _HOLD_S)
                held = self._held.get(delivery)
        if held is None:
            raise IntegrityError(f"this node does not have file {number} of the model any more")
        return _open(held.snapshot.path / held.paths[number])

    def read(self, delivery: str, part: Chunk) -> bytearray:
        """Read bytes of a chunk. Whoever gets them checks them.

        Args:
            delivery: Name of the delivery.
            part: Which bytes.

        Raises:
            IntegrityError: A file is gone or too short.
            StoreError: The disk refuses.
        """
        data = bytearray(part.size)
        for each in part.parts(memoryview(data)):
            number = each.piece.entry_index
            descriptor = self.open(delivery, number)
            try:
                with disk_errors(Path(f"file {number} of the model")):
                    read_open_file(descriptor, each.piece.start, each.data)
            finally:
                os.close(descriptor)
        return data

    # The end

    def discard_stage(self, delivery: str) -> None:
        """Discard the stage that this agent fills, if there is one."""
        with self._guard:
            filling = self._filling.pop(delivery, None)
        if filling is not None:
            filling.stage.discard()

    def release(self, delivery: str) -> None:
        """Let go of the snapshot that is held, if there is one."""
        with self._guard:
            held = self._held.pop(delivery, None)
        if held is not None:
            held.snapshot.release()

    def forget(self, delivery: str) -> None:
        """Let go of everything."""
        with self._guard:
            self._offered.pop(delivery, None)
            self._held_more.notify_all()
        try:
            self.discard_stage(delivery)
        finally:
            self.release(delivery)


def _open(path: Path) -> int:
    with disk_errors(path):
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise IntegrityError(f"{path} is gone") from None
