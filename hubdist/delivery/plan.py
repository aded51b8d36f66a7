"""The plan: each chunk leaves the source about once, and nodes hand on what they have while they lack the rest.

`Delivery` takes events in and gives commands out. What it knows is on its `Board`; who fetches what from whom is
decided in `matching`; here stands what each event means.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hubdist.delivery.board import Board
from hubdist.delivery.events import (
    ChunkArrived,
    ChunkFailed,
    ChunkOffered,
    ChunksAdded,
    Closed,
    Command,
    Event,
    Finish,
    HolderJoined,
    NodeFailed,
    NodeJoined,
    NodePublished,
    OfferFailed,
    Publish,
    SourceFailed,
)
from hubdist.delivery.matching import Matching
from hubdist.delivery.members import Member, Role, Window
from hubdist.errors import HubdistError, IntegrityError

MAX_TRIES = 3
"""How often a chunk is offered or fetched before its node is given up."""

_FEW_NODES = 12
"""Up to as many nodes, a handful of fetches keeps every link busy; beyond, a chunk spreads over many steps, and what
counts is that a step is quick: fewer fetches share a link."""

_FEW_SLOTS = 8
"""Chunks under way to one of few nodes, and from it. With more of them each takes longer, and so does the last one."""

_FEW_SEEDS = 8
_MANY_SEEDS = 4
"""Chunks under way from the source, at least; few nodes get one each, so that all have something for the others."""

_STEP_BYTES = 4 << 20
"""Bytes under way to a node, and from it, if there are many: what fills a link while an answer is on its way."""

_SEED_BYTES = 12 << 20
"""Bytes under way from the source, if there are many."""

_PEER_TRIES = 2
"""Failed fetches from peers after which a node gets a chunk from the source."""

_MOST_ACCUSED = 2
"""A node that finds wrong bytes of more peers than this is not believed."""


class Delivery:
    """One model's way to a set of nodes.

    Not for use by several threads: the coordinator's event loop owns it.

    Args:
        chunk_bytes: Size in bytes of every chunk, in order.
        source: Name of what has all chunks: the driver's node, or a place that nodes read themselves.
        nodes: How many nodes are expected.
        node_window_bytes: Most bytes in flight to a node, and most that it has on offer; one chunk is always allowed.
        source_window_bytes: Most bytes on offer at the source; one chunk is always allowed.
        largest_bytes: Size of the largest chunk, also of those that come later.
        is_place: Nodes read the source themselves: nothing is offered there.
        closed: There are no further chunks.
    """

    def __init__(
        self,
        chunk_bytes: Sequence[int],
        *,
        source: str,
        nodes: int,
        node_window_bytes: int,
        source_window_bytes: int,
        largest_bytes: int | None = None,
        is_place: bool = False,
        closed: bool = True,
    ) -> None:
        self._closed = closed
        largest = max(largest_bytes or 0, *chunk_bytes, 1)
        self._most = max(1, node_window_bytes // largest)
        wide = nodes <= _FEW_NODES
        most = 4 * nodes if is_place else max(1, source_window_bytes // largest)
        seeds = (
            most
            if is_place
            else min(most, max(_FEW_SEEDS, nodes) if wide else max(_MANY_SEEDS, _SEED_BYTES // largest))
        )
        self._slots = min(self._most, _FEW_SLOTS if wide else max(2, _STEP_BYTES // largest))
        self._offer_tries: Counter[int] = Counter()
        origin = Member(source, 0, Role.HOLDING, Window(0, 0), Window(seeds, seeds), most)
        self._board = Board(origin, is_place=is_place)
        self._matching = Matching(self._board)
        self._board.add_chunks(len(chunk_bytes))

    @property
    def active(self) -> bool:
        """True while a node that joined is neither published nor failed."""
        return bool(self._board.receiving | self._board.publishing)

    def handle(self, event: Event) -> list[Command]:  # noqa: C901, PLR0912 - one case for each event
        """Take in what happened; return what to do now. Events of nodes that are done are ignored."""
        board = self._board
        match event:
            case ChunkArrived(node, chunk, source, seconds):
                self._arrived(node, chunk, source, seconds)
            case ChunkOffered(node, chunk):
                self._offered(node, chunk)
            case ChunkFailed(node, chunk, source, error):
                self._chunk_failed(node, chunk, source, error)
            case OfferFailed(node, chunk, error):
                self._offer_failed(node, chunk, error)
            case NodeJoined(node):
                self._join(node)
            case HolderJoined(node):
                self._hold(node)
            case ChunksAdded(sizes):
                board.add_chunks(len(sizes))
            case Closed():
                self._closed = True
                for member in board.members_of(board.receiving):
                    self._publish_if_complete(member)
            case NodeFailed(node, error):
                if node in board.members:
                    self._leave(board.members[node], error)
            case NodePublished(node):
                self._published(node)
            case SourceFailed(error):
                self._give_up(error)
        self._matching.match()
        commands, board.commands = board.commands, []
        return commands

    # Nodes

    def _join(self, node: str) -> None:
        member = self._board.members.get(node)
        if member is not None and member.role is not Role.HOLDING:
            return
        if member is not None:  # it had the snapshot and lost it
            self._board.forget(member)
        self._publish_if_complete(self._add(node, Role.RECEIVING))

    def _hold(self, node: str) -> None:
        if self._board.known(node) is None:
            self._add(node, Role.HOLDING)

    def _add(self, node: str, role: Role) -> Member:
        down, up = Window(self._slots, self._most), Window(self._slots, self._most)
        member = Member(node, 1 << len(self._board.order), role, down, up, self._most)
        self._board.add(member)
        return member

    def _publish_if_complete(self, member: Member) -> None:
        if self._closed and not member.lacks and not member.reads and not member.only_source:
            self._board.complete(member)
            self._board.commands.append(Publish(member.name))

    def _published(self, node: str) -> None:
        member = self._board.members.get(node)
        if member is not None and member.role is Role.PUBLISHING:
            self._board.published(member)
            self._board.commands.append(Finish(node, None))

    def _leave(self, member: Member, error: HubdistError) -> None:
        if member.role is not Role.HOLDING:
            self._board.commands.append(Finish(member.name, error))
        self._board.forget(member)

    def _give_up(self, error: HubdistError) -> None:
        for member in self._board.members_of(self._board.receiving):
            self._leave(member, error)

    # Chunks

    def _arrived(self, node: str, chunk: int, source: str, seconds: float) -> None:
        board = self._board
        member = board.members.get(node)
        if member is None or chunk not in member.reads or member.reads[chunk].name != source:
            return
        sender = member.reads[chunk]
        keeps = member.keeps >> chunk & 1
        member.down.learn(seconds)
        sender.up.learn(seconds)
        board.end_read(member, chunk)
        member.holds |= 1 << chunk
        if not member.barred:
            board.have(member, chunk)
        if keeps:
            board.list_offer(member, chunk)
        if sender is board.source and chunk not in board.rescued:
            board.unlist(sender, chunk)
        board.drop_if_unwanted(chunk)
        self._publish_if_complete(member)

    def _chunk_failed(self, node: str, chunk: int, source: str, error: HubdistError) -> None:
        board = self._board
        member = board.members.get(node)
        if member is None or chunk not in member.reads or member.reads[chunk].name != source:
            return
        sender = member.reads[chunk]
        board.end_read(member, chunk)
        board.lack(member, chunk)
        board.unlist(sender, chunk)  # the object may be lost: the next try gets a new one
        member.tries[chunk] += 1
        if sender is board.source:
            board.unfit |= member.bit if board.is_place else 0
        elif isinstance(error, IntegrityError) and len(member.accused | {sender.name}) <= _MOST_ACCUSED:
            member.accused.add(sender.name)
            board.bar(sender)
        else:
            board.have_not(sender, chunk)
        if member.tries[chunk] >= MAX_TRIES + _PEER_TRIES or (
            sender is board.source and member.tries[chunk] >= MAX_TRIES
        ):
            self._leave(member, error)
        elif member.tries[chunk] >= _PEER_TRIES:
            board.rescue(member, chunk)

    # Offers

    def _offered(self, node: str, chunk: int) -> None:
        board = self._board
        member = board.known(node)
        if member is None or not member.offering >> chunk & 1:
            return
        board.end_offering(member, chunk)
        if member is board.source:
            del self._offer_tries[chunk]
            member.offers |= 1 << chunk
        else:
            board.list_offer(member, chunk)

    def _offer_failed(self, node: str, chunk: int, error: HubdistError) -> None:
        board = self._board
        member = board.known(node)
        if member is None or not member.offering >> chunk & 1:
            return
        board.end_offering(member, chunk)
        if member is board.source:
            self._offer_tries[chunk] += 1
            if self._offer_tries[chunk] >= MAX_TRIES:
                self._give_up(error)
            return
        board.have_not(member, chunk)
        if isinstance(error, IntegrityError):
            board.bar(member)
