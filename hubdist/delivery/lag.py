"""When a node says that one of its stripes is too slow. Counts units and reads no clock, so it holds for any link."""

from __future__ import annotations

from collections.abc import Sequence

WINDOW = 4
"""How many units of its leading stripe a node gets between two looks at all stripes. The looks of all nodes come at
the same units, so the nodes above have looked when those below do."""

MAX_GAIN = 2
"""A stripe with at most this many new units in a window loses ground: it comes at half of the others' rate or less. A
parent with one child too many still sends seven units in eight."""

MIN_BEHIND = 4
"""A stripe that is less behind than this many units is not complained about."""

LAGGING = MIN_BEHIND - 1
"""From this many units on a node's children are told that the stripe lags. They notice a little later than the node."""

PATIENCE = 2
"""After this many windows in turn a node complains about a stripe, and again after four times as many."""


class LagWatch:
    """The stripes of one node: which of them fall behind the others.

    A slow parent holds up one stripe of each of its children, and all stripes of its own alike. So a child knows that
    the parent is slow if the child's stripe lags and the parent's does not. If the parent's lags too, the trouble is
    above the parent, whose own complaint is the right one.

    Args:
        stripes: How many stripes.
    """

    def __init__(self, stripes: int) -> None:
        self._marks = [0] * stripes
        self._next_look = -1
        self._behind = [0] * stripes
        """Stripe -> how many units it is behind."""
        self._is_losing = [True] * stripes
        """Stripe -> whether it lost ground in the last window; true as well if there has been none."""
        self._windows = [0] * stripes
        """Stripe -> in how many windows in turn it has lost ground and its parent was to blame."""
        self._complain_at = [PATIENCE] * stripes
        """Stripe -> after how many such windows the next complaint comes."""

    def is_lagging(self, stripe: int) -> bool:
        """Return whether a stripe lags, which a parent tells its children with what it sends."""
        return self._is_losing[stripe] and self._behind[stripe] >= LAGGING

    def reseat(self, stripe: int) -> None:
        """Note that a stripe comes from another parent now.

        The stripe counts as lagging until the next look: otherwise the node's children, who lag as well, would blame
        the node.

        Args:
            stripe: The stripe.
        """
        self._is_losing[stripe] = True
        self._windows[stripe] = 0
        self._complain_at[stripe] = PATIENCE

    def look(self, counts: Sequence[int], excused: Sequence[bool]) -> list[int]:
        """Return the stripes that the node complains about now. Call this after each unit.

        Args:
            counts: For each stripe how many of its units the node has.
            excused: For each stripe whether its parent says that the parent's own stripe lags, or the stripe is
                complete.
        """
        lead = _lead(counts)
        self._behind = [lead - count for count in counts]
        if self._next_look < 0 and min(counts) > 0:  # every stripe has begun
            self._next_look = (lead // WINDOW + 1) * WINDOW
            self._marks = list(counts)
        if self._next_look < 0 or lead < self._next_look:
            return []
        self._next_look = (lead // WINDOW + 1) * WINDOW
        complaints = []
        for stripe, count in enumerate(counts):
            losing = count - self._marks[stripe] <= MAX_GAIN and self._behind[stripe] >= MIN_BEHIND
            self._is_losing[stripe] = losing
            self._windows[stripe] = self._windows[stripe] + 1 if losing and not excused[stripe] else 0
            if self._windows[stripe] >= self._complain_at[stripe]:
                self._complain_at[stripe] = 4 * self._windows[stripe]
                complaints.append(stripe)
        self._marks = list(counts)
        return complaints


def _lead(counts: Sequence[int]) -> int:
    """Return the second largest count: most stripes of a node may lag at the same time, and one may run ahead."""
    return sorted(counts)[-2:][0]
