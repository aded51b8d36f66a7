"""What is simulated, and the links: every node has one up and one down, and nothing else is narrow."""

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hubdist.delivery import choose_chunk_bytes

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
_SAME = 1e-9
_CRUMB = 1e-3
"""Bytes: a flow that has so few left is done, or rounding would keep it going."""

PARTS = 10
"""A trace shows how busy links are in so many parts of the time."""


@dataclass(frozen=True)
class Case:
    """What is simulated.

    Attributes:
        name: In the table.
        nodes: How many.
        total_bytes: Of the model.
        chunk_bytes: Of a chunk; None as the library chooses.
        window_bytes: Most bytes in flight to a node, and from it.
        rate: Bytes per second of a link.
        latency_s: Of a message.
        slow: Part of the nodes that are slow.
        failing: Part of the nodes that die at some time.
        step: Parts of the time that a chunk takes; 0 for none.
    """

    name: str
    nodes: int
    total_bytes: int
    chunk_bytes: int | None
    window_bytes: int
    rate: float
    latency_s: float
    slow: float = 0.0
    failing: float = 0.0
    step: float = 0.125

    @property
    def sizes(self) -> list[int]:
        """Of the chunks."""
        chunk = self.chunk_bytes or choose_chunk_bytes(self.total_bytes, room_bytes=self.window_bytes, nodes=self.nodes)
        return [min(chunk, self.total_bytes - start) for start in range(0, self.total_bytes, chunk)]

    @property
    def least_s(self) -> float:
        """S/B."""
        return self.total_bytes / self.rate

    @property
    def bound_s(self) -> float:
        """Seconds that the best plan takes."""
        return self.least_s + (math.ceil(math.log2(self.nodes + 1)) - 1) * self.sizes[0] / self.rate


@dataclass
class Outcome:
    """What came of a case.

    Attributes:
        case: Which.
        took_s: Until the last node that is not slow was done.
        slow_s: Until the last slow one was.
        sent: Bytes that each node sent; the source is the last.
        commands: How many.
        fetches: How many of them fetch.
        cpu_s: Of the plan.
        into: Most bytes in flight to a node.
        out: Most bytes in flight from a node.
        from_source: Most bytes in flight from the source.
        moved: When, and bytes that the source and all nodes had sent by then.
    """

    case: Case
    took_s: float = 0.0
    slow_s: float = 0.0
    sent: list[float] = field(default_factory=list)
    commands: int = 0
    fetches: int = 0
    cpu_s: float = 0.0
    into: int = 0
    out: int = 0
    from_source: int = 0
    moved: list[tuple[float, float, float]] = field(default_factory=list)

    def busy(self, which: int) -> list[float]:
        """Percent of the source's link (1) or of all nodes' links down (2) in use, in parts of the time until T."""
        times, bytes_sent = [row[0] for row in self.moved], [row[which] for row in self.moved]
        marks = np.linspace(0, self.took_s, PARTS + 1)
        rate = self.case.rate * (1 if which == 1 else self.case.nodes)
        return list(100 * np.diff(np.interp(marks, times, bytes_sent)) / (marks[1] * rate))


def fair_rates(senders: Integers, readers: Integers, up: Floats, down: Floats) -> Floats:
    """Max-min fair rates: no flow can get more without taking it from one that has no more than it.

    Progressive filling, at many links at the same time: a link is full at its equal share as soon as no flow of it is
    held back more by its other link, whatever happens elsewhere.

    Args:
        senders: Each flow's sender.
        readers: Each flow's reader.
        up: Each node's bytes per second out.
        down: Each node's bytes per second in.
    """
    rates = np.zeros(len(senders))
    up, down = up.copy(), down.copy()
    open_flows = np.arange(len(senders))
    while len(open_flows):
        out, into = senders[open_flows], readers[open_flows]
        up_share = (up / np.maximum(np.bincount(out, minlength=len(up)), 1))[out]
        down_share = (down / np.maximum(np.bincount(into, minlength=len(down)), 1))[into]
        up_full = np.bincount(out, down_share < up_share * (1 - _SAME), len(up)) == 0
        down_full = np.bincount(into, up_share < down_share * (1 - _SAME), len(down)) == 0
        settled = up_full[out] | down_full[into]
        rate = np.minimum(up_share, down_share)[settled]
        rates[open_flows[settled]] = rate
        up = np.maximum(up - np.bincount(out[settled], rate, len(up)), 0)
        down = np.maximum(down - np.bincount(into[settled], rate, len(down)), 0)
        open_flows = open_flows[~settled]
    return rates


class Links:
    """Flows over the links of all nodes. Time goes on in steps; rates hold for a step.

    A flow that ends inside a step ends at its own time. One that begins inside a step gets its rate at the end of the
    step, and with it what it would have sent since it began: about what flows that ended left free.

    Attributes:
        now: Seconds.
        sent: Bytes that each node sent.
        rates: Of each flow.
    """

    def __init__(self, up: Floats, down: Floats) -> None:
        self._up, self._down = up, down
        self.now = 0.0
        self.sent = np.zeros(len(up))
        self._waiting: deque[tuple[float, int, int, float, int]] = deque()
        self._senders = np.zeros(0, dtype=np.int64)
        self._readers = np.zeros(0, dtype=np.int64)
        self._numbers = np.zeros(0, dtype=np.int64)
        self._left = np.zeros(0)
        self.rates = np.zeros(0)
        self._stale = False

    def begin(self, when: float, sender: int, reader: int, size: float, number: int) -> None:
        """A flow will begin; calls come in the order of `when`."""
        self._waiting.append((when, sender, reader, size, number))

    def next_change(self) -> float:
        """When the next flow begins or ends, if nothing else happens."""
        first = self._waiting[0][0] if self._waiting else np.inf
        with np.errstate(divide="ignore"):
            return min(first, self.now + float(np.min(self._left / self.rates, initial=np.inf)))

    def advance(self, until: float) -> list[tuple[float, int]]:
        """Let flows go on; return when which ones ended, in this order."""
        moved = self.rates * (until - self.now)
        ended = self._left <= moved + _CRUMB
        found: list[tuple[float, int]] = []
        if ended.any():
            times = np.minimum(self.now + self._left[ended] / self.rates[ended], until)
            found = sorted(zip(times.tolist(), self._numbers[ended].tolist(), strict=True))
            moved = np.minimum(moved, self._left)
        self.sent += np.bincount(self._senders, moved, len(self.sent))
        self._left -= moved
        if found:
            self._keep(~ended)
        self.now = until
        return found

    def settle(self) -> None:
        """Let flows begin whose time has come, and share the links anew."""
        fresh = []
        while self._waiting and self._waiting[0][0] <= self.now:
            fresh.append(self._waiting.popleft())
        if fresh:
            begins, senders, readers, sizes, numbers = zip(*fresh, strict=True)
            self._senders = np.append(self._senders, np.array(senders, dtype=np.int64))
            self._readers = np.append(self._readers, np.array(readers, dtype=np.int64))
            self._numbers = np.append(self._numbers, np.array(numbers, dtype=np.int64))
            self._left = np.append(self._left, np.array(sizes, dtype=np.float64))
        if fresh or self._stale:
            self.rates = fair_rates(self._senders, self._readers, self._up, self._down)
            self._stale = False
        if fresh:
            late = self.rates[-len(fresh) :] * (self.now - np.array(begins))
            late = np.minimum(late, self._left[-len(fresh) :])
            self._left[-len(fresh) :] -= late
            self.sent += np.bincount(self._senders[-len(fresh) :], late, len(self.sent))

    def cut(self, node: int) -> list[int]:
        """End all flows of a node that died; return which ones."""
        lost = (self._senders == node) | (self._readers == node)
        numbers: list[int] = self._numbers[lost].tolist()
        self._keep(~lost)
        numbers += [flow[4] for flow in self._waiting if node in flow[1:3]]
        self._waiting = deque(flow for flow in self._waiting if node not in flow[1:3])
        return numbers

    def _keep(self, kept: npt.NDArray[np.bool_]) -> None:
        self._senders, self._readers, self._numbers = self._senders[kept], self._readers[kept], self._numbers[kept]
        self._left, self.rates = self._left[kept], self.rates[kept]
        self._stale = True
