"""Decides who fetches which chunk from whom, as far as peers have free slots.

A chunk that no node has or fetches is unavailable: one node fetches it from the source. What a node has, all others
may fetch from that node, whenever either side gets a free slot. The rarest chunk goes first, counting the copies that
are being fetched: so nodes get different chunks, and each node soon has something that the others want.

Everything depends on the source's link. It is full as soon as the nodes that fetch from it can take as much as it
sends, and a node's link is shared by all that the node fetches. More fetches than that would only make the first chunk
come as late as the last, so the scheduler begins no more.
"""

from __future__ import annotations

from hubdist.delivery.chunk_map import ChunkMap
from hubdist.delivery.events import Fetch
from hubdist.delivery.peer_set import PeerSet
from hubdist.delivery.peers import Peer, ascending

_FEW_SENDERS = 8
"""Up to this many possible senders are all considered."""

_SAMPLED_SENDERS = 3
"""How many of more senders are considered, unless the receiver has nothing else to wait for."""


class Scheduler:
    """Begins fetches, rarest chunk first.

    Args:
        peers: The delivery's peers.
        chunks: The delivery's chunk map.
        fetches: Begins the fetches.
        min_source_fetches: Fetches from the source that may always run, however full its link is.
    """

    def __init__(self, peers: PeerSet, chunks: ChunkMap, fetches: PendingFetches, *, min_source_fetches: int) -> None:
        self._peers = peers
        self._chunks = chunks
        self._fetches = fetches
        self._min_source_fetches = min_source_fetches

    def begin_fetches(self) -> list[Fetch]:
        """Begin every fetch that is possible now. The plan calls this after each event."""
        begun: list[Fetch] = []
        if self._chunks.has_new_copies or self._peers.slots_freed:
            self._fetch_from_nodes(begun)
        if self._chunks.needs_source and self._source_has_slot:
            self._fetch_from_source(begun)
        return begun

    def _fetch_from_nodes(self, begun: list[Fetch]) -> None:
        """Match nodes with nodes, but only those whose slots or chunks have changed: the others have no match."""
        peers, chunks, begin = self._peers, self._chunks, self._fetches.begin
        new_copies = chunks.take_new_copies()
        senders, receivers = peers.take_freed()
        for sender, chunk in new_copies:
            while sender.bit & peers.can_send and (able := chunks.wanted_by(chunk) & peers.can_fetch):
                begun.append(begin(peers.pick(able), chunk, sender))
        for sender in senders:
            while peers.can_send & sender.bit:
                found = self._find_receiver(sender)
                if found is None:
                    break
                begun.append(begin(*found, sender))
        for receiver in receivers:
            while peers.can_fetch & receiver.bit:
                offer = self._find_sender(receiver)
                if offer is None:
                    break
                begun.append(begin(receiver, *offer))

    def _find_receiver(self, sender: Peer) -> tuple[Peer, int] | None:
        """Find who should fetch from a sender, and which chunk."""
        chunks, can_fetch = self._chunks, self._peers.can_fetch
        for chunk in chunks.rarest_first(chunks.wanted_from(sender)):
            able = chunks.wanted_by(chunk) & can_fetch
            if able:
                return self._peers.pick(able), chunk
        return None

    def _find_sender(self, receiver: Peer) -> tuple[int, Peer] | None:
        """Find which chunk a receiver should fetch, and from whom.

        Of many possible senders most have nothing new, so a sample is enough: the receiver is looked at again when one
        of its fetches ends. A receiver without a running fetch has no such end, so all senders are considered for it.
        """
        peers, wants, senders = self._peers, receiver.wants, self._peers.can_send
        few = senders.bit_count() <= _FEW_SENDERS
        if few or receiver.fetch_window.used:
            senders = senders if few else peers.pick_some(senders, _SAMPLED_SENDERS)
            offered = 0
            for sender in peers.peers_of(senders):
                offered |= sender.has
            wants &= offered
        for chunk in self._chunks.rarest_first(wants):
            able = self._chunks.had_by(chunk) & senders
            if able:
                return chunk, peers.pick_least_busy(able)
        return None

    # From the source

    @property
    def _source_has_slot(self) -> bool:
        window = self._peers.source.send_window
        return window.has_slot and (window.used < self._min_source_fetches or self._peers.source_fetches_in_links < 1)

    def _fetch_from_source(self, begun: list[Fetch]) -> None:
        """Let one node fetch each unavailable chunk from the source, in turns."""
        peers, chunks = self._peers, self._chunks
        unavailable = chunks.unavailable
        for chunk in ascending(chunks.for_source):
            if not (self._source_has_slot and peers.can_fetch_urgent):
                return
            source_only = chunks.source_only(chunk) & peers.can_fetch
            if source_only:
                receiver: Peer | None = peers.pick(source_only)
            elif unavailable >> chunk & 1:
                receiver = peers.pick_seed(chunks.wanted_by(chunk))
            else:
                continue
            if receiver is not None:
                begun.append(self._fetches.begin(receiver, chunk, peers.source))


class PendingFetches:
    """Begins and ends fetches, and keeps the peers' slots and the chunk map in step with them.

    Args:
        peers: The delivery's peers.
        chunks: The delivery's chunk map.
    """

    def __init__(self, peers: PeerSet, chunks: ChunkMap) -> None:
        self._peers = peers
        self._chunks = chunks

    def begin(self, receiver: Peer, chunk: int, sender: Peer) -> Fetch:
        """Begin a fetch and return its command.

        Args:
            receiver: The peer that fetches.
            chunk: Number of a chunk that the receiver wants.
            sender: A peer that has the chunk, or the source.
        """
        self._chunks.begin_fetch(receiver, chunk)
        receiver.fetches[chunk] = sender
        self._peers.take_slots(receiver, sender)
        return Fetch(receiver.name, chunk, sender.name)

    def end(self, receiver: Peer, chunk: int) -> None:
        """End a fetch whose chunk arrived.

        Args:
            receiver: The peer that fetched.
            chunk: The chunk's number.
        """
        sender = receiver.fetches.pop(chunk)
        self._chunks.end_fetch(receiver, chunk)
        self._peers.free_slots(receiver, sender)

    def fail(self, receiver: Peer, chunk: int) -> None:
        """End a fetch whose chunk did not arrive: the receiver wants the chunk again.

        Args:
            receiver: The peer that fetched.
            chunk: The chunk's number.
        """
        self.end(receiver, chunk)
        self._chunks.want(receiver, chunk)
        self._peers.look_again(receiver)

    def fail_all_of(self, peer: Peer) -> None:
        """End all fetches to a peer and from it; whoever fetched wants those chunks again."""
        for chunk in list(peer.fetches):
            self.fail(peer, chunk)
        for receiver in self._peers.receivers():
            for chunk in [chunk for chunk, sender in receiver.fetches.items() if sender is peer]:
                self.fail(receiver, chunk)
