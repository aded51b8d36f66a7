"""Reuse: one node takes units of a delivery from the older snapshots in its own store, so that they do not travel.

When a delivery begins on a node, the node looks up which units it can have from its own disk, which takes some
milliseconds, and expects them from then on: no parent sends them. Threads copy and digest them while the other units
already come by streams. A copied unit goes on to other nodes like one that came. A unit that turns out to be damaged is
given up, and a parent sends it. So neither the start of the delivery nor a stream waits for the old snapshots.

In a delivery where the nodes read a directory together, the coordinator says for each chunk where it comes from. There
the node looks into its own store when it is told to fetch a chunk, and fetches only the rest.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

from hubdist.model.chunks import Chunk
from hubdist.store.chunk_stage import ChunkStage
from hubdist.store.older_blocks import OlderBlocks
from hubdist.streams.units import Units
from hubdist.system.threads import start_thread

_LOG = logging.getLogger(__name__)
_THREADS = 4
"""A thread reads and digests about 1 GB in a second, and a fast network is faster."""

_JOIN_S = 5.0


class BlockReuse:
    """What one node takes from its own store for one delivery. Safe for several threads.

    Args:
        older: The blocks that the store has; they are released when nothing more is taken.
        stage: Where they go.
        threads: How many threads copy.

    Attributes:
        taken_bytes: Bytes of the units that were taken so far.
    """

    def __init__(self, older: OlderBlocks, stage: ChunkStage, *, threads: int = _THREADS) -> None:
        self._older = older
        self._stage = stage
        self._max_threads = threads
        self._guard = threading.Lock()
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._left = 0
        """How many threads still copy."""
        self.taken_bytes = 0

    def start(self, units: Units, chunks: Sequence[Chunk]) -> None:
        """Take all units that the store has, in threads of their own.

        Args:
            units: The node's units of the delivery.
            chunks: All units of the delivery.
        """
        covered = [chunk for chunk in chunks if self._older.known_bytes(chunk) == chunk.size]
        units.set_count(len(chunks))
        if not covered:
            self._older.release()
            return
        units.expect(chunk.index for chunk in covered)
        waiting = iter(covered)
        self._left = min(self._max_threads, len(covered))
        for number in range(self._left):
            thread, outcome = start_thread(lambda: self._take(waiting, units), f"hubdist-reuse-{number}")
            outcome.add_done_callback(lambda ended: self._end(ended, units))
            self._threads.append(thread)

    def take(self, chunk: Chunk, *, by_node: bool) -> Chunk | None:
        """Take what there is of a chunk that the coordinator told this node to fetch; return what is left of it.

        Args:
            chunk: Which bytes, and their digests.
            by_node: Another node sends the chunk. A part of a chunk comes by calls of Ray, which are dearer than the
                port, so the chunk is left whole if the store has less than half of it.
        """
        if by_node and 2 * self._older.known_bytes(chunk) < chunk.size:
            return chunk
        return self._older.take_blocks(chunk, self._stage)

    def stop(self) -> None:
        """Take nothing more, and let the store evict the older snapshots."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(_JOIN_S)
        self._older.release()

    def _take(self, waiting: Iterator[Chunk], units: Units) -> None:
        while not self._stopped.is_set():
            with self._guard:
                chunk = next(waiting, None)
            if chunk is None:
                return
            if self._older.take(chunk, self._stage):
                with self._guard:
                    self.taken_bytes += chunk.size
                units.add(chunk.index, chunk)
            else:
                units.give_up(chunk.index)

    def _end(self, ended: Future[None], units: Units) -> None:
        """Note that a thread has ended; the last one gives up what is left. Runs in that thread."""
        error = ended.exception()
        if error is not None:
            where = "".join(traceback.format_tb(error.__traceback__))  # not its text, which may hold a secret
            _LOG.error("hubdist: unexpected %s while older snapshots were read:\n%s", type(error).__name__, where)
        with self._guard:
            self._left -= 1
            is_last = self._left == 0
        if is_last:
            units.give_up()
            self._older.release()
