"""Streams as steady flows: when each node has each stripe, if streams share links and processors.

A flow brings one stripe to one node. It gets a share of the narrowest thing that it needs: the sender's link up, the
receiver's link down, the processors of both (max-min fair rates, by weights). A receiver hands on whole units only, so
a flow stays one unit behind the flow above it. Rates change when a flow begins, ends or catches up with the one above.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

NOBODY = -1
"""Stands for the flow above one whose sender has all bytes from the beginning."""

_CRUMB = 1.0
"""Bytes: a flow with less left is done, or rounding would keep it going."""

_MAX_LOOKS = 2e6
"""About how many flows are looked at in all steps together: with more flows the steps are fewer and longer."""


@dataclass(frozen=True, slots=True)
class FlowLimits:
    """What flows share.

    Attributes:
        up: For each member the bytes per second that it can send.
        down: For each member the bytes per second that it can receive.
        cores: For each member its processors.
        receive_s: Processor seconds for each byte that is received.
        send_s: Processor seconds for each byte that is sent.
        shared_cores: Processors that all members share, as simulated hosts on one machine do; None if they share none.
    """

    up: Floats
    down: Floats
    cores: Floats
    receive_s: float
    send_s: float
    shared_cores: float | None = None


class DeliveryFlows:
    """The flows of one delivery. Each array has one number for each flow.

    Args:
        senders: The member that sends.
        receivers: The member that receives.
        above: The flow that brings the sender its bytes; it has a smaller number. `NOBODY` if the sender has all bytes.
        sizes: Bytes.
        begins: Seconds before which nothing flows.
        weights: How large a share a flow gets, compared with others that need the same thing.
        unit_bytes: Bytes of a unit, which a node has whole before it sends any of it.
        limits: What the flows share.
    """

    def __init__(
        self,
        senders: Integers,
        receivers: Integers,
        above: Integers,
        *,
        sizes: Floats,
        begins: Floats,
        weights: Floats,
        unit_bytes: float,
        limits: FlowLimits,
    ) -> None:
        self._senders, self._receivers, self._above = senders, receivers, above
        self._sizes, self._begins, self._weights = sizes, begins, weights
        self._units = np.minimum(unit_bytes, sizes)
        self._limits = limits
        self._is_below = above != NOBODY
        self.depths = _count_above(above)
        self._levels = [np.flatnonzero(self.depths == depth) for depth in range(1, int(self.depths.max()) + 1)]
        self._same = min(0.01, 1e-6 * len(sizes))
        """Shares that differ by a smaller part are taken for one."""

    def run(self) -> Floats:
        """Return for each flow the seconds after which its last byte has come."""
        got, done = np.zeros(len(self._sizes)), np.full(len(self._sizes), np.inf)
        now, step_s = 0.0, self._shortest_step()
        while np.isinf(done).any():
            offered = self._offered(got, done)
            is_open = (self._begins <= now) & np.isinf(done) & (offered > 0)
            rates = self._share(is_open, is_open & self._is_below & (got >= offered - _CRUMB) & (offered < self._sizes))
            step = max(step_s, self._next_change(now, got, offered, rates) - now)
            assert step < np.inf, "flows wait for each other"
            left = self._sizes - got
            ends = is_open & (left <= rates * step + _CRUMB)
            done[ends] = now + left[ends] / np.maximum(rates[ends], _CRUMB)
            got = np.where(ends, self._sizes, np.minimum(got + rates * step, self._sizes))
            now += step
        return done

    def _shortest_step(self) -> float:
        """What happens within one step happens at its end."""
        into = np.bincount(self._receivers, self._sizes, len(self._limits.down))
        about_s = float(np.max(into / self._limits.down))
        return about_s / max(60.0, min(10_000.0, _MAX_LOOKS / len(self._sizes)))

    def _offered(self, got: Floats, done: Floats) -> Floats:
        """How many bytes of its stripe each flow's sender can have sent by now."""
        has_all = ~self._is_below | np.isfinite(done[self._above])
        return np.where(has_all, self._sizes, np.maximum(got[self._above] - self._units, 0.0))

    def _next_change(self, now: float, got: Floats, offered: Floats, rates: Floats) -> float:
        """When the next flow begins, ends, or catches up with the one above it."""
        above = np.where(self._is_below, rates[self._above], 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = np.where(rates > 0, (self._sizes - got) / rates, np.inf)
            gains = (offered < self._sizes) & (rates > above * (1 + 1e-9)) & (offered > got + _CRUMB)
            meets = np.where(gains, (offered - got) / (rates - above), np.inf)
            waits = self._is_below & (offered <= 0) & (above > 0)
            firsts = np.where(waits, (self._units + _CRUMB - got[self._above]) / above, np.inf)
        begins = np.where(self._begins > now, self._begins - now, np.inf)
        return now + float(min(ends.min(), meets.min(), firsts.min(), begins.min()))

    # Shares

    def _share(self, is_open: Flags, is_tied: Flags) -> Floats:
        """Return max-min fair rates: all flows grow together until something that they share is used up.

        Args:
            is_open: Flows for which there are bytes to send.
            is_tied: Those that have caught up with the flow above them, and get no more than that one.
        """
        limits, is_growing, weights = self._limits, is_open.copy(), self._weights.copy()
        for flows in self._levels:
            above = self._above[flows]
            is_growing[flows] &= ~is_tied[flows] | is_growing[above]
            weights[flows] = np.where(is_tied[flows], weights[above], weights[flows])
        up, down, cores = limits.up.copy(), limits.down.copy(), limits.cores.copy()
        shared = np.inf if limits.shared_cores is None else limits.shared_cores
        rates = np.zeros(len(is_open))
        while is_growing.any():
            flows = np.flatnonzero(is_growing)
            out, into, need = self._uses(flows, weights)
            with np.errstate(divide="ignore", invalid="ignore"):
                by_cores = np.where(need > 0, cores / need, np.inf)
                by_up = np.minimum(np.where(out > 0, up / out, np.inf), by_cores)
                by_down = np.minimum(np.where(into > 0, down / into, np.inf), by_cores)
                by_shared = shared / need.sum()
            found = np.minimum(by_up[self._senders[flows]], by_down[self._receivers[flows]])
            rate = max(0.0, min(float(found.min()), by_shared))
            is_full = np.zeros(len(is_open), np.bool_)
            is_full[flows[np.minimum(found, by_shared) <= rate * (1 + self._same) + 1e-6]] = True
            for below in self._levels:
                is_full[below] |= is_tied[below] & is_growing[below] & is_full[self._above[below]]
            rates[is_full] = rate * weights[is_full]
            out, into, need = self._uses(np.flatnonzero(is_full), weights)
            up, down, cores = up - rate * out, down - rate * into, cores - rate * need
            shared -= rate * need.sum()
            is_growing &= ~is_full
        return rates

    def _uses(self, flows: Integers, weights: Floats) -> tuple[Floats, Floats, Floats]:
        """For each member: the weights of its flows out and in, and processor seconds while each sends them."""
        members = len(self._limits.up)
        out: Floats = np.bincount(self._senders[flows], weights[flows], members).astype(np.float64)
        into: Floats = np.bincount(self._receivers[flows], weights[flows], members).astype(np.float64)
        return out, into, out * self._limits.send_s + into * self._limits.receive_s


def _count_above(above: Integers) -> Integers:
    """For each flow, how many flows are above it."""
    depths = [0] * len(above)
    for flow, over in enumerate(above.tolist()):
        if over != NOBODY:
            depths[flow] = depths[over] + 1
    return np.array(depths, np.int64)
