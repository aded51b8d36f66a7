"""A cluster in the head: carries out a delivery's commands, checks each of them, keeps the answers to come."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from hubdist.delivery import (
    ChunkArrived,
    ChunkFailed,
    ChunksReady,
    Command,
    DeliveryPlan,
    Event,
    Fetch,
    Finish,
    HolderJoined,
    NodeFailed,
    NodeHeard,
    NodeJoined,
    NodePublished,
    NodeSilent,
    Publish,
    SourcePublished,
)
from hubdist.errors import DigestMismatchError, HubdistError, OriginError, PeerError, StoreFullError

SOURCE = "source"
LOST = PeerError("lost")
FULL = StoreFullError("full", need_bytes=2, free_bytes=1)
GONE = OriginError("the source is gone")
WRONG = DigestMismatchError("wrong bytes", expected="sha256:1", actual="sha256:2")

Answerable = Fetch | Publish


@dataclass
class WorldNode:
    has: set[int] = field(default_factory=set)
    fetches: dict[int, Fetch] = field(default_factory=dict)
    told_to_publish: bool = False
    finished: bool = False
    error: HubdistError | None = None
    alive: bool = True
    silent: bool = False


class World:
    """See above.

    Args:
        sizes: Bytes of each chunk.
        window: Bytes in flight to a node, and from it.
        source_window: Bytes in flight from the source.
        later: Bytes of chunks that come while the delivery runs.
        is_remote: The source is read by the nodes themselves.
        liars: Nodes that send wrong bytes.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        window: int = 100,
        source_window: int = 100,
        later: Sequence[Sequence[int]] = (),
        is_remote: bool = False,
        liars: frozenset[str] = frozenset(),
        nodes: int = 4,
    ) -> None:
        self.sizes = list(sizes)
        self.window = window
        self.source_window = source_window
        self.later = deque(tuple(more) for more in later)
        self.is_remote = is_remote
        self.liars = liars
        self.plan = DeliveryPlan(
            sizes,
            source=SOURCE,
            nodes=nodes,
            node_window_bytes=window,
            source_window_bytes=source_window,
            largest_bytes=max([*sizes, *(size for more in later for size in more)], default=1),
            is_remote=is_remote,
            complete=not later,
        )
        self.nodes: dict[str, WorldNode] = {}
        self.waiting: deque[Answerable] = deque()
        self.commands: Counter[type] = Counter()
        self.sent: Counter[str] = Counter()
        self.blamed: set[tuple[str, str]] = set()
        """Who found whose bytes wrong."""

    @property
    def unfinished(self) -> list[str]:
        return [name for name, node in self.nodes.items() if not node.finished]

    @property
    def largest(self) -> int:
        return max(self.sizes, default=0)

    def join(self, name: str) -> list[Command]:
        self.nodes[name] = WorldNode()
        return self.tell(NodeJoined(name))

    def hold(self, name: str) -> list[Command]:
        self.nodes[name] = WorldNode(has=set(range(len(self.sizes))), finished=True)
        return self.tell(HolderJoined(name))

    def tell(self, event: Event) -> list[Command]:
        self._take_in(event)
        commands = self.plan.handle(event)
        for command in commands:
            self.commands[type(command)] += 1
            self._obey(command)
        self._check()
        return commands

    def grow(self) -> None:
        """Add the next chunks that come later, or say that there are no more."""
        more = self.later.popleft()
        self.sizes.extend(more)
        self.tell(ChunksReady(more))
        if not self.later:
            self.tell(SourcePublished())

    def answer(self, command: Answerable) -> None:
        """The answer if all goes well."""
        match command:
            case Fetch(name, chunk, sender) if sender in self.liars:
                if self._is_current(name, chunk, sender):
                    self.blamed.add((name, sender))
                self.tell(ChunkFailed(name, chunk, sender, WRONG))
            case Fetch(name, chunk, sender):
                self.tell(ChunkArrived(name, chunk, sender))
            case Publish(name):
                self.tell(NodePublished(name))

    def refuse(self, command: Answerable, *, whole_node: bool) -> None:
        """The answer if it goes badly."""
        match command:
            case Fetch(name, chunk, sender) if not whole_node:
                self.tell(ChunkFailed(name, chunk, sender, LOST))
            case Fetch(name) | Publish(name):
                self.kill(name)

    def kill(self, name: str) -> None:
        self._gone(name)
        self.waiting = deque(command for command in self.waiting if command.node != name)
        self.tell(NodeFailed(name, FULL))

    def silence(self, name: str) -> None:
        """A node gives no answer; what it was asked for, or should send, may still come."""
        self.nodes[name].silent = True
        self.nodes[name].fetches.clear()
        for node in self.nodes.values():
            node.fetches = {chunk: fetch for chunk, fetch in node.fetches.items() if fetch.sender != name}
        self.tell(NodeSilent(name))

    def hear(self, name: str) -> None:
        """It answers again."""
        self.nodes[name].silent = False
        self.tell(NodeHeard(name))

    def _gone(self, name: str) -> None:
        self.nodes[name].alive = False
        self.nodes[name].fetches.clear()
        for node in self.nodes.values():  # what was fetched from there is asked of others; the old answers still come
            node.fetches = {chunk: fetch for chunk, fetch in node.fetches.items() if fetch.sender != name}

    def run(self) -> None:
        """Answer everything in order."""
        while self.waiting or self.later:
            if self.waiting:
                self.answer(self.waiting.popleft())
            else:
                self.grow()

    def _is_current(self, name: str, chunk: int, sender: str) -> bool:
        fetch = self.nodes[name].fetches.get(chunk)
        return fetch is not None and fetch.sender == sender and not self.nodes[name].finished

    def _wants(self, name: str, chunk: int) -> bool:
        node = self.nodes[name]
        return not node.finished and chunk not in node.fetches and chunk not in node.has

    def _take_in(self, event: Event) -> None:
        match event:
            case ChunkArrived(name, chunk, sender) if self._is_current(name, chunk, sender):
                del self.nodes[name].fetches[chunk]
                self.nodes[name].has.add(chunk)
                self.sent[sender] += self.sizes[chunk]
            case ChunkArrived(name, chunk) if self._wants(name, chunk):  # late, and not asked for again until now
                self.nodes[name].has.add(chunk)
            case ChunkFailed(name, chunk, sender, _) if self._is_current(name, chunk, sender):
                del self.nodes[name].fetches[chunk]

    def _obey(self, command: Command) -> None:
        match command:
            case Fetch(name, chunk, sender):
                node = self.nodes[name]
                assert not node.finished
                assert sender != name
                assert sender == SOURCE or self.nodes[sender].alive
                assert sender == SOURCE or not self.nodes[sender].silent, "asked one that gives no answer"
                assert not node.silent, "told one that gives no answer"
                assert sender == SOURCE or chunk in self.nodes[sender].has, "the sender does not have the chunk"
                assert chunk not in node.has, "sent again what had arrived"
                assert (name, sender) not in self.blamed, "asked again who sent wrong bytes"
                assert chunk not in node.fetches
                node.fetches[chunk] = command
                self.waiting.append(command)
            case Publish(name):
                node = self.nodes[name]
                assert not node.finished
                assert not node.told_to_publish
                assert not self.later
                assert node.has == set(range(len(self.sizes))), "told to publish a part"
                node.told_to_publish = True
                self.waiting.append(command)
            case Finish(name, error):
                node = self.nodes[name]
                assert not node.finished, "finished twice"
                node.finished = True
                node.error = error
                if error is not None:
                    self._gone(name)

    def _check(self) -> None:
        sending: Counter[str] = Counter()
        for node in self.nodes.values():
            if node.finished:
                continue
            sizes = [self.sizes[chunk] for chunk in node.fetches]
            assert sum(sizes) <= max(self.window, self.largest), "too much in flight to a node"
            for fetch in node.fetches.values():
                sending[fetch.sender] += self.sizes[fetch.chunk]
        from_source = sending.pop(SOURCE, 0)
        assert self.is_remote or from_source <= max(self.source_window, self.largest), "too much from the source"
        assert all(size <= max(self.window, self.largest) for size in sending.values()), "too much from a node"
