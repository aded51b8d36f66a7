"""Matches those who have chunks with those who lack them, as far as there is room under way.

A chunk that no node has or fetches is cold: one node fetches it from the source. Whatever a node has, all that lack it
may fetch from there, whenever either side has room. The rarest chunk goes first, counting what is under way: so nodes
get different chunks, and each soon has something for the others.

The source's link is the one that everything depends on. It is full if those that fetch from it can take as much: a
node's link is shared by all that the node fetches. So there are as many fetches from the source as that needs, and no
more, for with many of them the first chunk would come as late as the last.
"""

from __future__ import annotations

from hubdist.delivery.chunk_map import ChunkMap
from hubdist.delivery.peers import Peer, ascending, descending, turned

_FEW = 8
"""Up to as many nodes that could send are all looked at."""

_SAMPLE = 3
"""Of more of them, so many are, as a rule."""


class Scheduler:
    """Adds fetches to a board's commands.

    Args:
        board: What there is to match.
        seeds: Fetches from the source that there may be in any case.
    """

    def __init__(self, board: ChunkMap, *, seeds: int) -> None:
        self._board = board
        self._seeds = seeds
        self._seed_turn = 0

    def match(self) -> None:
        """Match all that can be; called when an event has been taken in."""
        board = self._board
        if board.fresh or board.fed or board.served:
            self._spread()
        if (board.rescued or board.cold) and self._source_has_room:
            self._seed()

    def _spread(self) -> None:
        """Match nodes with nodes, where either side may have got room or something new."""
        board = self._board
        fresh, board.fresh = board.fresh, []
        served, board.served = board.served, []
        fed, board.fed = board.fed, []
        for sender, chunk in fresh:
            while sender.bit & board.open and (takers := board.lacking[chunk] & board.hungry):
                board.begin_read(board.next_of(takers), chunk, sender)
        for sender in dict.fromkeys(served):
            while board.open & sender.bit:
                found = self._taker(sender)
                if found is None:
                    break
                board.begin_read(*found, sender)
        for member in dict.fromkeys(fed):
            while board.hungry & member.bit:
                sent = self._sender(member)
                if sent is None:
                    break
                board.begin_read(member, *sent)

    def _taker(self, sender: Peer) -> tuple[Peer, int] | None:
        """Who shall fetch from a node, and which chunk."""
        board = self._board
        chunks = sender.holds & board.wanted
        for level in board.levels:
            for chunk in descending(chunks & level):
                takers = board.lacking[chunk] & board.hungry
                if takers:
                    return board.next_of(takers), chunk
        return None

    def _sender(self, member: Peer) -> tuple[int, Peer] | None:
        """Which chunk a node shall fetch, and from whom.

        Of many that could send, most have nothing new, so a few are looked at; but all if this node has nothing else
        under way, whose end would let it look again. So nobody waits in vain.
        """
        board = self._board
        chunks, senders = member.lacks, board.open
        few = senders.bit_count() <= _FEW
        if few or member.down.used:
            senders = senders if few else board.some_of(senders, _SAMPLE)
            held = 0
            for sender in board.members_of(senders):
                held |= sender.holds
            chunks &= held
        for level in board.levels:
            for chunk in descending(chunks & level):
                found = board.held[chunk] & senders
                if found:
                    return chunk, board.least_busy(found)
        return None

    # From the source

    @property
    def _source_has_room(self) -> bool:
        board, up = self._board, self._board.source.up
        return up.used < up.size and (up.used < self._seeds or board.seed_share < 1)

    def _seed(self) -> None:
        """Let one node fetch each cold chunk from the source, in turns."""
        board, source = self._board, self._board.source
        for chunk in ascending(board.for_source):
            if not self._source_has_room:
                return
            rescued = board.rescued.get(chunk, 0) & board.hungry
            taker = board.next_of(rescued) if rescued else self._next_seed(chunk)
            if taker is not None:
                board.begin_read(taker, chunk, source)

    def _next_seed(self, chunk: int) -> Peer | None:
        """The node that fetches a cold chunk from the source, in turns of their own; None if all are busy.

        One that will not be asked for it, or that the source is known not to serve, only if there is no other.
        """
        board = self._board
        if not board.cold >> chunk & 1:
            return None
        nodes = board.lacking[chunk]
        nodes = nodes & ~board.barred or nodes
        nodes = (nodes & ~board.unfit or nodes) & board.roomy
        if not nodes:
            return None
        self._seed_turn = turned(nodes, self._seed_turn)
        return board.order[self._seed_turn]
