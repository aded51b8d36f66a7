"""The real plan of streams with simulated nodes and links, and a queue in front of the coordinator.

    python benchmarks/simulate_forest.py [--nodes 64 512 4096] [--cases equal slow dying mixed late] [--seeds 101 102]
                                         [--call-ms 0.5 1] [--cold]

`hubdist.delivery.StreamPlan` is driven as the coordinator drives it, and nodes complain by the rule of
`hubdist.streams.lag`. Every node and the source have one link up and one down. Streams share them about max-min
fairly, in steps of a part of the time that a unit takes; a unit is handed on when all of it has come. A message takes
the latency. A node that dies says nothing more: those below it notice by their lag, or when the stream has been silent
for `SILENCE_S`.

The coordinator is a queue with one server, and all calls of `cluster.coordinator.stream_run` go through it: `receive`
for each node, or with `--cold` begin, follow and wait for news; a further call for news after each complaint, and when
a call has waited for its time; follow for each new parent. A call takes the given time: `SENDING` of it when it is
sent, the rest when it is answered. The calls by which agents forget are counted, but those after the last node is done,
and delay nobody. A child whose parent has not been called yet waits at the parent's port, and asks
again after `GREETING_S`.

T is when the last node is complete that is neither slow nor dead; of slower nodes the table has another figure. With
S bytes in K units, N nodes and links of B bytes per second no plan takes less than
(K - 1 + ceil(log2(N + 1))) * S / K / B.

The simulation leaves out processors, disks, digests, the shares that TCP gives, and racks.
"""

from __future__ import annotations

import argparse
import heapq
import math
import time
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hubdist.cluster.coordinator.stream_run import FIRST_NEWS_S, MAX_NEWS_S, NEWS_SHARE_S
from hubdist.delivery import (
    Finish,
    Follow,
    Newcomer,
    NodeComplete,
    NodeFailed,
    NodePublished,
    NodesJoined,
    Publish,
    Reseat,
    StreamBroke,
    StreamCommand,
    StreamEvent,
    StreamLags,
    StreamPlan,
    choose_stripes,
)
from hubdist.errors import NodeLostError, SenderLostError
from hubdist.streams.follower import PAUSE_S
from hubdist.streams.lag import MAX_GAIN, MIN_BACKLOG, MIN_BEHIND, PATIENCE, UNHEARD, WINDOW
from hubdist.streams.server import GREETING_S

MIB = 1 << 20
SOURCE = "source"

SLOWER = 4
"""A slow node's links have this part of the others' rate."""

SILENCE_S = 2.5
"""A stream that brings nothing for so long is dead."""

DEATH_NOTICED_S = 5.0
"""So long after a node's death the coordinator hears of it by itself."""

SENDING = 2 / 3
"""The part of a call's time that is spent before it is on its way."""

SEAT_S = 25e-6
"""What planning a node's seats takes the coordinator."""

BATCH_S = 0.05
"""Nodes that appear within this time join together."""

LATE_RATE = 550.0
"""Nodes that appear in a second, in the case `late`."""

UNKNOWN = -1
"""Stands for what the lead of a new parent was at the last look."""

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Case:
    """What is simulated.

    Attributes:
        kind: `equal`; `slow`: 5 % of the nodes have a quarter of the rate and nobody knows which; `dying`: 2 % die;
            `mixed`: half of the nodes have 0.4 of the rate, which is known; `unknown`: the same, but nobody knows;
            `late`: nodes appear one after another; `mixed-late`: both.
        nodes: How many.
        total_bytes: Of the model.
        call_s: What a call of a node and its answer take the coordinator.
        is_cold: The nodes' agents have just started, so that the coordinator does not know their ports.
        rate: Bytes per second of a link.
        latency_s: Of a message.
        unit_bytes: Of a unit.
        steps: At most so many steps are simulated for the time that a plain copy takes.
    """

    kind: str
    nodes: int
    total_bytes: int
    call_s: float = 0.001
    is_cold: bool = False
    rate: float = 25e9 / 8
    latency_s: float = 0.0005
    unit_bytes: int = MIB
    steps: int = 5000

    @property
    def units(self) -> int:
        """Of the model."""
        return math.ceil(self.total_bytes / self.unit_bytes)

    def bound_s(self, rate: float) -> float:
        """Seconds that the best plan takes over links of a rate."""
        hops = math.ceil(math.log2(self.nodes + 1)) - 1
        return (self.total_bytes + hops * self.unit_bytes) / rate


@dataclass
class Outcome:
    """What came of a case.

    Attributes:
        took: T over its bound; from the last node's appearance on if nodes appear one after another.
        slower: The same of the nodes with known slower links, over their own bound.
        worst_late: The worst node's time from its own appearance over S/B of its own link.
        from_source: Bytes that the source sent over S.
        busiest: The same of the node that sent most.
        calls: Of nodes by the coordinator.
        complaints: Of them complaints.
        moves: Of them new seats.
        started_s: When the last node had its seat.
        plan_s: Process time of the plan.
    """

    took: float = 0.0
    slower: float = 0.0
    worst_late: float = 0.0
    from_source: float = 0.0
    busiest: float = 0.0
    calls: float = 0.0
    complaints: int = 0
    moves: int = 0
    started_s: float = 0.0
    plan_s: float = 0.0


def share(senders: Integers, readers: Integers, up: Floats, down: Floats) -> Floats:
    """About max-min fair rates: four rounds of equal parts of what is left."""
    count = len(up)
    rates = np.zeros(len(senders))
    up, down = up.copy(), down.copy()
    open_flows = np.arange(len(senders))
    for _ in range(4):
        out, into = senders[open_flows], readers[open_flows]
        up_share = up / np.maximum(np.bincount(out, minlength=count), 1)
        down_share = down / np.maximum(np.bincount(into, minlength=count), 1)
        rate = np.minimum(up_share[out], down_share[into])
        rates[open_flows] += rate
        up = np.maximum(up - np.bincount(out, rate, count), 0)
        down = np.maximum(down - np.bincount(into, rate, count), 0)
        open_flows = open_flows[(up[out] > 1e6) & (down[into] > 1e6)]
        if not len(open_flows):
            break
    return rates


@dataclass(order=True)
class Timed:
    """Something that happens at a time."""

    when: float
    number: int
    what: object = field(compare=False)


@dataclass(frozen=True)
class Answer:
    """The answer to a call for which nobody waits reaches the coordinator."""


@dataclass(frozen=True)
class Poll:
    """A call for news has waited for its time; `number` says which of the node's calls."""

    node: int
    number: int


@dataclass(frozen=True)
class Begun:
    """A node has answered that it has begun; its seat is told next."""

    seat: Follow

    @property
    def node(self) -> str:
        """The node's name."""
        return self.seat.node


class ForestSimulation:
    """One delivery.

    Args:
        case: What is simulated.
        seed: Of the random choices.
    """

    def __init__(self, case: Case, seed: int) -> None:
        self.case = case
        n = case.nodes
        self.n, self.m = n, choose_stripes(n, case.units)
        random = np.random.default_rng(seed)
        self.rates = np.full(n + 1, case.rate)
        self.is_slow = np.zeros(n, bool)
        self.dies = np.full(n + 1, np.inf)
        self.appears = np.zeros(n)
        chosen = random.permutation(n)
        if case.kind == "slow":
            self.is_slow[chosen[: math.ceil(0.05 * n)]] = True
            self.rates[:n][self.is_slow] /= SLOWER
        elif case.kind in ("mixed", "mixed-late", "unknown"):
            self.rates[chosen[: n // 2]] *= 0.4
        elif case.kind == "dying":
            dead = chosen[: math.ceil(0.02 * n)]
            self.dies[dead] = random.uniform(0.05, 0.95, len(dead)) * case.total_bytes / case.rate
        if case.kind in ("late", "mixed-late"):
            self.appears = np.arange(n) / LATE_RATE
        self.plan = StreamPlan(SOURCE, stripes=self.m, hand_on=None)
        self.names = [f"n{index}" for index in range(n)] + [SOURCE]
        self.index = {name: index for index, name in enumerate(self.names)}
        self.outcome = Outcome()
        self.queue: list[Timed] = []
        self.count = 0
        self.coordinator_free = 0.0
        order = np.arange(n) if self.appears.any() else random.permutation(n)
        batches: dict[float, list[Newcomer]] = {}
        for index in order.tolist():
            when = math.ceil(self.appears[index] / BATCH_S) * BATCH_S
            link = float(self.rates[index]) if case.kind in ("mixed", "mixed-late") else None
            batches.setdefault(when, []).append(Newcomer(self.names[index], link=link))
        for when, newcomers in batches.items():
            self.at(when, [NodesJoined(tuple(newcomers))])
        for node in np.flatnonzero(np.isfinite(self.dies[:n])).tolist():
            self.at(self.dies[node] + DEATH_NOTICED_S, [NodeFailed(self.names[node], NodeLostError("it died"))])
        self._make_arrays()

    def _make_arrays(self) -> None:
        n, m = self.n, self.m
        self.parent = np.full((n, m), n)
        self.seated = np.zeros((n, m), bool)
        self.begins = np.full((n, m), np.inf)
        self.asked = np.full((n, m), np.inf)
        """When a child asked its parent first."""
        self.begun = np.full(n + 1, np.inf)
        self.begun[n] = 0.0
        """When each node has been told of the delivery."""
        self.polls = np.zeros(n, np.int64)
        self.waits = np.zeros(n)
        self.units_of = np.array([len(range(stripe, self.case.units, m)) for stripe in range(m)], float)
        self.got = np.zeros((n + 1, m))
        self.got[n] = self.units_of
        self.grown = np.full((n, m), np.inf)
        self.done = np.full(n, np.inf)
        self.sent = np.zeros(n + 1)
        self.next_look = np.full(n, -1)
        self.marks = np.zeros((n, m), np.int64)
        self.windows = np.zeros((n, m), np.int64)
        self.complain_at = np.full((n, m), PATIENCE)
        self.answered = np.zeros(n)
        """When the coordinator has taken in a node's last complaints: the node makes no others before."""
        self.parent_marks = np.full((n, m), UNKNOWN)

    # Messages

    def at(self, when: float, what: object) -> None:
        """Let something happen at a time: events reach the coordinator, a command its node."""
        self.count += 1
        heapq.heappush(self.queue, Timed(when, self.count, what))

    def happen(self, now: float) -> None:
        """Let everything happen that is due."""
        while self.queue and self.queue[0].when <= now:
            timed = heapq.heappop(self.queue)
            match timed.what:
                case list() as events:
                    self.coordinate(timed.when, events)
                case Answer():
                    self.spend(timed.when, 1 - SENDING)
                case Poll(node, number):
                    self.poll(timed.when, node, number)
                case command:
                    self.obey(timed.when, command)

    def coordinate(self, when: float, events: list[StreamEvent]) -> None:
        """One message with events of one node reaches the coordinator."""
        case, outcome = self.case, self.outcome
        if isinstance(events[0], StreamLags | StreamBroke | NodeComplete):
            self.spend(when, 1 - SENDING)
        if isinstance(events[0], StreamLags | StreamBroke):
            node = self.index[events[0].node]
            self.wait_for_news(when, node)
            self.answered[node] = self.coordinator_free + case.latency_s
        for event in events:
            begin = time.process_time()
            commands = self.plan.handle(event)
            outcome.plan_s += time.process_time() - begin
            if isinstance(event, NodesJoined):
                self.coordinator_free += len(event.newcomers) * SEAT_S
            for command in commands:
                self.carry_out(when, command)
            outcome.moves += sum(isinstance(command, Reseat) for command in commands)

    def carry_out(self, when: float, command: StreamCommand) -> None:
        """The coordinator makes the calls that a command takes."""
        case = self.case
        if isinstance(command, Publish):  # the node has published by itself, and said so
            self.at(when, [NodePublished(command.node)])
        elif isinstance(command, Finish):
            self.outcome.calls += 1  # to forget, later
        elif isinstance(command, Follow) and case.is_cold:
            self.call(when)  # begin
            self.at(self.coordinator_free + 2 * case.latency_s, Begun(command))
        elif isinstance(command, Follow):
            self.wait_for_news(when, self.index[command.node])
            self.at(self.coordinator_free + case.latency_s, command)
        else:
            self.call(when)
            self.at(self.coordinator_free + case.latency_s, command)

    def call(self, when: float) -> None:
        """The coordinator sends a call."""
        self.outcome.calls += 1
        self.spend(when, SENDING)

    def spend(self, when: float, part: float) -> None:
        """A part of a call takes the coordinator its time."""
        self.coordinator_free = max(self.coordinator_free, when) + part * self.case.call_s

    def wait_for_news(self, when: float, node: int) -> None:
        """The coordinator calls a node, which answers when there is news, or after some time."""
        self.call(when)
        wanted = 2 * self.waits[node] or FIRST_NEWS_S
        self.waits[node] = max(min(MAX_NEWS_S, wanted), NEWS_SHARE_S * np.sum(~np.isfinite(self.done)))
        self.polls[node] += 1
        self.at(self.coordinator_free + self.case.latency_s + self.waits[node], Poll(node, int(self.polls[node])))

    def poll(self, when: float, node: int, number: int) -> None:
        """A call for news has waited for its time."""
        if number == self.polls[node] and not np.isfinite(self.done[node]) and self.dies[node] > when:
            self.spend(when + self.case.latency_s, 1 - SENDING)
            self.wait_for_news(when + self.case.latency_s, node)

    def obey(self, now: float, command: StreamCommand | Begun) -> None:
        """A node does what it is told, if it lives."""
        node = self.index[command.node]
        if self.dies[node] <= now:
            return
        match command:
            case Begun(seat):
                self.begin(node, now)
                self.spend(now, 1 - SENDING)
                self.call(now)  # follow
                self.at(self.coordinator_free + self.case.latency_s, seat)
            case Follow(_, parents):
                self.begin(node, now)
                for stripe, name in enumerate(parents):
                    self.seat(node, stripe, self.index[name], now)
                self.outcome.started_s = now
                if self.case.is_cold:
                    self.spend(now + self.case.latency_s, 1 - SENDING)
                    self.wait_for_news(now + self.case.latency_s, node)
            case Reseat(name, stripe, parent):
                if self.parent[node, stripe] == self.index[parent] and self.seated[node, stripe]:
                    return
                self.seat(node, stripe, self.index[parent], now)
                self.at(now + self.case.latency_s, Answer())
                self.windows[node, stripe] = 0
                self.complain_at[node, stripe] = PATIENCE
                self.parent_marks[node, stripe] = UNKNOWN

    def begin(self, node: int, now: float) -> None:
        """A node hears of the delivery, and answers its children from then on."""
        if np.isfinite(self.begun[node]):
            return
        self.begun[node] = now
        for child, stripe in np.argwhere((self.parent == node) & self.seated & np.isinf(self.begins)).tolist():
            self.ask(child, stripe)

    def seat(self, node: int, stripe: int, parent: int, now: float) -> None:
        """A node asks a parent for a stripe; again and again if the parent has not begun."""
        self.parent[node, stripe] = parent
        self.seated[node, stripe] = True
        self.asked[node, stripe] = now
        self.begins[node, stripe] = np.inf
        self.grown[node, stripe] = now
        if np.isfinite(self.begun[parent]):
            self.ask(node, stripe)

    def ask(self, node: int, stripe: int) -> None:
        """Find when a node asks its parent for the first time after the parent has begun."""
        latency_s = self.case.latency_s
        asked, begun = self.asked[node, stripe], self.begun[self.parent[node, stripe]]
        while asked + latency_s + GREETING_S < begun:
            asked += 2 * latency_s + GREETING_S + PAUSE_S
        self.begins[node, stripe] = self.grown[node, stripe] = max(asked + 2 * latency_s, begun + latency_s)

    # Bytes

    def run(self) -> Outcome:
        """Until all nodes are complete that live."""
        case, n, m = self.case, self.n, self.m
        unit_s = m * case.unit_bytes / case.rate
        step_s = max(unit_s / 16, case.total_bytes / case.rate / case.steps)
        whole_units = step_s < unit_s
        delay = max(1, round(case.latency_s / step_s)) if whole_units else 1
        history = [self.got.copy() for _ in range(delay)]
        columns = np.broadcast_to(np.arange(m), (n, m))
        total = self.units_of.sum()
        now, limit = 0.0, 60 * case.total_bytes / case.rate + 120
        while not np.all(np.isfinite(self.done) | (self.dies[:n] <= now)):
            if now > limit:
                raise RuntimeError(f"{np.sum(~np.isfinite(self.done))} nodes wait for nothing")
            self.happen(now)
            alive = self.dies > now
            offered = history[0][self.parent, columns]
            runs = (self.got[:n] < offered) & (self.begins <= now) & alive[:n, None] & alive[self.parent] & self.seated
            readers, stripes = np.nonzero(runs)
            if len(readers):
                senders = self.parent[readers, stripes]
                rates = share(senders, readers, self.rates, self.rates)
                before = self.got[readers, stripes]
                after = np.minimum(before + rates * (step_s / case.unit_bytes), offered[readers, stripes])
                self.got[readers, stripes] = after
                self.sent += np.bincount(senders, after - before, n + 1)
                self.grown[readers, stripes] = now
            now += step_s
            history.append(np.floor(self.got + 1e-6) if whole_units else self.got.copy())
            history.pop(0)
            complete = (self.got[:n].sum(1) >= total - 1e-6) & ~np.isfinite(self.done) & alive[:n]
            for node in np.flatnonzero(complete).tolist():
                self.done[node] = now
                self.at(now + case.latency_s, [NodeComplete(self.names[node])])
            self.complain(now)
        return self._sum_up()

    def complain(self, now: float) -> None:
        """Nodes tell the coordinator of stripes that lag or are dead."""
        n = self.n
        living = (self.dies[:n] > now) & ~np.isfinite(self.done)
        counts = np.floor(self.got + 1e-6).astype(np.int64)
        leads = np.sort(counts, axis=1)[:, max(0, self.m - 2)]
        above = counts[self.parent, np.arange(self.m)]
        parent_lead, parent_begun = leads[self.parent], (counts > 0).all(1)[self.parent]
        counts, lead = counts[:n], leads[:n]
        fresh = (self.next_look < 0) & ((counts > 0).all(1) | (lead >= UNHEARD))
        self.next_look[fresh] = lead[fresh]
        looking = living & (self.next_look >= 0) & (lead >= self.next_look)
        reports: dict[int, list[StreamEvent]] = {}
        if looking.any():
            self.next_look[looking] = (lead[looking] // WINDOW + 1) * WINDOW
            losing = (counts - self.marks <= MAX_GAIN) & (lead[:, None] - counts >= MIN_BEHIND)
            parent_gain = parent_lead - self.parent_marks
            blamed = parent_begun & (
                (above - counts >= MIN_BACKLOG) | ((parent_gain <= MAX_GAIN) & (parent_lead < lead[:, None]))
            )
            blamed |= ~parent_begun & (parent_lead > 0) & (parent_gain == 0)
            unheard = (self.begins > now) & (now < self.asked + 2 * self.case.latency_s)
            silent = unheard | (self.dies[self.parent] <= np.minimum(self.begins, now))
            blamed = (blamed & (self.parent_marks != UNKNOWN)) | silent
            blamed &= losing & (counts < self.units_of)
            self.windows[looking] = np.where(blamed, self.windows + 1, 0)[looking]
            self.marks[looking] = counts[looking]
            self.parent_marks[looking] = np.where(silent, UNKNOWN, parent_lead)[looking]
            loud = (looking & (self.answered <= now))[:, None] & (self.windows >= self.complain_at) & self.seated
            self.complain_at[loud] = 4 * self.windows[loud]
            for node, stripe in np.argwhere(loud).tolist():
                parent = self.names[self.parent[node, stripe]]
                reports.setdefault(node, []).append(StreamLags(self.names[node], stripe, parent))
        dead = living[:, None] & self.seated & (self.dies[self.parent] < now) & (now - self.grown > SILENCE_S)
        for node, stripe in np.argwhere(dead).tolist():
            self.seated[node, stripe] = False
            parent, unit = self.names[self.parent[node, stripe]], stripe + self.m * int(counts[node, stripe])
            error = SenderLostError("silent")
            reports.setdefault(node, []).append(StreamBroke(self.names[node], stripe, parent, unit, error))
        for node, events in reports.items():
            self.answered[node] = np.inf
            self.outcome.complaints += len(events)
            self.at(now + self.case.latency_s, events)

    def _sum_up(self) -> Outcome:
        case, outcome = self.case, self.outcome
        took = self.done - self.appears
        living = ~np.isfinite(self.dies[: self.n])
        fast = living & (self.rates[: self.n] == case.rate)
        since = float(self.appears.max())
        outcome.took = (float(self.done[fast].max()) - since) / case.bound_s(case.rate)
        slower = living & ~fast
        if slower.any():
            rate = float(self.rates[: self.n][slower].min())
            outcome.slower = (float(self.done[slower].max()) - since) / case.bound_s(rate)
        outcome.worst_late = float((took * self.rates[: self.n])[living].max()) / case.total_bytes
        outcome.from_source = float(self.sent[self.n] * case.unit_bytes / case.total_bytes)
        outcome.busiest = float(self.sent[: self.n].max() * case.unit_bytes / case.total_bytes)
        return outcome


HEAD = (
    f"{'case':8} {'nodes':>5} {'GiB':>5} {'c ms':>5} {'seed':>4} {'T/bound':>7} {'slower':>6} {'late':>6} "
    f"{'source':>6} {'busiest':>7} {'calls':>6} {'complaints':>10} {'moves':>6} "
    f"{'start s':>7} {'plan s':>6} {'wall s':>6}"
)


def line(case: Case, seed: int, outcome: Outcome, wall_s: float) -> str:
    """A case's line of the table."""
    return (
        f"{case.kind:8} {case.nodes:5} {case.total_bytes / (1 << 30):5.1f} {case.call_s * 1e3:5.1f} {seed:4} "
        f"{outcome.took:7.3f} {outcome.slower:6.2f} {outcome.worst_late:6.2f} {outcome.from_source:6.2f} "
        f"{outcome.busiest:7.2f} {outcome.calls / case.nodes:6.2f} {outcome.complaints:10} {outcome.moves:6} "
        f"{outcome.started_s:7.3f} {outcome.plan_s:6.2f} {wall_s:6.1f}"
    )


SIZES_GIB = {64: 1, 512: 10, 4096: 100}


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[64, 512, 4096])
    parser.add_argument("--gib", type=float, help="size of the model; the default is 1, 10 and 100")
    parser.add_argument("--rate-gbit", type=float, default=25)
    parser.add_argument("--call-ms", type=float, nargs="+", default=[1.0])
    parser.add_argument("--cold", action="store_true", help="agents have just started: more calls for each node")
    parser.add_argument("--unit-mib", type=float, default=1)
    parser.add_argument("--cases", nargs="+", default=["equal", "slow", "dying", "mixed", "late"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[101])
    parser.add_argument("--steps", type=int, default=5000)
    options = parser.parse_args()
    print(HEAD, flush=True)
    for nodes in options.nodes:
        for call_ms in options.call_ms:
            for kind in options.cases:
                for seed in options.seeds:
                    case = Case(
                        kind,
                        nodes,
                        round((options.gib or SIZES_GIB.get(nodes, 1)) * 1024) * MIB,
                        call_ms / 1e3,
                        options.cold,
                        options.rate_gbit * 1e9 / 8,
                        unit_bytes=round(options.unit_mib * MIB),
                        steps=options.steps,
                    )
                    begin = time.monotonic()
                    outcome = ForestSimulation(case, seed).run()
                    print(line(case, seed, outcome, time.monotonic() - begin), flush=True)


if __name__ == "__main__":
    main()
