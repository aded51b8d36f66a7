"""Which peer has or wants which chunk, and how rare each chunk is."""

from __future__ import annotations

from collections.abc import Iterator

from hubdist.delivery.peers import Peer, ascending, without


class ChunkMap:
    """The chunks of one delivery: for each of them the peers that have it and the peers that want it.

    The source has every chunk and is not in the map. Chunks are numbered from 0; sets of chunks and of peers are bit
    sets.
    """

    def __init__(self) -> None:
        self._wanted_by: list[int] = []
        """Chunk -> peers that want the chunk and do not fetch it."""
        self._had_by: list[int] = []
        """Chunk -> peers that others may fetch the chunk from."""
        self._copies: list[int] = []
        """Chunk -> how many peers have or fetch the chunk; banned peers do not count."""
        self._wanted = 0
        """Chunks that a peer wants."""
        self._by_availability = [0]
        """Chunks with no copy, with 1 copy, with 2 or 3, with 4 to 7, and so on."""
        self._source_only: dict[int, int] = {}
        """Chunk -> peers that get the chunk from the source and from nobody else."""
        self._new_copies: list[tuple[Peer, int]] = []

    @property
    def unavailable(self) -> int:
        """Chunks that a peer wants and that no peer has or fetches."""
        return self._by_availability[0] & self._wanted

    @property
    def for_source(self) -> int:
        """Chunks that the source is asked for: unavailable ones, and those that failed from nodes too often."""
        return self.unavailable | sum(1 << chunk for chunk in self._source_only)

    @property
    def needs_source(self) -> bool:
        """True if `for_source` is not empty."""
        return bool(self._source_only or self.unavailable)

    @property
    def has_new_copies(self) -> bool:
        """True if `take_new_copies` would return anything."""
        return bool(self._new_copies)

    def wanted_by(self, chunk: int) -> int:
        """Return the peers that want a chunk and do not fetch it."""
        return self._wanted_by[chunk]

    def had_by(self, chunk: int) -> int:
        """Return the peers that others may fetch a chunk from."""
        return self._had_by[chunk]

    def source_only(self, chunk: int) -> int:
        """Return the peers that get a chunk from the source and from nobody else."""
        return self._source_only.get(chunk, 0)

    def wanted_from(self, sender: Peer) -> int:
        """Return the chunks that a peer has and another one wants."""
        return sender.has & self._wanted

    def rarest_first(self, chunks: int) -> Iterator[int]:
        """Yield the chunks of a set, those with the fewest copies first."""
        for level in self._by_availability:
            rest = chunks & level
            while rest:
                chunk = rest.bit_length() - 1
                yield chunk
                rest ^= 1 << chunk

    # Chunks and peers that come and go

    def add_chunks(self, count: int, receivers: list[Peer]) -> None:
        """Add chunks that the source has from now on.

        Args:
            count: How many chunks.
            receivers: The peers that receive the model: each of them wants the chunks.
        """
        wanted_by = sum(peer.bit for peer in receivers)
        for _ in range(count):
            flag = 1 << len(self._wanted_by)
            self._wanted_by.append(wanted_by)
            self._had_by.append(0)
            self._copies.append(0)
            self._by_availability[0] |= flag
            self._wanted |= flag if receivers else 0
            for peer in receivers:
                peer.wants |= flag

    def add_receiver(self, peer: Peer) -> None:
        """Note that a new peer wants every chunk."""
        self._wanted = peer.wants = (1 << len(self._wanted_by)) - 1
        for chunk in range(len(self._wanted_by)):
            self._wanted_by[chunk] |= peer.bit

    def add_holder(self, peer: Peer) -> None:
        """Note that a new peer has every chunk."""
        for chunk in range(len(self._wanted_by)):
            self.add_copy(peer, chunk)

    def remove(self, peer: Peer) -> None:
        """Forget a peer that left; its fetches have been ended before."""
        self._drop_copies(peer)
        for chunk in range(len(self._wanted_by)):
            self._stop_wanting(peer, chunk)
        for chunk in ascending(peer.source_only):
            self._end_source_only(peer, chunk)

    def withhold(self, peer: Peer) -> None:
        """Offer none of a silent peer's chunks, but remember them."""
        peer.withheld = peer.has
        self._drop_copies(peer)

    def offer_withheld(self, peer: Peer) -> None:
        """Offer the chunks of a peer that answers again, unless it was banned."""
        chunks, peer.withheld = peer.withheld, 0
        if not peer.banned:
            for chunk in ascending(chunks):
                self.add_copy(peer, chunk)

    def ban(self, peer: Peer) -> None:
        """Offer none of a peer's chunks again, and do not count on those that it fetches; call it before the ban."""
        peer.withheld = 0
        self._drop_copies(peer)
        for chunk in peer.fetches:
            self._count(chunk, -1)

    # Which peer has or wants a chunk

    def add_copy(self, peer: Peer, chunk: int) -> None:
        """Note that others may fetch a chunk from a peer.

        Args:
            peer: The peer that has the chunk on its disk.
            chunk: The chunk's number.
        """
        peer.has |= 1 << chunk
        self._had_by[chunk] |= peer.bit
        self._count(chunk, 1)

    def add_new_copy(self, peer: Peer, chunk: int) -> None:
        """Note that a chunk has just arrived at a peer.

        Args:
            peer: The peer that fetched the chunk. Of a silent peer the copy is withheld, of a banned one not offered.
            chunk: The chunk's number.
        """
        if peer.silent:
            peer.withheld |= 1 << chunk
        elif not peer.banned:
            self.add_copy(peer, chunk)
            self._new_copies.append((peer, chunk))

    def drop_copy(self, peer: Peer, chunk: int) -> None:
        """Note that a chunk is not fetched from a peer any more.

        Args:
            peer: A peer that was noted to have the chunk.
            chunk: The chunk's number.
        """
        peer.has &= ~(1 << chunk)
        self._had_by[chunk] = without(self._had_by[chunk], peer.bit)
        self._count(chunk, -1)

    def take_new_copies(self) -> list[tuple[Peer, int]]:
        """Return the peers and chunks that `add_new_copy` has offered since the last call."""
        new, self._new_copies = self._new_copies, []
        return new

    def want(self, peer: Peer, chunk: int) -> None:
        """Note that a peer wants a chunk again, because its fetch failed.

        Args:
            peer: The peer.
            chunk: The chunk's number.
        """
        peer.wants |= 1 << chunk
        self._wanted_by[chunk] |= peer.bit
        self._wanted |= 1 << chunk

    def want_from_source(self, peer: Peer, chunk: int) -> None:
        """Let a peer get a chunk from the source and from nobody else.

        Args:
            peer: A peer that wants the chunk.
            chunk: The chunk's number.
        """
        peer.wants &= ~(1 << chunk)
        peer.source_only |= 1 << chunk
        self._stop_wanting(peer, chunk)
        self._source_only[chunk] = self._source_only.get(chunk, 0) | peer.bit

    def accept_late(self, peer: Peer, chunk: int) -> bool:
        """Take a chunk that came although its fetch had been given up.

        Args:
            peer: The peer that got the chunk.
            chunk: The chunk's number.

        Returns:
            True if the peer still wanted the chunk, so that it need not be fetched again.
        """
        if not (peer.wants | peer.source_only) & 1 << chunk:
            return False
        self._satisfy(peer, chunk)
        return True

    def begin_fetch(self, peer: Peer, chunk: int) -> None:
        """Count a chunk that a peer begins to fetch as a copy to come.

        Args:
            peer: The peer that fetches.
            chunk: The chunk's number.
        """
        self._satisfy(peer, chunk)
        if not peer.banned:
            self._count(chunk, 1)

    def end_fetch(self, peer: Peer, chunk: int) -> None:
        """Stop counting a chunk that a peer fetched, whether or not it came.

        Args:
            peer: The peer that fetched.
            chunk: The chunk's number.
        """
        if not peer.banned:
            self._count(chunk, -1)

    def _satisfy(self, peer: Peer, chunk: int) -> None:
        flag = 1 << chunk
        peer.wants &= ~flag
        if peer.source_only & flag:
            self._end_source_only(peer, chunk)
        self._stop_wanting(peer, chunk)

    def _stop_wanting(self, peer: Peer, chunk: int) -> None:
        left = self._wanted_by[chunk] = without(self._wanted_by[chunk], peer.bit)
        if not left:
            self._wanted = without(self._wanted, 1 << chunk)

    def _end_source_only(self, peer: Peer, chunk: int) -> None:
        peer.source_only &= ~(1 << chunk)
        self._source_only[chunk] &= ~peer.bit
        if not self._source_only[chunk]:
            del self._source_only[chunk]

    def _drop_copies(self, peer: Peer) -> None:
        for chunk in ascending(peer.has):
            self.drop_copy(peer, chunk)

    def _count(self, chunk: int, change: int) -> None:
        """Count one copy more or less, and keep `_by_availability` in step."""
        before = self._copies[chunk].bit_length()
        self._copies[chunk] += change
        after = self._copies[chunk].bit_length()
        if after == before:  # most changes of many copies do not change the level
            return
        if after == len(self._by_availability):
            self._by_availability.append(0)
        self._by_availability[before] &= ~(1 << chunk)
        self._by_availability[after] |= 1 << chunk
