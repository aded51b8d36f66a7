"""Holds the chunks of an origin back from a delivery that began early, while most of what was read is known already.

A delivery that begins while the origin is being read does not know the manifest, so its nodes cannot tell which blocks
they have, and every byte travels. For a new version of a model that the driver's node has it is better to wait: once
the manifest is known, only what has changed travels. So as long as most blocks that were read are also in older
snapshots of the driver's store, their chunks are held back. When that changes, all of them are delivered at once. It is
a guess: the nodes may have other snapshots than the driver's node.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from hubdist.model.chunks import Chunk

FIRST_BYTES = 4 << 20
"""Nothing is decided before so many bytes have been read. A smaller model is not worth waiting for."""

ReadyChunk = tuple[Chunk, tuple[str, ...]]
"""A chunk, and for each of its pieces the path of its file in the stage."""


class HeldChunks:
    """Decides when the chunks of one origin are delivered. For the one thread that reads the origin.

    Args:
        find_known: Returns the digests of the blocks of older snapshots; called when the first chunk comes.
        first_bytes: How many bytes to read before anything is decided.
    """

    def __init__(self, find_known: Callable[[], Collection[bytes]], *, first_bytes: int = FIRST_BYTES) -> None:
        self._find_known = find_known
        self._first_bytes = first_bytes
        self._known: Collection[bytes] | None = None
        self._held: list[ReadyChunk] = []
        self._read_bytes = 0
        self._known_bytes = 0

    def add(self, chunk: Chunk, paths: Sequence[str]) -> list[ReadyChunk]:
        """Take a chunk that has been read; return the chunks to deliver now.

        Args:
            chunk: The chunk.
            paths: For each piece of the chunk, the path of its file in the stage.
        """
        if self._known is None:
            self._known = self._find_known()
        self._held.append((chunk, tuple(paths)))
        if self._known:
            self._read_bytes += chunk.size
            self._known_bytes += sum(block.size for block in chunk.blocks() if block.digest in self._known)
            if self._read_bytes < self._first_bytes or self._is_mostly_known:
                return []
            self._known = ()  # from now on chunks are delivered as they come
        return self._take_held()

    def end(self) -> list[ReadyChunk] | None:
        """Return the chunks that are still to be delivered when the origin has been read to its end.

        Returns:
            None if the nodes should wait for the manifest, because most of the model is in older snapshots.
        """
        if self._held and self._read_bytes >= self._first_bytes:  # else the last chunk would have delivered them
            return None
        return self._take_held()

    @property
    def _is_mostly_known(self) -> bool:
        return 2 * self._known_bytes >= self._read_bytes

    def _take_held(self) -> list[ReadyChunk]:
        held, self._held = self._held, []
        return held
