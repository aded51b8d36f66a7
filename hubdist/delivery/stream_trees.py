"""The trees of a delivery as they are now, one for each stripe, and who can take a child whose parent is lost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

_SLOW_WEIGHT = 0.25
"""What a slow child takes of its parent's link, compared with others."""

_SPARE_SLOT = 0.5
"""A node with this part of a slot left takes one more child: that makes its other children a sixteenth slower."""

_MAX_OVERLOAD = 2.0
"""How many children beyond its slots a node takes before the source is asked instead."""

SAME_LINK = 0.9
"""Links that differ by less than this factor are alike."""

_SAMPLED = 48
"""How many possible parents are compared. Comparing all of them would cost more than it gains."""


@dataclass(slots=True, eq=False)
class Member:
    """One node of a delivery, or the source.

    `StreamTrees` changes parents, children and load; `StreamPlan` changes the rest.

    Attributes:
        name: The node's name, or the source's.
        zone: Where the node is; empty if unknown.
        link: Bytes per second of the node's link; infinite for one that nobody knows, for nothing is gained by avoiding
            such a node.
        slots: How many children the node has at most in all stripes together, if no others are free.
        parents: Stripe -> the parent; None for a node that needs none (it is complete), or that has lost its parent.
        children: Stripe -> the nodes that get the stripe from this one.
        load: How many slots the children take.
        is_complete: True if the node has all units.
        is_publishing: True between the commands `Publish` and `Finish`.
        is_holder: True once the node is finished and has the snapshot.
        is_silent: True while the node gives no answer; nobody is seated below it meanwhile.
        is_slow: True once the node has been found to send slowly; it has no children from then on.
        is_banned: True once the node has sent wrong bytes or failed several others; it has no children from then on.
        accused: Names of the nodes that this node has complained about.
        accusers_broke: Names of the nodes to which a stream from this node broke.
        accusers_slow: Names of the nodes to which this node sends too slowly.
        refused: Nodes that this node does not get on with; it is not seated below them again.
        tries: Stripe -> how often in turn the stripe's stream broke without a new unit.
        next_units: Stripe -> the first unit that the node lacked when its stream broke last.
        complaints: Stripes that the node has said to lag since it sits where it sits.
        cohort: How many groups of nodes joined before this node's group.
        reseats: Stripes whose new parent the silent node has not been told yet.
    """

    name: str
    zone: str
    link: float
    slots: int
    parents: list[Member | None]
    children: list[dict[Member, None]]
    load: float = 0.0
    is_complete: bool = False
    is_publishing: bool = False
    is_holder: bool = False
    is_silent: bool = False
    is_slow: bool = False
    is_banned: bool = False
    accused: set[str] = field(default_factory=set)
    accusers_broke: set[str] = field(default_factory=set)
    accusers_slow: set[str] = field(default_factory=set)
    refused: set[Member] = field(default_factory=set)
    tries: list[int] = field(default_factory=list)
    next_units: list[int] = field(default_factory=list)
    complaints: set[int] = field(default_factory=set)
    cohort: int = 0
    reseats: set[int] = field(default_factory=set)

    @property
    def is_trusted(self) -> bool:
        """True if other nodes may be seated below this one."""
        return not (self.is_silent or self.is_slow or self.is_banned)

    @property
    def weight(self) -> float:
        """How many of its parent's slots this node takes in each stripe."""
        return _SLOW_WEIGHT if self.is_slow else 1.0


class StreamTrees:
    """Who gets which stripe from whom. A node is never below itself, whatever happens.

    Args:
        source: Name of the source, which is complete and above all others.
        stripes: How many stripes.
        slots: How many children a node has, and the source.
    """

    def __init__(self, source: str, *, stripes: int, slots: int) -> None:
        self.stripes = stripes
        self._slots = slots
        self._members: dict[str, Member] = {}
        self._open: dict[Member, None] = {}
        """Trusted nodes that have a free slot; those that were looked at last are at the end."""
        self._order: list[Member] = []
        """All nodes, to take turns if none has a free slot."""
        self._turn = 0
        self.source = self._create(source, "", float("inf"))
        self.source.is_complete = True

    @property
    def count(self) -> int:
        """How many nodes take part."""
        return len(self._members)

    def find(self, name: str) -> Member | None:
        """Return the node of this name, or the source, if it takes part."""
        return self.source if name == self.source.name else self._members.get(name)

    def members(self) -> list[Member]:
        """Return all nodes that take part; the source is not among them."""
        return list(self._members.values())

    def add(self, name: str, zone: str, link: float, *, is_complete: bool, cohort: int = 0) -> Member:
        """Add a node that has no parents yet.

        Args:
            name: The node's name; no node of this name takes part.
            zone: Where the node is.
            link: Bytes per second of its link.
            is_complete: True if the node needs no parents.
            cohort: How many groups of nodes joined before.
        """
        member = self._create(name, zone, link)
        member.cohort = cohort
        member.is_complete = is_complete
        self._members[name] = member
        self._order.append(member)
        self.update(member)
        return member

    def remove(self, member: Member) -> None:
        """Remove a node that has no children any more."""
        for stripe in range(self.stripes):
            self.unseat(member, stripe)
        del self._members[member.name]
        self._order.remove(member)
        self._open.pop(member, None)

    def _create(self, name: str, zone: str, link: float) -> Member:
        count = self.stripes
        none: list[Member | None] = [None] * count
        children: list[dict[Member, None]] = [{} for _ in range(count)]
        return Member(name, zone, link, self._slots, none, children, tries=[0] * count, next_units=[0] * count)

    # Seats

    def seat(self, child: Member, stripe: int, parent: Member) -> None:
        """Put a node below a parent.

        Args:
            child: The node. It leaves its parent of now.
            stripe: The stripe.
            parent: The new parent, which is not below the node.
        """
        self.unseat(child, stripe)
        child.complaints.discard(stripe)
        child.parents[stripe] = parent
        parent.children[stripe][child] = None
        parent.load += child.weight
        self.update(parent)

    def unseat(self, child: Member, stripe: int) -> None:
        """Take a node away from its parent, if it has one.

        Args:
            child: The node.
            stripe: The stripe.
        """
        parent = child.parents[stripe]
        if parent is not None:
            child.parents[stripe] = None
            del parent.children[stripe][child]
            parent.load -= child.weight
            self.update(parent)

    def mark_slow(self, member: Member) -> None:
        """Note that a node sends slowly. It also receives slowly then, which leaves its parents room for others."""
        parents = list(member.parents)
        for stripe in range(self.stripes):
            self.unseat(member, stripe)
        member.is_slow = True
        for stripe, parent in enumerate(parents):
            if parent is not None:
                self.seat(member, stripe, parent)
        self.update(member)

    def update(self, member: Member) -> None:
        """Keep the list of nodes with free slots in step, after a node's load or trust has changed."""
        if member is self.source:
            return
        if member.is_trusted and self.has_slot(member) and self._members.get(member.name) is member:
            self._open.setdefault(member)
        else:
            self._open.pop(member, None)

    def has_slot(self, member: Member) -> bool:
        """Return whether a node, or the source, can take one more child without slowing down the others much."""
        return member.load <= member.slots - _SPARE_SLOT

    # Whom to sit below

    def depth(self, member: Member, stripe: int, *, without: Member | None = None) -> int | None:
        """Return how many steps a node is away from a complete one.

        Args:
            member: The node.
            stripe: The stripe.
            without: A node that must not be on the way, for it wants to sit below `member`.

        Returns:
            None if `without` is on the way, or a node that has lost its parent or is not trusted: bytes may not come.
        """
        steps = 0
        while member is not without and member.is_trusted:
            if member.is_complete:
                return steps
            above = member.parents[stripe]
            if above is None:
                return None
            member = above
            steps += 1
        return None

    def can_adopt(self, parent: Member, child: Member, stripe: int) -> bool:
        """Return whether a node may sit below another one, would get bytes there, and would not slow down others much.

        Args:
            parent: The other one. The source has always room, for it may be the only one that is not below the child.
            child: The node.
            stripe: The stripe.
        """
        if parent is self.source:
            return True
        return (
            parent not in child.refused
            and self.has_slot(parent)
            and self.depth(parent, stripe, without=child) is not None
        )

    def find_parent(self, child: Member, stripe: int) -> Member:
        """Return the best new parent of a node: one with a free slot, then a little too busy a node, then the source.

        Args:
            child: A node without a parent in the stripe.
            stripe: The stripe.
        """
        sampled = list(islice(self._open, _SAMPLED))
        for member in sampled:  # the next search begins with others
            del self._open[member]
            self._open[member] = None
        best = self._best(sampled, child, stripe)
        if best is None and self.has_slot(self.source):
            return self.source
        return best or self._best(self._some_members(), child, stripe) or self.source

    def _some_members(self) -> list[Member]:
        """Return nodes that are not too busy, from all parts of the trees: those that joined together sit together."""
        count = len(self._order)
        stride = count // _SAMPLED + 1
        self._turn += 1
        some = self._order[self._turn % stride :: stride]
        return [member for member in some if member.load < member.slots + _MAX_OVERLOAD]

    def _best(self, members: Iterable[Member], child: Member, stripe: int) -> Member | None:
        """Return the best parent that is no slower than the child, or None."""
        best, best_rank = None, (True, True, True, True, 0.0, 0)
        is_link_known = child.link < float("inf")
        for member in members:
            if member in child.refused or (is_link_known and member.link < SAME_LINK * child.link):
                continue
            depth = self.depth(member, stripe, without=child)
            if depth is None:
                continue
            busy = max(0.0, member.load - member.slots + 1 - _SPARE_SLOT)
            rank = (
                member.cohort > child.cohort and not member.is_complete,  # it is far behind
                SAME_LINK * member.link > child.link,  # faster nodes may need the slot
                member.zone != child.zone,
                not member.is_complete,
                busy or member.load * member.is_complete,
                depth,
            )
            if best is None or rank < best_rank:
                best, best_rank = member, rank
        return best
