"""The plan: each chunk leaves the source about once, and nodes hand on what they have while they lack the rest.

`DeliveryPlan` takes events in and gives commands out. What it knows is on its `ChunkMap`; who fetches what from whom is
decided in `matching`; here stands what each event means.
"""

from __future__ import annotations

from collections.abc import Sequence

from hubdist.delivery.chunk_map import ChunkMap
from hubdist.delivery.events import (
    ChunkArrived,
    ChunkFailed,
    ChunksAdded,
    Closed,
    Command,
    Event,
    Finish,
    HolderJoined,
    NodeFailed,
    NodeHeard,
    NodeJoined,
    NodePublished,
    NodeSilent,
    Publish,
    SourceFailed,
)
from hubdist.delivery.peers import Peer, Role, Window
from hubdist.delivery.scheduler import Scheduler
from hubdist.errors import HubdistError, IntegrityError

MAX_TRIES = 3
"""How often a node fetches a chunk from the source in vain before it is given up."""

_FEW_NODES = 12
"""Up to as many nodes, a handful of fetches keeps every link busy, whatever each of them has to wait for; beyond, a
chunk takes many steps, and what counts is that a step is quick: fewer fetches share a link."""

_FEW_SLOTS = 6
"""Chunks under way to one of few nodes, and from it. With more of them each takes longer, and so does the last one."""

_MANY_SLOTS = 2
"""The same for one of many nodes."""

_SEEDS = 2
"""Fetches from the source that are always under way: one comes while another is asked for."""

_READERS = 4
"""Fetches from a place that are under way for each node, on average."""

_PEER_TRIES = 2
"""Failed fetches from peers after which a node gets a chunk from the source."""

_MAX_ACCUSED = 2
"""A node that finds wrong bytes of more peers than this is not believed."""


class DeliveryPlan:
    """One model's way to a set of nodes.

    Not for use by several threads: the coordinator's event loop owns it.

    Args:
        chunk_bytes: Size in bytes of every chunk, in order.
        source: Name of what has all chunks: the driver's node, or a place that nodes read themselves.
        nodes: How many nodes are expected.
        node_window_bytes: Most bytes in flight to a node, and from it; one chunk is always allowed.
        source_window_bytes: Most bytes in flight from the source; one chunk is always allowed.
        largest_bytes: Size of the largest chunk, also of those that come later.
        is_place: Nodes read the source themselves: what is in flight from there takes no node's memory.
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
        self._is_place = is_place
        largest = max(largest_bytes or 0, *chunk_bytes, 1)
        self._most = max(1, node_window_bytes // largest)
        self._slots = min(self._most, _FEW_SLOTS if nodes <= _FEW_NODES else _MANY_SLOTS)
        most = _READERS * nodes if is_place else max(1, source_window_bytes // largest)
        self._board = ChunkMap(Peer(source, 0, Role.HOLDING, Window(0, 0), Window(most, most)))
        self._matching = Scheduler(self._board, seeds=most if is_place else _SEEDS)
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
            case ChunkFailed(node, chunk, source, error):
                self._chunk_failed(node, chunk, source, error)
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
            case NodeSilent(node):
                self._silence(node)
            case NodeHeard(node):
                self._hear(node)
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

    def _add(self, node: str, role: Role) -> Peer:
        down, up = Window(self._slots, self._most), Window(self._slots, self._most)
        member = Peer(node, 1 << len(self._board.order), role, down, up)
        self._board.add(member)
        return member

    def _publish_if_complete(self, member: Peer) -> None:
        if self._closed and not member.lacks and not member.reads and not member.only_source:
            self._board.complete(member)
            self._board.commands.append(Publish(member.name))

    def _published(self, node: str) -> None:
        member = self._board.members.get(node)
        if member is not None and member.role is Role.PUBLISHING:
            self._board.published(member)
            self._board.commands.append(Finish(node, None))

    def _silence(self, node: str) -> None:
        member = self._board.members.get(node)
        if member is not None and not member.silent:
            self._board.silence(member)

    def _hear(self, node: str) -> None:
        member = self._board.members.get(node)
        if member is not None and member.silent:
            self._board.hear(member)

    def _leave(self, member: Peer, error: HubdistError) -> None:
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
        if member is None:
            return
        sender = member.reads.get(chunk)
        if sender is not None and sender.name == source:
            member.down.learn(seconds)
            sender.up.learn(seconds)
            board.end_read(member, chunk)
        elif not board.late(member, chunk):
            return
        if member.silent:  # it is looked at again when it is heard of
            member.resting |= 1 << chunk
        elif not member.barred:
            board.have(member, chunk)
            board.fresh.append((member, chunk))
        self._publish_if_complete(member)

    def _chunk_failed(self, node: str, chunk: int, source: str, error: HubdistError) -> None:
        board = self._board
        member = board.members.get(node)
        if member is None or chunk not in member.reads or member.reads[chunk].name != source:
            return
        sender = member.reads[chunk]
        board.end_read(member, chunk)
        board.lack(member, chunk)
        member.tries[chunk] += 1
        if sender is board.source:
            board.unfit |= member.bit if self._is_place else 0
        elif isinstance(error, IntegrityError) and len(member.accused | {sender.name}) <= _MAX_ACCUSED:
            member.accused.add(sender.name)
            board.bar(sender)
        elif sender.holds >> chunk & 1:
            board.have_not(sender, chunk)
        if member.tries[chunk] >= MAX_TRIES + _PEER_TRIES or (
            sender is board.source and member.tries[chunk] >= MAX_TRIES
        ):
            self._leave(member, error)
        elif member.tries[chunk] >= _PEER_TRIES:
            board.rescue(member, chunk)
