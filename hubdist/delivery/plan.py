"""The plan of one delivery: each chunk leaves the source about once, and nodes pass on what they have meanwhile.

`DeliveryPlan` takes events and answers with commands. Here stands what each event means. What is known of peers and
chunks is kept by `PeerSet`, `ChunkMap` and `PendingFetches`; who fetches what from whom is decided by `Scheduler`.
"""

from __future__ import annotations

from collections.abc import Sequence

from hubdist.delivery.chunk_map import ChunkMap
from hubdist.delivery.events import (
    ChunkArrived,
    ChunkFailed,
    ChunksReady,
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
    SourcePublished,
)
from hubdist.delivery.peer_set import PeerSet
from hubdist.delivery.peers import Peer, Role, Window
from hubdist.delivery.scheduler import PendingFetches, Scheduler
from hubdist.errors import HubdistError, IntegrityError

MAX_TRIES = 3
"""After this many failed fetches of one chunk from the source a node is given up."""

_MAX_FEW_NODES = 12
"""Up to this many nodes have `_FEW_NODES_SLOTS`. With few nodes a handful of fetches keeps every link busy, whatever
each of them waits for. With more nodes a chunk takes many hops: fewer fetches share a link, so each hop is quick."""

_FEW_NODES_SLOTS = 6
"""Fetches to a node at the same time, and from it. With more of them each takes longer, and so does the last one."""

_MANY_NODES_SLOTS = 2

_MIN_SOURCE_FETCHES = 2
"""Fetches from the source that may always run: while one chunk comes, the next one is asked for."""

_REMOTE_FETCHES_PER_NODE = 4
"""Fetches from a remote source that run for each node, on average."""

_PEER_TRIES = 2
"""After this many failed fetches of one chunk from other nodes, a node gets the chunk from the source."""

_MAX_ACCUSED = 2
"""A node that finds wrong bytes of more peers than this is not believed: its own memory or disk may be at fault."""


class DeliveryPlan:
    """One model's way to a set of nodes. Owned by the coordinator's event loop; not for use by several threads.

    Args:
        chunk_bytes: Size in bytes of every chunk, in order.
        source: Name of the source, which has all chunks: the driver's node, or a remote directory.
        nodes: How many nodes are expected.
        node_window_bytes: Most bytes in flight to a node, and from it; one chunk is always allowed.
        source_window_bytes: Most bytes in flight from the source; one chunk is always allowed.
        largest_bytes: Size of the largest chunk, also of those that will be ready later; None if there will be none.
        is_remote: Nodes read the source themselves, so what is in flight from there takes no node's memory.
        complete: False if `ChunksReady` and `SourcePublished` are to come.
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
        is_remote: bool = False,
        complete: bool = True,
    ) -> None:
        self._complete = complete
        self._is_remote = is_remote
        largest = max(largest_bytes or 0, *chunk_bytes, 1)
        self._max_urgent_slots = max(1, node_window_bytes // largest)
        slots = _FEW_NODES_SLOTS if nodes <= _MAX_FEW_NODES else _MANY_NODES_SLOTS
        self._max_slots = min(self._max_urgent_slots, slots)
        sends = _REMOTE_FETCHES_PER_NODE * nodes if is_remote else max(1, source_window_bytes // largest)
        self._peers = PeerSet(Peer(source, 0, Role.HOLDING, Window(0, 0), Window(sends, sends)))
        self._chunks = ChunkMap()
        self._chunks.add_chunks(len(chunk_bytes), [])
        self._fetches = PendingFetches(self._peers, self._chunks)
        self._scheduler = Scheduler(
            self._peers,
            self._chunks,
            self._fetches,
            min_source_fetches=sends if is_remote else _MIN_SOURCE_FETCHES,
        )
        self._commands: list[Command] = []

    @property
    def active(self) -> bool:
        """True while a node that joined has neither published nor failed."""
        return self._peers.active

    def handle(self, event: Event) -> list[Command]:  # noqa: C901, PLR0912 - one case for each event
        """Take in what happened; return what to do now. Events of nodes that are done are ignored."""
        match event:
            case ChunkArrived(node, chunk, sender, seconds):
                self._arrived(node, chunk, sender, seconds)
            case ChunkFailed(node, chunk, sender, error):
                self._chunk_failed(node, chunk, sender, error)
            case NodeJoined(node):
                self._join(node)
            case HolderJoined(node):
                self._hold(node)
            case ChunksReady(sizes):
                self._chunks.add_chunks(len(sizes), self._peers.receivers())
            case SourcePublished():
                self._complete = True
                for peer in self._peers.receivers():
                    self._publish_if_complete(peer)
            case NodeFailed(node, error):
                self._fail(node, error)
            case NodeSilent(node):
                self._silence(node)
            case NodeHeard(node):
                self._hear(node)
            case NodePublished(node):
                self._published(node)
            case SourceFailed(error):
                for peer in self._peers.receivers():
                    self._leave(peer, error)
        commands, self._commands = self._commands, []
        return [*commands, *self._scheduler.begin_fetches()]

    # Nodes

    def _join(self, node: str) -> None:
        peer = self._peers.find(node)
        if peer is not None and peer.role is not Role.HOLDING:
            return
        if peer is not None:  # the node had the snapshot and lost it
            self._forget(peer)
        receiver = self._add(node, Role.RECEIVING)
        self._chunks.add_receiver(receiver)
        self._publish_if_complete(receiver)

    def _hold(self, node: str) -> None:
        if node != self._peers.source.name and self._peers.find(node) is None:
            self._chunks.add_holder(self._add(node, Role.HOLDING))

    def _add(self, node: str, role: Role) -> Peer:
        return self._peers.add(node, role, max_slots=self._max_slots, max_urgent_slots=self._max_urgent_slots)

    def _publish_if_complete(self, peer: Peer) -> None:
        if self._complete and not peer.wants and not peer.fetches and not peer.source_only:
            self._peers.start_publishing(peer)
            self._commands.append(Publish(peer.name))

    def _published(self, node: str) -> None:
        peer = self._peers.find(node)
        if peer is not None and peer.role is Role.PUBLISHING:
            self._peers.finish_publishing(peer)
            self._commands.append(Finish(node, None))

    def _silence(self, node: str) -> None:
        """Ask others for whatever a silent node was to fetch or to send.

        A late answer is still welcome: `_arrived` takes it if nobody else's came first.
        """
        peer = self._peers.find(node)
        if peer is not None and not peer.silent:
            self._peers.silence(peer)
            self._chunks.withhold(peer)
            self._fetches.fail_all_of(peer)

    def _hear(self, node: str) -> None:
        peer = self._peers.find(node)
        if peer is not None and peer.silent:
            self._chunks.offer_withheld(peer)
            self._peers.hear(peer)

    def _fail(self, node: str, error: HubdistError) -> None:
        peer = self._peers.find(node)
        if peer is not None:
            self._leave(peer, error)

    def _leave(self, peer: Peer, error: HubdistError) -> None:
        if peer.role is not Role.HOLDING:
            self._commands.append(Finish(peer.name, error))
        self._forget(peer)

    def _forget(self, peer: Peer) -> None:
        # In this order: a fetch that ends gives slots back to both ends, also to the peer that leaves.
        self._fetches.fail_all_of(peer)
        self._chunks.remove(peer)
        self._peers.remove(peer)

    # Chunks

    def _arrived(self, node: str, chunk: int, sender_name: str, seconds: float) -> None:
        peer = self._peers.find(node)
        if peer is None:
            return
        sender = peer.fetches.get(chunk)
        if sender is not None and sender.name == sender_name:
            peer.fetch_window.adapt(seconds)
            sender.send_window.adapt(seconds)
            self._fetches.end(peer, chunk)
        elif not self._chunks.accept_late(peer, chunk):
            return
        self._chunks.add_new_copy(peer, chunk)
        self._publish_if_complete(peer)

    def _chunk_failed(self, node: str, chunk: int, sender_name: str, error: HubdistError) -> None:
        peer = self._peers.find(node)
        if peer is None or chunk not in peer.fetches or peer.fetches[chunk].name != sender_name:
            return
        sender = peer.fetches[chunk]
        from_source = sender is self._peers.source
        self._fetches.fail(peer, chunk)
        peer.tries[chunk] += 1
        if from_source:
            if self._is_remote:
                self._peers.note_cannot_read_source(peer)
        elif isinstance(error, IntegrityError) and len(peer.accused | {sender.name}) <= _MAX_ACCUSED:
            peer.accused.add(sender.name)
            self._ban(sender)
        elif sender.has >> chunk & 1:  # the sender may have lost this chunk only
            self._chunks.drop_copy(sender, chunk)
        tries = peer.tries[chunk]
        if tries >= MAX_TRIES + _PEER_TRIES or (from_source and tries >= MAX_TRIES):
            self._leave(peer, error)
        elif tries >= _PEER_TRIES:
            self._chunks.want_from_source(peer, chunk)

    def _ban(self, peer: Peer) -> None:
        if not peer.banned:
            self._chunks.ban(peer)
            self._peers.ban(peer)
