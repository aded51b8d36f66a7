"""Who is to blame when streams break or lag, and where the nodes sit that must move."""

from __future__ import annotations

from hubdist.delivery.stream_events import Reseat, StreamBroke, StreamCommand, StreamLags
from hubdist.delivery.stream_trees import SAME_LINK, Member, StreamTrees
from hubdist.errors import HubdistError, IntegrityError

MAX_SOURCE_TRIES = 3
"""After this many breaks in turn of one stripe from the source, without a new unit, a node is given up."""

_PEER_TRIES = 2
"""After this many breaks in turn of one stripe from other nodes, without a new unit, a node is seated at the source."""

_MAX_ACCUSED = 2
"""A node that complains about more nodes than this is not believed: its own network, memory or disk may be at fault."""

_ENOUGH_ACCUSERS = 2
"""When this many nodes complain about the same node, that node loses all its children, and gets none any more."""

_MAX_SLOW_PART = 4
"""At most one of this many nodes is held to be slow: if more are, the fault is elsewhere, and moving helps nobody."""


class Repair:
    """Moves nodes whose streams break or lag.

    Args:
        trees: The delivery's trees.
        commands: Where the commands go.
    """

    def __init__(self, trees: StreamTrees, commands: list[StreamCommand]) -> None:
        self._trees = trees
        self._commands = commands
        self._slow = 0

    # Complaints

    def take_break(self, member: Member, event: StreamBroke) -> HubdistError | None:
        """Seat a node elsewhere whose stream broke.

        Args:
            member: A node that lacks units.
            event: What the node says.

        Returns:
            The error with which the node must be given up, or None.
        """
        stripe = event.stripe
        parent = member.parents[stripe]
        if parent is None or parent.name != event.parent:
            self.tell_seat(member, stripe)  # the node has not been told yet, or was told in the wrong order
            return None
        if event.next_unit > member.next_units[stripe]:
            member.tries[stripe] = 0
        member.next_units[stripe] = event.next_unit
        member.tries[stripe] += 1
        tries = member.tries[stripe]
        if parent is self._trees.source:
            if tries >= MAX_SOURCE_TRIES:
                return event.error
            self.tell_seat(member, stripe)
            return None
        member.refused.add(parent)
        self._trees.unseat(member, stripe)
        self._move(member, stripe, self._trees.source if tries >= _PEER_TRIES else None)
        is_believed = _is_believed(member, parent)
        if is_believed and (isinstance(event.error, IntegrityError) or _is_enough(parent.accusers_broke, member)):
            parent.is_banned = True
            self._trees.update(parent)
            self._move_children(parent)
        return None

    def take_lag(self, member: Member, event: StreamLags) -> None:
        """Move the children of a node that is slow to several of them, or the one that complains again.

        A first complaint may be the child's own fault, and each move costs others a part of their link.

        Args:
            member: A node that lacks units.
            event: What the node says.
        """
        stripe = event.stripe
        parent = member.parents[stripe]
        if parent is None or parent.name != event.parent:
            self.tell_seat(member, stripe)
            return
        is_repeated = stripe in member.complaints
        member.complaints.add(stripe)
        if parent is self._trees.source or _is_trouble_above(parent, stripe) or not _is_believed(member, parent):
            return
        if _is_enough(parent.accusers_slow, member) and self._slow * _MAX_SLOW_PART < self._trees.count:
            self._slow += 1
            self._trees.mark_slow(parent)
            self._move_children(parent)
        elif is_repeated:
            member.refused.add(parent)
            self._trees.unseat(member, stripe)
            self._move(member, stripe, None)

    # Moves

    def forget(self, member: Member) -> None:
        """Remove a node, and seat its children elsewhere."""
        above, below = list(member.parents), [list(children) for children in member.children]
        for stripe, children in enumerate(below):
            for child in children:
                self._trees.unseat(child, stripe)
        self._slow -= member.is_slow
        self._trees.remove(member)
        for stripe, children in enumerate(below):
            self._seat_orphans(children, stripe, above[stripe])

    def move_children(self, node: str) -> None:
        """Seat the children of a node elsewhere.

        Args:
            node: The node's name; nothing happens if it takes no part.
        """
        member = self._trees.find(node)
        if member is not None:
            self._move_children(member)

    def move_below(self, link: float) -> None:
        """Move slower nodes from the source to nodes that have joined: faster ones need the source's link.

        Args:
            link: Bytes per second of the links of the nodes that have joined.
        """
        source = self._trees.source
        for stripe, children in enumerate(source.children):
            for child in [child for child in children if child.link < SAME_LINK * link < float("inf")]:
                self._trees.unseat(child, stripe)
                parent = self._trees.find_parent(child, stripe)
                self._trees.seat(child, stripe, parent)
                if parent is not source:
                    self.tell_seat(child, stripe)

    def tell_seat(self, member: Member, stripe: int) -> None:
        """Tell a node its parent, now or when the node answers again.

        Args:
            member: The node.
            stripe: The stripe.
        """
        parent = member.parents[stripe]
        if member.is_silent:
            member.reseats.add(stripe)
        elif parent is not None:
            self._commands.append(Reseat(member.name, stripe, parent.name))

    def _move_children(self, parent: Member) -> None:
        for stripe in range(self._trees.stripes):
            children = list(parent.children[stripe])
            for child in children:
                self._trees.unseat(child, stripe)
            self._seat_orphans(children, stripe, parent.parents[stripe])

    def _seat_orphans(self, orphans: list[Member], stripe: int, above: Member | None) -> None:
        """Seat nodes that have lost the same parent.

        The child that has most below itself takes the parent's own place if there is room. It can be seated there in
        any case, which is more than can be said of others' slots: those may be below the child.
        """
        orphans.sort(key=lambda child: -len(child.children[stripe]))
        for number, child in enumerate(orphans):
            is_heir = not number and above is not None and self._trees.can_adopt(above, child, stripe)
            self._move(child, stripe, above if is_heir else None)

    def _move(self, child: Member, stripe: int, parent: Member | None) -> None:
        """Seat a node below a parent, or below the best one that there is."""
        self._trees.seat(child, stripe, parent or self._trees.find_parent(child, stripe))
        self.tell_seat(child, stripe)


def _is_believed(member: Member, parent: Member) -> bool:
    if len(member.accused | {parent.name}) > _MAX_ACCUSED:
        return False
    member.accused.add(parent.name)
    return True


def _is_enough(accusers: set[str], member: Member) -> bool:
    accusers.add(member.name)
    return len(accusers) >= _ENOUGH_ACCUSERS


def _is_trouble_above(member: Member, stripe: int) -> bool:
    """Return whether a node, or one above it, gets a stripe too slowly itself."""
    above: Member | None = member
    while above is not None:
        if stripe in above.complaints:
            return True
        above = above.parents[stripe]
    return False
