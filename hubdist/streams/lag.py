"""PURE: when a node says that one of its stripes is too slow; counts units instead of seconds, so any link will do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WINDOW = 4
"""How many units of its leading stripe a node gets between two looks at all stripes."""

MAX_GAIN = 2
"""A stripe with at most this many new units in a window loses ground: it comes at half of the others' rate or less. A
parent with one child too many still sends seven units in eight."""

MIN_BEHIND = 4
"""A stripe that is less behind than this many units is not complained about."""

MIN_BACKLOG = 8
"""A parent that has this many units more than its child of their stripe is to blame: it does not send them. Fewer may
be on the way."""

UNHEARD = 16
"""When the leading stripe has so many units, a parent that has not even answered is to blame."""

PATIENCE = 2
"""After this many windows in turn a node complains about a stripe, and again after four times as many."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a node is. A parent tells its children with each unit, and now and then while there is none to send.

    Attributes:
        count: How many units of the child's stripe the parent has.
        lead: How many units of its leading stripe the parent has.
        has_begun: True once all stripes of the parent have begun. Before, the parent may be late without being slow.
    """

    count: int
    lead: int
    has_begun: bool


NO_PROGRESS = Progress(0, 0, has_begun=False)
"""Of a node that has nothing yet."""


def find_lead(counts: Sequence[int]) -> int:
    """Return how many units a node has of its leading stripe: the second, for one stripe may run ahead of the others.

    Args:
        counts: For each stripe how many of its units the node has.
    """
    return sorted(counts)[-2:][0]


class LagWatch:
    """The stripes of one node: which of them fall behind the others, through the fault of their parents.

    A stripe comes slowly if the parent sends slowly (then the parent has units that the child lacks), if the parent
    receives slowly (then all stripes of the parent are slow), or if some node above the parent does. In the last case
    the parent has no units that the child lacks, and gets other stripes as fast as the child does. It is not to blame.

    Args:
        stripes: How many stripes.
    """

    def __init__(self, stripes: int) -> None:
        self._next_look = -1
        self._marks = [0] * stripes
        self._parent_marks: list[int | None] = [None] * stripes
        """Stripe -> the parent's lead at the last look; None if the parent is new."""
        self._windows = [0] * stripes
        """Stripe -> in how many windows in turn it has lost ground and its parent was to blame."""
        self._complain_at = [PATIENCE] * stripes
        """Stripe -> after how many such windows the next complaint comes."""

    def reseat(self, stripe: int) -> None:
        """Note that a stripe comes from another parent now.

        Args:
            stripe: The stripe.
        """
        self._parent_marks[stripe] = None
        self._windows[stripe] = 0
        self._complain_at[stripe] = PATIENCE

    def look(self, counts: Sequence[int], parents: Sequence[Progress | None]) -> list[int]:
        """Return the stripes that the node complains about now. Call this after each unit.

        Args:
            counts: For each stripe how many of its units the node has.
            parents: For each stripe what its parent has told last, which is at least that it has nothing yet; None if
                the parent has not answered. What is told of a complete stripe does not matter.
        """
        lead = find_lead(counts)
        if self._next_look < 0 and (min(counts) > 0 or lead >= UNHEARD):  # every stripe has begun, or will not
            self._next_look = lead
        if self._next_look < 0 or lead < self._next_look:
            return []
        self._next_look = (lead // WINDOW + 1) * WINDOW
        complaints = []
        for stripe, (count, parent) in enumerate(zip(counts, parents, strict=True)):
            is_losing = count - self._marks[stripe] <= MAX_GAIN and lead - count >= MIN_BEHIND
            is_blamed = is_losing and self._is_to_blame(stripe, count, lead, parent)
            self._windows[stripe] = self._windows[stripe] + 1 if is_blamed else 0
            self._parent_marks[stripe] = None if parent is None else parent.lead
            if self._windows[stripe] >= self._complain_at[stripe]:
                self._complain_at[stripe] = 4 * self._windows[stripe]
                complaints.append(stripe)
        self._marks = list(counts)
        return complaints

    def _is_to_blame(self, stripe: int, count: int, lead: int, parent: Progress | None) -> bool:
        mark = self._parent_marks[stripe]
        if parent is None:
            return True
        if mark is None:
            return False
        if not parent.has_begun:
            return 0 < parent.lead == mark  # it had begun to begin, and stands still
        is_slow = parent.lead < lead and parent.lead - mark <= MAX_GAIN  # one that is complete stands still as well
        return is_slow or parent.count - count >= MIN_BACKLOG
