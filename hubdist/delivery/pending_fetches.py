"""The fetches of one delivery that have begun and not ended: slots at both ends, copies to come."""

from __future__ import annotations

from hubdist.delivery.chunk_map import ChunkMap
from hubdist.delivery.events import Fetch
from hubdist.delivery.peer_set import PeerSet
from hubdist.delivery.peers import Peer


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
