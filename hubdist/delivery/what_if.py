"""PURE: what a delivery by streams would take on links that need not exist. For `hubdist.plan` with a number of nodes.

The nodes are seated by the `StreamPlan` that deliveries use. Its trees are taken for flows that share links and
processors, and beside the flows there are the calls of the coordinator and the start of agents. TCP lets the source's
link send some stripes faster than others, and what comes late has only one node's link to the others. A delivery seats
nodes as they come; if their links differ and nobody knows them, it depends on that order who waits for a slow node, so
several orders are tried. Nothing breaks in a prediction: no node is lost, and no stream is moved to another parent.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hubdist.delivery.costs import MAX_UNEVEN, SHARED_BY, SHARED_ROUNDS, Costs
from hubdist.delivery.flows import NOBODY, DeliveryFlows, Floats, FlowLimits, Integers
from hubdist.delivery.forest import choose_stripes
from hubdist.delivery.stream_events import Follow, Newcomer, NodesJoined
from hubdist.delivery.stream_plan import StreamPlan
from hubdist.model.manifest import BLOCK_BYTES

_SOURCE = "source"
_MIB = float(1 << 20)
_EQUAL = 0.99
"""A thing that takes this part of the longest time counts as equally slow."""

_ROUNDS_TO_OPEN = 3
"""A stream is open after so many messages there and back: TCP, the greeting, and the request."""

_CALLS_AT_END = 0.5
"""A node tells that it has published: the answer to the call that told it to begin."""

_ORDERS = 25
"""So many orders of nodes are tried, and the one with the median time is told."""

_MAX_SEATED = 512
"""About how many nodes are seated in all orders together: among many nodes each order has some of all kinds."""


class Bottleneck(enum.StrEnum):
    """What takes the longest part of a delivery: the delivery becomes faster if this does."""

    NODE_LINKS = "the nodes' links"
    """Some node needs so long to receive, or to send to other nodes."""

    SOURCE_LINK = "the source's link"
    """The driver's node needs so long to send."""

    ORIGIN = "the origin"
    """The driver's node needs so long to read the origin."""

    PROCESSORS = "the processors"
    """Some node needs so long to check, write and send bytes."""

    COORDINATOR = "the coordinator"
    """The coordinator needs so long for its calls."""

    START = "the start of agents"
    """No agent runs yet, or the model is so small that what every delivery takes is most of the time."""


@dataclass(frozen=True, slots=True)
class Links:
    """The links of a cluster. Each has its rate in both directions at once.

    Attributes:
        nodes: Bytes per second of the link of each node that receives; at least one.
        source: Bytes per second of the link of the driver's node.
        origin: Bytes per second at which the driver's node reads the origin; None if it has the model.
        latency_s: Seconds that a byte is under way from one node to the next.
        are_known: True if the coordinator knows the links, and seats slower nodes below faster ones. Otherwise it seats
            nodes in the order in which they come, which nobody knows before.
    """

    nodes: Sequence[float]
    source: float
    origin: float | None = None
    latency_s: float = 0.0005
    are_known: bool = False


@dataclass(frozen=True, slots=True)
class Cores:
    """The processors of a cluster.

    Attributes:
        node: Processors of each node.
        shared: Processors that all nodes and the driver's node share, as simulated hosts on one machine do; None if
            they share none.
    """

    node: float = 8.0
    shared: float | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a delivery would take.

    Attributes:
        seconds: From the call to the last node's end.
        node_seconds: The same for each node, in the order of `Links.nodes`.
        source_bytes: Bytes that the driver's node sends.
        node_bytes: Bytes that each node sends, in the same order.
        calls: Calls of agents by the coordinator.
        call_seconds: Processor seconds that the calls take the coordinator.
        bottleneck: What takes the longest part.
        parts: Thing -> seconds that the delivery would take if everything else took no time.
    """

    seconds: float
    node_seconds: tuple[float, ...]
    source_bytes: int
    node_bytes: tuple[int, ...]
    calls: int
    call_seconds: float
    bottleneck: Bottleneck
    parts: Mapping[Bottleneck, float] = field(repr=False)


def predict(
    total_bytes: int,
    links: Links,
    *,
    costs: Costs | None = None,
    cores: Cores | None = None,
    unit_bytes: int = BLOCK_BYTES,
    agents_run: bool = True,
) -> Prediction:
    """Return what a delivery from the driver's node to all other nodes of a cluster would take.

    If it depends on the order in which nodes come, the answer is that of an order with the median time.

    Args:
        total_bytes: Bytes of the model, more than none.
        links: The links of the nodes.
        costs: What bytes and calls cost; None for what was measured.
        cores: The processors of the nodes; None for eight each.
        unit_bytes: Bytes of a unit of streams.
        agents_run: False if the agents have to start first.
    """
    delivery = _Delivery(
        total_bytes, links, costs or Costs(), cores or Cores(), unit_bytes=unit_bytes, agents_run=agents_run
    )
    found = [delivery.predict(order) for order in _choose_orders(links)]
    return sorted(found, key=lambda prediction: prediction.seconds)[(len(found) - 1) // 2]


def _choose_orders(links: Links) -> list[Sequence[int]]:
    """Orders in which the nodes may come: their numbers, that of the first node first."""
    count = len(links.nodes)
    if links.are_known or len(set(links.nodes)) == 1:
        return [range(count)]
    draw = np.random.default_rng(count)  # the same orders for each model, so that a larger one is never faster
    orders = max(1, min(_ORDERS, _MAX_SEATED // count))
    return [draw.permutation(count).tolist() for _ in range(orders)]


class _Delivery:
    """One delivery that is predicted. Nodes are members 0 to n - 1, the source is n, and the origin is n + 1."""

    def __init__(
        self, total_bytes: int, links: Links, costs: Costs, cores: Cores, *, unit_bytes: int, agents_run: bool
    ) -> None:
        self._total_bytes, self._links, self._costs, self._cores = total_bytes, links, costs, cores
        self._unit_bytes = unit_bytes
        self._count = len(links.nodes)
        units = -(-total_bytes // unit_bytes)
        self._stripes = choose_stripes(self._count + 1, units)  # the driver's node is alive too
        sizes = [unit_bytes * len(range(stripe, units, self._stripes)) for stripe in range(self._stripes)]
        sizes[(units - 1) % self._stripes] -= units * unit_bytes - total_bytes
        self._stripe_bytes = np.array(sizes, np.float64)
        self._calls_before = 0 if agents_run else self._count
        self._calls = self._count * (costs.calls_per_node if agents_run else costs.first_calls_per_node)
        self._start_s = costs.start_s + costs.node_s * (1.0 if cores.shared is None else self._count / cores.shared)
        if not agents_run:
            self._start_s += costs.agent_start_s + self._count / costs.agents_per_s

    def predict(self, order: Sequence[int]) -> Prediction:
        parents, told = self._seat(order)
        sent = np.zeros(self._count + 1)
        for stripe, size in enumerate(self._stripe_bytes):
            sent += size * np.bincount(parents[:, stripe], minlength=self._count + 1)
        ends = self._end(self._flow(parents, told))
        parts = self._parts(sent)
        longest = max(parts.values())
        return Prediction(
            seconds=float(ends.max()),
            node_seconds=tuple(ends.tolist()),
            source_bytes=int(sent[-1]),
            node_bytes=tuple(int(size) for size in sent[:-1]),
            calls=self._calls,
            call_seconds=self._calls * self._costs.call_s,
            bottleneck=next(thing for thing in Bottleneck if parts.get(thing, 0) >= _EQUAL * longest),
            parts=parts,
        )

    def _seat(self, order: Sequence[int]) -> tuple[Integers, Integers]:
        """For each node and stripe the member that sends it, and for each node how many are told their seats before."""
        plan = StreamPlan(_SOURCE, stripes=self._stripes, hand_on=None)
        newcomers = [
            Newcomer(str(number), link=self._links.nodes[number] if self._links.are_known else None) for number in order
        ]
        parents, told = np.zeros((self._count, self._stripes), np.int64), np.zeros(self._count, np.int64)
        for turn, seat in enumerate(plan.handle(NodesJoined(tuple(newcomers)))):
            assert isinstance(seat, Follow)
            parents[int(seat.node)] = [self._count if name == _SOURCE else int(name) for name in seat.parents]
            told[int(seat.node)] = turn
        return parents, told

    # Bytes

    def _flow(self, parents: Integers, told: Integers) -> Floats:
        """For each node the seconds after which all its stripes have come."""
        flows = self._order_flows(parents)
        numbers = {(child, stripe): number for number, (_, child, stripe) in enumerate(flows)}
        senders, receivers, stripes = (np.array(column, np.int64) for column in zip(*flows, strict=True))
        above = np.array([numbers.get((sender, stripe), NOBODY) for sender, _, stripe in flows], np.int64)
        costs = self._costs
        begins = self._start_s + (self._calls_before + np.append(told, [0, 0])[receivers]) * costs.call_s
        begins += _ROUNDS_TO_OPEN * 2 * self._links.latency_s
        rates = np.array([*self._links.nodes, self._links.source]) * costs.payload_part
        limits = FlowLimits(
            up=np.append(rates, self._links.origin or 1.0),
            down=np.append(rates, 1.0),
            cores=np.full(self._count + 2, self._cores.node),
            receive_s=costs.receive_s_per_mib / _MIB,
            send_s=costs.send_s_per_mib / _MIB,
            shared_cores=self._cores.shared,
        )
        delivery_flows = DeliveryFlows(
            senders,
            receivers,
            above,
            sizes=self._stripe_bytes[stripes],
            begins=begins,
            weights=np.where(senders < self._count, 1.0, self._shares()[stripes]),
            unit_bytes=self._unit_bytes,
            limits=limits,
        )
        done = delivery_flows.run() + self._links.latency_s * (1 + delivery_flows.depths)
        ends = np.zeros(self._count + 2)
        np.maximum.at(ends, receivers, done)
        return ends[: self._count]

    def _shares(self) -> Floats:
        """For each stripe its share of the source's link, compared with the others: the means of draws by size."""
        least_s = self._total_bytes / (self._links.origin or self._links.source)
        rounds = least_s / self._costs.queue_s
        uneven = min(MAX_UNEVEN, self._costs.uneven * (SHARED_ROUNDS / rounds) ** 0.5)
        drawn = np.arange(1, self._stripes + 1) / (self._stripes + 1)
        shares: Floats = 1 + uneven * (drawn - 0.5) / (0.5 - 1 / (SHARED_BY + 1))
        return shares

    def _order_flows(self, parents: Integers) -> list[tuple[int, int, int]]:
        """Sender, receiver and stripe of each flow, each after the one that brings its sender the stripe."""
        flows = []
        for stripe in range(self._stripes):
            if self._links.origin is not None:
                flows.append((self._count + 1, self._count, stripe))
            children: dict[int, list[int]] = {}
            for child, parent in enumerate(parents[:, stripe].tolist()):
                children.setdefault(parent, []).append(child)
            level = [self._count]
            while level:
                below = [(sender, child, stripe) for sender in level for child in children.get(sender, ())]
                flows += below
                level = [child for _, child, _ in below]
        return flows

    # Calls

    def _end(self, complete: Floats) -> Floats:
        """For each node the seconds after which it has published, for the coordinator hears of one after another."""
        ends, free = np.zeros(self._count), 0.0
        for node in np.argsort(complete, kind="stable").tolist():
            free = max(free, complete[node]) + _CALLS_AT_END * self._costs.call_s
            ends[node] = free
        return ends

    # What takes how long

    def _parts(self, sent: Floats) -> dict[Bottleneck, float]:
        links, costs, size = self._links, self._costs, self._total_bytes
        rates = np.array(links.nodes) * costs.payload_part
        work = sent * costs.send_s_per_mib / _MIB
        work[:-1] += size * costs.receive_s_per_mib / _MIB
        shared = self._cores.shared
        found = {
            Bottleneck.NODE_LINKS: float(np.max(np.maximum(size, sent[:-1]) / rates)),
            Bottleneck.SOURCE_LINK: float(sent[-1]) / (links.source * costs.payload_part),
            Bottleneck.PROCESSORS: float(work.max() / self._cores.node if shared is None else work.sum() / shared),
            Bottleneck.COORDINATOR: self._calls * costs.call_s,
            Bottleneck.START: self._start_s,
        }
        return found if links.origin is None else found | {Bottleneck.ORIGIN: size / links.origin}
