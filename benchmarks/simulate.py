"""The real plan of a delivery with simulated nodes and links: how long it takes, and what the coordinator pays.

    python benchmarks/simulate.py [--nodes 8 64 512 4096] [--mib 1024] [--rate-mbit 100] [--latency-ms 1]

`hubdist.delivery.DeliveryPlan` is driven as the coordinator drives it; it does not know that time is simulated. Every
node and the source have one link up and one down, which fetches share fairly (max-min). A command and an answer take
the latency each; a fetch takes one more round trip before its first byte. A step is an eighth of the time that a chunk
takes on a free link; few nodes are simulated without steps, from change to change.

T is when the last node is done; with slow nodes, when the last one of the others is. With S bytes in C chunks, N nodes
and links of B bytes per second, no plan that sends whole chunks takes less than

    bound = (C - 1 + ceil(log2(N + 1))) * S / C / B  =  S/B and ceil(log2(N + 1)) - 1 more chunk times:

the last chunk leaves the source after C chunk times at the earliest, and each chunk time can at most double who has it.

Every command is checked: a fetch is of a chunk that its sender has, and each living node gets each chunk once.
"""

import argparse
import contextlib
import cProfile
import heapq
import math
import pstats
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from simulated_links import Case, Links, Outcome

from hubdist.delivery import (
    ChunkArrived,
    ChunkFailed,
    Command,
    DeliveryPlan,
    Event,
    Fetch,
    Finish,
    NodeFailed,
    NodeJoined,
    NodePublished,
    Publish,
)
from hubdist.errors import PeerError

MIB = 1 << 20

SLOWER = 4
"""A slow node's links have this part of the others' rate."""

NOTICED_S = 2.0
"""It takes about this long until a node's death is noticed."""

EXACT_NODES = 16
"""Up to so many nodes are simulated without steps."""


@dataclass(frozen=True)
class Death:
    """A node dies."""

    node: int


class Simulation:
    """One delivery.

    Args:
        case: What is simulated.
        seed: Of the random choice of slow and of failing nodes.
    """

    def __init__(self, case: Case, seed: int) -> None:
        self._case = case
        self._sizes = case.sizes
        self._source = case.nodes
        self._names = [f"node{index:04}" for index in range(case.nodes)] + ["source"]
        self._index = {name: index for index, name in enumerate(self._names)}
        self._random = np.random.default_rng(seed)
        order = self._random.permutation(case.nodes)
        self._slow = set(order[: math.ceil(case.slow * case.nodes)].tolist())
        rates = np.full(case.nodes + 1, case.rate)
        rates[list(self._slow)] /= SLOWER
        self._links = Links(rates, rates.copy())
        self._delivery = DeliveryPlan(
            self._sizes,
            source="source",
            nodes=case.nodes,
            node_window_bytes=case.window_bytes,
            source_window_bytes=case.window_bytes,
        )
        self._events: list[tuple[float, int, Event | Death]] = []
        self._count = 0
        self._fetches: dict[int, tuple[float, Fetch]] = {}
        self._has: list[set[int]] = [set() for _ in range(case.nodes)] + [set(range(len(self._sizes)))]
        self._to_bytes = [0] * len(self._names)
        self._from_bytes = [0] * len(self._names)
        self._dead: set[int] = set()
        self._done: set[int] = set()
        self._outcome = Outcome(case)
        for index in range(case.nodes):
            self._tell(case.latency_s * self._random.uniform(1, 2), NodeJoined(self._names[index]))
        for index in order[::-1][: math.ceil(case.failing * case.nodes)].tolist():
            self._tell(self._random.uniform(0.05, 0.95) * case.least_s, Death(index))

    def run(self) -> Outcome:
        """Until all nodes are done."""
        case, links, outcome = self._case, self._links, self._outcome
        step = case.step * self._sizes[0] / case.rate
        while len(self._done) < case.nodes:
            change = min(self._events[0][0] if self._events else math.inf, links.next_change())
            if change == math.inf:
                raise RuntimeError(f"{case.nodes - len(self._done)} nodes wait for nothing")
            for when, number in links.advance(max(change, links.now + step)):
                begun, fetch = self._fetches.pop(number)
                arrived = ChunkArrived(fetch.node, fetch.chunk, fetch.sender, when - begun)
                self._tell(when + case.latency_s, arrived)
            while self._events and self._events[0][0] <= links.now:
                when, _, event = heapq.heappop(self._events)
                self._take(when, event)
            links.settle()
            outcome.moved.append((links.now, links.sent[-1], links.sent.sum()))
        while self._events:
            when, _, event = heapq.heappop(self._events)
            self._take(when, event)
        if self._delivery.active:
            raise RuntimeError("all nodes are done, and the plan goes on")
        outcome.sent = links.sent.tolist()
        return outcome

    def _tell(self, when: float, event: Event | Death) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, event))

    def _take(self, now: float, event: Event | Death) -> None:
        """Something happens, or the coordinator hears of it."""
        if isinstance(event, Death):
            self._die(now, event.node)
            return
        if not self._note(event):
            return
        begin = time.process_time()
        commands = self._delivery.handle(event)
        self._outcome.cpu_s += time.process_time() - begin
        self._outcome.commands += len(commands)
        for command in commands:
            self._obey(now, command)

    def _note(self, event: Event) -> bool:
        """Keep count of what nodes have; return whether the coordinator hears of the event: not from the dead."""
        match event:
            case ChunkArrived(node) | ChunkFailed(node) | NodePublished(node) if self._index[node] in self._dead:
                return False
            case ChunkArrived(node, chunk, source):
                has = self._has[self._index[node]]
                if chunk in has:
                    raise RuntimeError(f"{node} got chunk {chunk} twice")
                has.add(chunk)
                self._end(node, chunk, source)
            case ChunkFailed(node, chunk, source):
                self._end(node, chunk, source)
        return True

    def _end(self, node: str, chunk: int, source: str) -> None:
        """A fetch is over."""
        self._to_bytes[self._index[node]] -= self._sizes[chunk]
        self._from_bytes[self._index[source]] -= self._sizes[chunk]

    def _obey(self, now: float, command: Command) -> None:
        """A node does what the coordinator says, if it lives."""
        match command:
            case Fetch():
                self._fetch(now, command)
            case Publish(node):
                self._tell(now + 2 * self._case.latency_s, NodePublished(node))
            case Finish(node, error):
                self._finish(now, self._index[node], error)

    def _fetch(self, now: float, fetch: Fetch) -> None:
        reader, sender, latency = self._index[fetch.node], self._index[fetch.sender], self._case.latency_s
        if fetch.chunk not in self._has[sender]:
            raise RuntimeError(f"{fetch.sender} has no chunk {fetch.chunk}")
        outcome, size = self._outcome, self._sizes[fetch.chunk]
        outcome.fetches += 1
        self._to_bytes[reader] += size
        self._from_bytes[sender] += size
        outcome.into = max(outcome.into, self._to_bytes[reader])
        if sender == self._source:
            outcome.from_source = max(outcome.from_source, self._from_bytes[sender])
        else:
            outcome.out = max(outcome.out, self._from_bytes[sender])
        if reader in self._dead:
            return
        if sender in self._dead:
            self._lose(now, fetch)
            return
        number = self._outcome.fetches
        self._fetches[number] = (now + latency, fetch)
        self._links.begin(now + 3 * latency, sender, reader, self._sizes[fetch.chunk], number)

    def _lose(self, now: float, fetch: Fetch) -> None:
        error = PeerError("the other node died")
        when = now + self._random.uniform(0.5, 1.5) * NOTICED_S
        self._tell(when, ChunkFailed(fetch.node, fetch.chunk, fetch.sender, error))

    def _die(self, now: float, node: int) -> None:
        self._dead.add(node)
        for number in self._links.cut(node):
            _, fetch = self._fetches.pop(number)
            if self._index[fetch.node] != node:
                self._lose(now, fetch)
        error = PeerError("it died")
        self._tell(now + self._random.uniform(0.5, 1.5) * NOTICED_S, NodeFailed(self._names[node], error))

    def _finish(self, now: float, index: int, error: Exception | None) -> None:
        name = self._names[index]
        if index in self._done or (error is not None) != (index in self._dead):
            raise RuntimeError(f"{name} is done with {error}")
        if error is None and len(self._has[index]) != len(self._sizes):
            raise RuntimeError(f"{name} has {len(self._has[index])} of {len(self._sizes)} chunks")
        self._done.add(index)
        if index in self._slow:
            self._outcome.slow_s = now
        elif error is None:
            self._outcome.took_s = now


HEAD = (
    f"{'case':12} {'nodes':>5} {'chunk':>8} {'chunks':>6} {'T s':>7} {'T/(S/B)':>7} {'T/bound':>7} {'slow':>6} "
    f"{'source':>6} {'busiest':>7} {'commands':>8} {'cpu/node':>9} {'cpu/fetch':>9} {'in':>8} {'out':>8} "
    f"{'of source':>9}"
)
LEGEND = """
slow: when the last slow node is done over S/B of its own links; source, busiest: bytes sent by the source and by the
node that sent most, over S; commands: for each chunk and node; cpu: process time of the plan for each node and for each
chunk and node; in, out, of source: most MiB in flight to a node, from a node, and from the source
"""


def line(outcome: Outcome) -> str:
    """A case's line of the table."""
    case, sizes = outcome.case, outcome.case.sizes
    fetches, total = case.nodes * len(sizes), case.total_bytes
    slow = f"{outcome.slow_s / case.least_s / SLOWER:6.2f}" if outcome.slow_s else f"{'':6}"
    return (
        f"{case.name:12} {case.nodes:5} {sizes[0] / MIB:4.0f} MiB {len(sizes):6} {outcome.took_s:7.1f} "
        f"{outcome.took_s / case.least_s:7.3f} {outcome.took_s / case.bound_s:7.3f} {slow} "
        f"{outcome.sent[-1] / total:6.2f} {max(outcome.sent[:-1]) / total:7.2f} {outcome.commands / fetches:8.3f} "
        f"{outcome.cpu_s * 1e3 / case.nodes:6.2f} ms {outcome.cpu_s * 1e6 / fetches:6.1f} us "
        f"{outcome.into / MIB:8.0f} {outcome.out / MIB:8.0f} {outcome.from_source / MIB:9.0f}"
    )


def trace(outcome: Outcome) -> str:
    """How busy links were, tenth by tenth of the time."""
    rows = {"source up": outcome.busy(1), "nodes down": outcome.busy(2)}
    return "\n".join(f"  {name:10} % " + " ".join(f"{part:4.0f}" for part in parts) for name, parts in rows.items())


def draw(outcomes: Sequence[Outcome], path: str) -> None:
    """Time and processor time against the number of nodes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for name in dict.fromkeys(outcome.case.name for outcome in outcomes):
        rows = [outcome for outcome in outcomes if outcome.case.name == name]
        nodes = [row.case.nodes for row in rows]
        (drawn,) = left.plot(nodes, [row.took_s / row.case.bound_s for row in rows], "o-", label=f"{name}, T / bound")
        color = drawn.get_color()
        left.plot(nodes, [row.took_s / row.case.least_s for row in rows], "x:", color=color, label=f"{name}, T / (S/B)")
        right.plot(nodes, [row.cpu_s * 1e3 / row.case.nodes for row in rows], "o-", color=color, label=name)
    for axes, text in ((left, "time over the best"), (right, "coordinator's CPU for each node, ms")):
        axes.set(xscale="log", xlabel="nodes", ylabel=text, xticks=nodes, xticklabels=nodes)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    left.set_ylim(bottom=0.95)
    right.set_ylim(bottom=0)
    figure.savefig(path, dpi=120)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[8, 64, 512, 4096])
    parser.add_argument("--mib", type=int, default=1024, help="size of the model")
    parser.add_argument("--chunk-mib", type=int, help="size of a chunk; the default is the library's choice")
    parser.add_argument("--window-mib", type=int, default=64, help="room at a node and at the source")
    parser.add_argument("--rate-mbit", type=float, default=100)
    parser.add_argument("--latency-ms", type=float, default=1)
    parser.add_argument("--slow", type=float, default=0.05, help="part of the nodes that is slow in that case")
    parser.add_argument("--failing", type=float, default=0.02, help="part of the nodes that dies in that case")
    parser.add_argument("--cases", nargs="+", choices=["equal", "slow", "failing", "far"], help="the default is all")
    parser.add_argument("--step", type=float, default=0.125, help="parts of a chunk's time; 0 for none")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", help="file for the picture")
    parser.add_argument("--trace", action="store_true", help="show how busy links are")
    parser.add_argument("--profile", action="store_true", help="show which functions of the plan take long")
    return parser.parse_args()


def main() -> None:
    """Simulate and print."""
    options = parsed()
    print(HEAD, flush=True)
    outcomes = []
    for nodes in options.nodes:
        equal = Case(
            "equal",
            nodes,
            options.mib * MIB,
            options.chunk_mib and options.chunk_mib * MIB,
            options.window_mib * MIB,
            options.rate_mbit * 1e6 / 8,
            options.latency_ms / 1e3,
            step=options.step if nodes > EXACT_NODES else 0,
        )
        cases = {
            "equal": equal,
            "slow": replace(equal, name=f"{options.slow:.0%} slow", slow=options.slow),
            "failing": replace(equal, name=f"{options.failing:.0%} failing", failing=options.failing),
            "far": replace(equal, name="50 ms away", latency_s=0.05),
        }
        for name in options.cases or cases:
            simulation = Simulation(cases[name], options.seed)
            with cProfile.Profile() if options.profile else contextlib.nullcontext() as profile:
                outcomes.append(simulation.run())
            print(line(outcomes[-1]), flush=True)
            if options.trace:
                print(trace(outcomes[-1]), flush=True)
            if profile is not None:
                pstats.Stats(profile).sort_stats("tottime").print_stats("delivery", 25)
    print(LEGEND)
    if options.out:
        draw(outcomes, options.out)


if __name__ == "__main__":
    main()
