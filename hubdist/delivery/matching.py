"""Matches those who have chunks with those who lack them, as far as there is room under way.

A chunk that no node has is cold: one node fetches it from the source and keeps it on offer for the others. Offers are
matched with nodes that lack them whenever either side has room; where many nodes lack a chunk, the first ones that get
it keep it on offer too, so that it spreads like a tree. What is lost, or had to make room, is offered anew from the
disk of any node that has it; the source is asked again only when none has.
"""

from __future__ import annotations

from hubdist.delivery.board import Board
from hubdist.delivery.events import Offer
from hubdist.delivery.members import Member, bits, turned

_FAN_OUT = 4
"""Nodes that one offer of a chunk shall serve."""

_FEW_SENDERS = 8
"""Up to as many are looked at one by one for the newest chunk."""


class Matching:
    """Adds offers and fetches to a board's commands.

    Args:
        board: What there is to match.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._seed_turn = 0

    def match(self) -> None:
        """Match all that can be; called when an event has been taken in."""
        board = self._board
        self._spread()
        if board.cold & board.peered:
            self._warm_up()
            self._spread()
        if (board.source.offers or board.is_place) and board.source.up.has_room:
            self._seed()
        if (board.cold or board.rescued) and not board.is_place:
            self._offer_at_source()

    # From node to node

    def _spread(self) -> None:
        """Match what nodes have on offer with nodes that lack it, where either side may have got room."""
        board = self._board
        while board.fed or board.served:
            served, board.served = board.served, []
            fed, board.fed = board.fed, []
            for sender in dict.fromkeys(served):
                self._serve(sender)
            for member in dict.fromkeys(fed):
                self._feed(member)

    def _serve(self, sender: Member) -> None:
        """Let nodes fetch what a node has on offer, as long as it has room.

        The newest chunk goes first, here and in `_feed`: the rarest one, on which most of the spreading depends.
        """
        board = self._board
        offers = sender.offers
        while offers and sender.up.has_room:
            chunk = offers.bit_length() - 1
            takers = board.lacking[chunk] & board.hungry
            if takers:
                self._fetch(board.next_of(takers), chunk, sender)
            else:
                offers ^= 1 << chunk

    def _feed(self, member: Member) -> None:
        """Let a node fetch what others have on offer, as long as it has room."""
        board = self._board
        while board.hungry & member.bit:
            senders = board.open & board.showing
            chunks = member.lacks & board.warm
            if not senders or not chunks:
                return
            look = self._newest_of if senders.bit_count() <= _FEW_SENDERS else self._newest
            found = look(senders, chunks)
            if found is None:
                return
            self._fetch(member, found[1], found[0])

    def _newest_of(self, senders: int, chunks: int) -> tuple[Member, int] | None:
        """Who offers the newest of these chunks, looking at each of few senders."""
        best, most = None, 0
        for sender in self._board.members_of(senders):
            both = sender.offers & chunks
            if both > most:
                best, most = sender, both
        return None if best is None else (best, most.bit_length() - 1)

    def _newest(self, senders: int, chunks: int) -> tuple[Member, int] | None:
        """Who offers the newest of these chunks, looking at each chunk."""
        while chunks:
            chunk = chunks.bit_length() - 1
            found = self._board.offered[chunk] & senders
            if found:
                return self._board.least_busy(found), chunk
            chunks ^= 1 << chunk
        return None

    def _warm_up(self) -> None:
        """Let nodes offer cold chunks from their disks."""
        board = self._board
        for chunk in bits(board.cold & board.peered):
            holders = board.held[chunk] & board.open
            if not holders or not board.lacking[chunk] & board.hungry:
                continue
            holder = board.least_busy(holders)
            if chunk in holder.readers:  # it was on offer a moment ago, and somebody still reads it
                board.list_offer(holder, chunk)
            elif holder.may_offer:
                board.make_room(holder)
                board.begin_offer(holder, chunk)
                board.commands.append(Offer(holder.name, chunk))

    # From the source

    def _offer_at_source(self) -> None:
        """Let the source offer what no node has, a little ahead of the nodes that will fetch it."""
        board, source = self._board, self._board.source
        offers = (source.offers | source.offering).bit_count()
        ahead = 2 * source.up.size - offers
        if ahead <= 0:
            return
        room = source.most_offers - offers - len(source.readers)
        for chunk in bits(board.for_source):
            if room <= 0 or ahead <= 0:
                return
            known = source.offers | source.offering
            if known >> chunk & 1 or chunk in source.readers:
                continue
            if board.held[chunk] and chunk not in board.rescued:
                continue
            board.begin_offer(source, chunk)
            room, ahead = room - 1, ahead - 1
            board.commands.append(Offer(source.name, chunk))

    def _seed(self) -> None:
        """Let one node fetch each cold chunk from the source, in turns, and keep it for the others."""
        board, source = self._board, self._board.source
        chunks = board.for_source
        if board.is_place:
            chunks &= ~board.peered | sum(1 << chunk for chunk in board.rescued)
        else:
            for chunk in bits(source.offers & ~chunks):
                if chunk not in source.readers:
                    board.unlist(source, chunk)
            chunks &= source.offers
        for chunk in bits(chunks):
            if not source.up.has_room:
                return
            rescued = board.rescued.get(chunk, 0) & board.hungry
            if rescued:
                self._fetch(board.next_of(rescued), chunk, source)
                continue
            if chunk in source.readers or not board.cold >> chunk & 1 or (board.is_place and board.held[chunk]):
                continue
            taker = self._next_seed(chunk)
            if taker is not None:
                self._fetch(taker, chunk, source)

    def _next_seed(self, chunk: int) -> Member | None:
        """The node that fetches a cold chunk from the source, in turns of their own; None if all are busy.

        It is one that can keep the chunk for the others, if there are others; one that the source is known not to
        serve only if there is no other.
        """
        board = self._board
        keepers = board.lacking[chunk] & ~board.barred
        keep = bool(keepers) and board.lacking[chunk].bit_count() > 1
        nodes = keepers if keep else board.lacking[chunk]
        nodes = nodes & ~board.unfit or nodes
        while nodes:
            index = turned(nodes, self._seed_turn)
            member = board.order[index]
            if member.down.has_spare_room and (member.may_offer or not keep):
                self._seed_turn = (index + 1) % len(board.order)
                return member
            nodes &= ~member.bit
        return None

    def _fetch(self, member: Member, chunk: int, sender: Member) -> None:
        """Let a node fetch a chunk; it keeps it on offer where many others lack it."""
        board = self._board
        others = (board.lacking[chunk] & ~member.bit).bit_count()
        offers = board.offered[chunk].bit_count() + board.coming[chunk]
        board.begin_read(member, chunk, sender, keep=others > offers * _FAN_OUT and member.may_offer)
