"""A cluster in the head: carries out the commands of a `StreamPlan`, checks each of them, lets units flow singly."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from hubdist.delivery import (
    Finish,
    Follow,
    HolderJoined,
    Newcomer,
    NodeComplete,
    NodeFailed,
    NodeHeard,
    NodePublished,
    NodeSilent,
    NodesJoined,
    Publish,
    Reseat,
    SourcePublished,
    StreamBroke,
    StreamCommand,
    StreamEvent,
    StreamLags,
    StreamPlan,
)
from hubdist.errors import DigestMismatchError, HubdistError, OriginError, PeerError, StoreFullError

SOURCE = "source"
LOST = PeerError("lost")
FULL = StoreFullError("full", need_bytes=2, free_bytes=1)
GONE = OriginError("the source is gone")
WRONG = DigestMismatchError("wrong bytes", expected="sha256:1", actual="sha256:2")


@dataclass
class WorldNode:
    has: list[int]
    """Stripe -> how many units of it have come."""
    follows: dict[int, str] = field(default_factory=dict)
    """Stripe -> the parent that the node has been told last."""
    ordered: dict[int, str] = field(default_factory=dict)
    """Stripe -> the parent that the plan has ordered last, whether or not the node knows."""
    newest: dict[int, int] = field(default_factory=dict)
    """Stripe -> the number of the newest order that the node has got."""
    broken: set[int] = field(default_factory=set)
    """Stripes whose stream the node has complained about."""
    told_complete: bool = False
    told_to_publish: bool = False
    finished: bool = False
    error: HubdistError | None = None
    alive: bool = True
    silent: bool = False


class StreamWorld:
    """Nodes, the units that they have, and what is on the way between them and the plan.

    Args:
        stripes: How many stripes.
        units: How many units each stripe has at last.
        ready: How many units of each stripe the source has at first.
        liars: Nodes that send wrong bytes.
    """

    def __init__(self, stripes: int, units: int, *, ready: int | None = None, liars: frozenset[str] = frozenset()):
        self.stripes, self.units = stripes, units
        self.ready = units if ready is None else ready
        self.published = ready is None
        self.liars = liars
        self.plan = StreamPlan(SOURCE, stripes=stripes, complete=self.published)
        self.nodes: dict[str, WorldNode] = {}
        self.waiting: deque[StreamCommand | StreamEvent] = deque()
        """Commands that are on the way to nodes, and answers that are on the way to the plan."""
        self.numbers = itertools.count()
        self.issued: dict[int, int] = {}
        """Identity of an order that is on its way -> its number."""
        self.sent: Counter[str] = Counter()
        self.blamed: set[tuple[str, str]] = set()
        """Who found whose bytes wrong."""
        self.source_alive = True

    @property
    def unfinished(self) -> list[str]:
        return [name for name, node in self.nodes.items() if not node.finished]

    def join(self, *newcomers: str | Newcomer) -> list[StreamCommand]:
        """These nodes join together."""
        joined = tuple(Newcomer(each) if isinstance(each, str) else each for each in newcomers)
        for each in joined:
            self.nodes[each.node] = WorldNode([0] * self.stripes)
        return self.tell(NodesJoined(joined))

    def hold(self, name: str) -> list[StreamCommand]:
        self.nodes[name] = WorldNode([self.units] * self.stripes, finished=True)
        return self.tell(HolderJoined(name))

    def tell(self, event: StreamEvent) -> list[StreamCommand]:
        if isinstance(event, StreamBroke) and event.error is WRONG and self._is_ordered(event):
            self.blamed.add((event.node, event.parent))
        commands = self.plan.handle(event)
        for command in commands:
            for each in command.flat() if isinstance(command, Follow) else [command]:
                self._order(each)
        self.check()
        return commands

    def _is_ordered(self, event: StreamBroke) -> bool:
        node = self.nodes[event.node]
        return not node.finished and node.ordered.get(event.stripe) == event.parent

    def _order(self, command: StreamCommand) -> None:
        before = len(self.waiting)
        self._send(command)
        if len(self.waiting) > before:
            self.issued[id(self.waiting[-1])] = next(self.numbers)

    def _take_parents(self, message: Follow | Reseat, parents: dict[int, str]) -> None:
        """A node takes its parents; an order that a newer one has overtaken changes nothing."""
        node, number = self.nodes[message.node], self.issued[id(message)]
        for stripe, parent in parents.items():
            if number >= node.newest.get(stripe, number):
                node.newest[stripe] = number
                node.follows[stripe] = parent
                node.broken.discard(stripe)

    def _send(self, command: StreamCommand) -> None:
        node = self.nodes[command.node]
        assert not node.finished, "a node that is finished was told something"
        match command:
            case Follow(name, parents):
                assert len(parents) == self.stripes
                for stripe, parent in enumerate(parents):
                    self._check_parent(name, parent)
                    node.ordered[stripe] = parent
                self.waiting.append(Follow(name, parents))
            case Reseat(name, stripe, parent):
                assert not node.silent, "told one that gives no answer"
                assert node.ordered, "a node without a seat was given another"
                self._check_parent(name, parent)
                node.ordered[stripe] = parent
                self.waiting.append(command)
            case Publish(name):
                assert self.published
                assert self.is_full(name), "told to publish a part"
                assert not node.told_to_publish
                node.told_to_publish = True
                self.waiting.append(command)
            case Finish(name, error):
                node.finished = True
                node.error = error
                if error is not None:
                    self.remove(name)

    def _check_parent(self, name: str, parent: str) -> None:
        assert parent != name
        assert parent == SOURCE or self.nodes[parent].alive, "seated below a node that left"
        assert parent == SOURCE or (name, parent) not in self.blamed, "seated again below a node that sent wrong bytes"

    def check(self) -> None:
        """No node is below itself, and above each node there is one that has everything."""
        for name, node in self.nodes.items():
            if node.finished or node.told_complete:
                continue
            for stripe in node.ordered:
                seen = {name}
                at = node.ordered[stripe]
                while at != SOURCE and not (self.nodes[at].finished or self.nodes[at].told_complete):
                    assert at not in seen, "a circle"
                    seen.add(at)
                    assert self.nodes[at].alive, "below a node that left"
                    at = self.nodes[at].ordered[stripe]

    # What nodes do

    def is_full(self, name: str) -> bool:
        return self.nodes[name].has == [self.units] * self.stripes

    def deliver(self, message: StreamCommand | StreamEvent) -> None:
        """A command reaches its node, or an answer the plan."""
        match message:
            case Follow(name, parents):
                if self.nodes[name].alive:
                    self._take_parents(message, dict(enumerate(parents)))
            case Reseat(name, stripe, parent):
                if self.nodes[name].alive:
                    self._take_parents(message, {stripe: parent})
            case Publish(name):
                if self.nodes[name].alive:
                    self.waiting.append(NodePublished(name))
            case StreamBroke(name) | NodeComplete(name) | NodePublished(name) | StreamLags(name):
                if self.nodes[name].alive:
                    if isinstance(message, NodeComplete):
                        self.nodes[name].told_complete = True
                    self.tell(message)
            case _:
                self.tell(message)  # type: ignore[arg-type]

    def children(self, name: str) -> list[tuple[str, int]]:
        """The nodes that the plan has seated below a node, with the stripe."""
        return [
            (child, at) for child, node in self.nodes.items() for at, above in node.ordered.items() if above == name
        ]

    def streams(self) -> Iterator[tuple[str, int]]:
        """Every stream on which something can happen: a unit comes, or it turns out that none will."""
        for name, node in self.nodes.items():
            if not node.alive or node.told_complete or node.finished:
                continue
            for stripe, parent in node.follows.items():
                if stripe in node.broken or node.has[stripe] == self.units:
                    continue
                above = self.ready if parent == SOURCE else self.nodes[parent].has[stripe]
                lives = self.source_alive if parent == SOURCE else self.nodes[parent].alive
                if not lives or above > node.has[stripe]:
                    yield name, stripe

    def flow(self, name: str, stripe: int) -> None:
        """The next unit of a stream comes, or an answer that says why not."""
        node = self.nodes[name]
        parent = node.follows[stripe]
        if parent == SOURCE and not self.source_alive:
            self.break_stream(name, stripe, GONE)
        elif parent in self.liars:
            self.break_stream(name, stripe, WRONG)
        elif parent != SOURCE and not self.nodes[parent].alive:
            self.break_stream(name, stripe, LOST)
        elif (self.ready if parent == SOURCE else self.nodes[parent].has[stripe]) > node.has[stripe]:
            node.has[stripe] += 1
            self.sent[parent] += 1
            if self.published and self.is_full(name):
                self.waiting.append(NodeComplete(name))

    def break_stream(self, name: str, stripe: int, error: HubdistError) -> None:
        node = self.nodes[name]
        node.broken.add(stripe)
        next_unit = stripe + self.stripes * node.has[stripe]
        self.waiting.append(StreamBroke(name, stripe, node.follows[stripe], next_unit, error))

    def kill(self, name: str) -> None:
        self.remove(name)
        self.tell(NodeFailed(name, FULL))

    def remove(self, name: str) -> None:
        self.nodes[name].alive = False

    def silence(self, name: str) -> None:
        self.nodes[name].silent = True
        self.tell(NodeSilent(name))

    def hear(self, name: str) -> None:
        self.nodes[name].silent = False
        self.tell(NodeHeard(name))

    def grow(self) -> None:
        """The source has one more unit of each stripe; with the last one it is published."""
        if self.ready < self.units:
            self.ready += 1
        if self.ready == self.units and not self.published:
            self.published = True
            self.tell(SourcePublished())
            for name, node in self.nodes.items():
                if node.alive and not node.finished and self.is_full(name):
                    self.waiting.append(NodeComplete(name))

    def step(self) -> bool:
        """Do the next thing, in order; return whether there was one."""
        if self.waiting:
            self.deliver(self.waiting.popleft())
            return True
        for name, stripe in self.streams():
            self.flow(name, stripe)
            return True
        if self.source_alive and not self.published:
            self.grow()
            return True
        return False

    def run(self) -> None:
        """Go on until nothing more happens."""
        while self.step():
            pass
