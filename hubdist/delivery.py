"""PURE: who sends which chunk to whom. Events in, commands out; no I/O, no clock, no threads, no ray.

One `Delivery` brings one manifest's chunks to a set of nodes. The coordinator feeds it what happened and carries out
what it answers. The plan of this release: the driver's node offers a chunk (puts it into the object store), every
node that lacks it fetches it, and it is withdrawn when nobody reads it and its room is needed. Bytes in flight are
bounded for each node and at the driver's node. Nodes that join late share the offers that are there.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from hubdist.errors import HubdistError

MAX_TRIES = 3
"""How often a chunk is offered or fetched before its node is given up."""


@dataclass(frozen=True, slots=True)
class NodeJoined:
    """A node has a stage for the manifest and lacks all chunks."""

    node: str


@dataclass(frozen=True, slots=True)
class ChunkOffered:
    """The source has put a chunk where nodes can fetch it."""

    chunk: int


@dataclass(frozen=True, slots=True)
class OfferFailed:
    """The source could not offer a chunk."""

    chunk: int
    error: HubdistError


@dataclass(frozen=True, slots=True)
class ChunkArrived:
    """A node has fetched, checked and written a chunk."""

    node: str
    chunk: int


@dataclass(frozen=True, slots=True)
class ChunkFailed:
    """A chunk did not reach a node, or not in order; another try may do."""

    node: str
    chunk: int
    error: HubdistError


@dataclass(frozen=True, slots=True)
class NodeFailed:
    """A node cannot go on: it died, or its disk refuses."""

    node: str
    error: HubdistError


@dataclass(frozen=True, slots=True)
class NodePublished:
    """A node has published the snapshot."""

    node: str


@dataclass(frozen=True, slots=True)
class SourceFailed:
    """The source cannot go on, for all nodes."""

    error: HubdistError


Event = NodeJoined | ChunkOffered | OfferFailed | ChunkArrived | ChunkFailed | NodeFailed | NodePublished | SourceFailed


@dataclass(frozen=True, slots=True)
class Offer:
    """Put this chunk where nodes can fetch it; answered by ChunkOffered or OfferFailed."""

    chunk: int


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Drop this chunk's offer; nobody reads it."""

    chunk: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """Let this node fetch this chunk; answered by ChunkArrived, ChunkFailed or NodeFailed."""

    node: str
    chunk: int


@dataclass(frozen=True, slots=True)
class Publish:
    """This node has every chunk: let it publish; answered by NodePublished or NodeFailed."""

    node: str


@dataclass(frozen=True, slots=True)
class Finish:
    """This node is done, with an error or without; said once for each node that joined."""

    node: str
    error: HubdistError | None


Command = Offer | Withdraw | Fetch | Publish | Finish


@dataclass(slots=True)
class _Node:
    """What one node lacks (in order), reads at the moment, and how often it failed."""

    lacks: OrderedDict[int, None]
    reads: set[int] = field(default_factory=set)
    tries: Counter[int] = field(default_factory=Counter)
    in_flight_bytes: int = 0


@dataclass(slots=True)
class _Offered:
    """A chunk that is offered, or asked for; the nodes that read it or wait to."""

    ready: bool = False
    readers: set[str] = field(default_factory=set)


class Delivery:
    """One manifest's way to a set of nodes.

    Not for use by several threads: the coordinator's event loop owns it.

    Args:
        chunk_bytes: Size in bytes of every chunk, in order.
        node_window_bytes: Most bytes in flight to one node; one chunk is always allowed.
        source_window_bytes: Most bytes on offer at the source; one chunk is always allowed.
    """

    def __init__(self, chunk_bytes: Sequence[int], *, node_window_bytes: int, source_window_bytes: int) -> None:
        self._sizes = tuple(chunk_bytes)
        self._node_window = node_window_bytes
        self._source_window = source_window_bytes
        self._nodes: dict[str, _Node] = {}
        self._publishing: set[str] = set()
        self._offers: OrderedDict[int, _Offered] = OrderedDict()
        self._offered_bytes = 0
        self._offer_tries: Counter[int] = Counter()
        self._lacking = [0] * len(self._sizes)
        """For each chunk, how many nodes lack it and do not read it."""
        self._hungry: dict[str, None] = {}
        """Nodes that may take a chunk now, in turns; so an event costs what it changes, not all nodes."""
        self._starved: dict[str, None] = {}
        """Nodes that found no room at the source; they are hungry again when its offers change."""

    @property
    def active(self) -> bool:
        """True while a node that joined is neither published nor failed."""
        return bool(self._nodes) or bool(self._publishing)

    def handle(self, event: Event) -> list[Command]:  # noqa: C901 - one case for each event
        """Take in what happened; return what to do now. Events of nodes that are done are ignored."""
        out: list[Command] = []
        match event:
            case NodeJoined(node):
                self._join(node, out)
            case ChunkOffered(chunk):
                self._open(chunk, out)
            case OfferFailed(chunk, error):
                self._offer_failed(chunk, error, out)
            case ChunkArrived(node, chunk):
                self._arrived(node, chunk, out)
            case ChunkFailed(node, chunk, error):
                self._chunk_failed(node, chunk, error, out)
            case NodeFailed(node, error):
                self._leave(node, error, out)
            case NodePublished(node):
                if node in self._publishing:
                    self._publishing.discard(node)
                    out.append(Finish(node, None))
            case SourceFailed(error):
                for node in (*self._nodes,):
                    self._leave(node, error, out)
        self._fill_windows(out)
        return out

    def _join(self, node: str, out: list[Command]) -> None:
        if node in self._nodes or node in self._publishing:
            return
        if not self._sizes:
            self._publishing.add(node)
            out.append(Publish(node))
            return
        self._nodes[node] = _Node(OrderedDict.fromkeys(range(len(self._sizes))))
        self._hungry[node] = None
        for chunk in range(len(self._sizes)):
            self._lacking[chunk] += 1

    def _open(self, chunk: int, out: list[Command]) -> None:
        offered = self._offers.get(chunk)
        if offered is None or offered.ready:
            return
        offered.ready = True
        del self._offer_tries[chunk]
        if not offered.readers:
            self._feed_starved()
        out.extend(Fetch(node, chunk) for node in sorted(offered.readers))

    def _offer_failed(self, chunk: int, error: HubdistError, out: list[Command]) -> None:
        offered = self._offers.get(chunk)
        if offered is None:
            return
        self._offer_tries[chunk] += 1
        readers = sorted(offered.readers)
        for node in readers:
            self._stop_reading(node, chunk, lacks=True)
        self._withdraw(chunk, None)
        if self._offer_tries[chunk] >= MAX_TRIES:
            for node in (*self._nodes,):
                self._leave(node, error, out)

    def _arrived(self, node: str, chunk: int, out: list[Command]) -> None:
        state = self._nodes.get(node)
        if state is None or chunk not in state.reads:
            return
        self._stop_reading(node, chunk, lacks=False)
        if not state.lacks and not state.reads:
            del self._nodes[node]
            self._publishing.add(node)
            out.append(Publish(node))

    def _chunk_failed(self, node: str, chunk: int, error: HubdistError, out: list[Command]) -> None:
        state = self._nodes.get(node)
        if state is None or chunk not in state.reads:
            return
        self._stop_reading(node, chunk, lacks=True)
        state.tries[chunk] += 1
        if state.tries[chunk] >= MAX_TRIES:
            self._leave(node, error, out)
        elif chunk in self._offers and not self._offers[chunk].readers:
            self._withdraw(chunk, out)  # the object itself may be lost: the next try gets a new one

    def _leave(self, node: str, error: HubdistError, out: list[Command]) -> None:
        state = self._nodes.get(node)
        if state is not None:
            for chunk in sorted(state.reads):
                self._stop_reading(node, chunk, lacks=True)
            for chunk in state.lacks:
                self._lacking[chunk] -= 1
            del self._nodes[node]
            self._starved.pop(node, None)
        elif node not in self._publishing:
            return
        self._publishing.discard(node)
        out.append(Finish(node, error))

    def _stop_reading(self, node: str, chunk: int, *, lacks: bool) -> None:
        state = self._nodes[node]
        state.reads.discard(chunk)
        state.in_flight_bytes -= self._sizes[chunk]
        self._hungry[node] = None
        if lacks:
            state.lacks[chunk] = None
            state.lacks.move_to_end(chunk, last=False)
            self._lacking[chunk] += 1
        offered = self._offers[chunk]
        offered.readers.discard(node)
        if not offered.readers:
            self._feed_starved()

    def _feed_starved(self) -> None:
        self._hungry |= self._starved
        self._starved.clear()

    def _fill_windows(self, out: list[Command]) -> None:
        """Give every node with room in its window a next chunk, in turns, as long as anything can be given."""
        while self._hungry:
            name = next(iter(self._hungry))
            del self._hungry[name]
            node = self._nodes.get(name)
            chunk = self._next_chunk(node) if node is not None else None
            if node is None or chunk is None:
                continue
            if not self._make_room(chunk, out):
                self._starved[name] = None
                continue
            self._hungry[name] = None
            del node.lacks[chunk]
            self._lacking[chunk] -= 1
            node.reads.add(chunk)
            node.in_flight_bytes += self._sizes[chunk]
            offered = self._offers[chunk]
            offered.readers.add(name)
            if offered.ready:
                out.append(Fetch(name, chunk))
        for chunk in [chunk for chunk in self._offers if not self._wanted(chunk)]:
            self._withdraw(chunk, out)

    def _next_chunk(self, node: _Node) -> int | None:
        """The first chunk on offer that the node lacks, else the first that it lacks; None if its window is full."""
        on_offer = (chunk for chunk in self._offers if chunk in node.lacks)
        chunk = next(on_offer, next(iter(node.lacks), None))
        if chunk is None or (node.reads and node.in_flight_bytes + self._sizes[chunk] > self._node_window):
            return None
        return chunk

    def _make_room(self, chunk: int, out: list[Command]) -> bool:
        """See to it that a chunk is on offer; False if the source's window is full of chunks that are being read."""
        if chunk in self._offers:
            return True
        while self._offers and self._offered_bytes + self._sizes[chunk] > self._source_window:
            idle = next((old for old, offered in self._offers.items() if offered.ready and not offered.readers), None)
            if idle is None:
                return False
            self._withdraw(idle, out)
        self._offers[chunk] = _Offered()
        self._offered_bytes += self._sizes[chunk]
        self._feed_starved()
        out.append(Offer(chunk))
        return True

    def _wanted(self, chunk: int) -> bool:
        offered = self._offers[chunk]
        return not offered.ready or bool(offered.readers) or self._lacking[chunk] > 0

    def _withdraw(self, chunk: int, out: list[Command] | None) -> None:
        del self._offers[chunk]
        self._offered_bytes -= self._sizes[chunk]
        self._feed_starved()
        if out is not None:
            out.append(Withdraw(chunk))
