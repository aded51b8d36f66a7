"""The plan of one delivery by streams: who gets which stripe from whom, and who takes over when a stream breaks.

The source cuts the model into units. Unit k belongs to stripe k modulo the number of stripes. Each stripe flows down a
tree of nodes without the coordinator: each node gets each stripe from one parent, which sends every unit as soon as it
has checked it. `StreamPlan` takes events and answers with commands. The plan knows nothing of units that flow; it is
told what goes wrong, who is complete, and who comes and goes.
"""

from __future__ import annotations

from collections.abc import Sequence

from hubdist.delivery.events import (
    Finish,
    HolderJoined,
    NodeFailed,
    NodeHeard,
    NodePublished,
    NodeSilent,
    Publish,
    SourceFailed,
    SourcePublished,
)
from hubdist.delivery.forest import ROOT, choose_slots, seat_nodes
from hubdist.delivery.stream_events import (
    Follow,
    Newcomer,
    NodeComplete,
    NodesJoined,
    Reseat,
    StreamBroke,
    StreamCommand,
    StreamEvent,
    StreamLags,
)
from hubdist.delivery.stream_trees import Member, StreamTrees
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

_SAME_LINK = 0.9
"""Links that differ by less than this factor are alike."""

_HAND_ON = 8
"""How many nodes are told their seats by the coordinator, and by each node that hands on seats to others."""

_BROKE, _LAGS = "broke", "lags"


class StreamPlan:
    """One model's way to a set of nodes. Owned by the coordinator's event loop; not for use by several threads.

    Args:
        source: Name of the source, which has all units or will have them: the driver's node, or a remote directory.
        stripes: How many stripes; see `choose_stripes`.
        complete: False if `SourcePublished` is to come; no node publishes before.
        hand_on: How many nodes the coordinator tells their seats itself, and each node that hands on seats. None if
            the coordinator tells all.
    """

    def __init__(self, source: str, *, stripes: int, complete: bool = True, hand_on: int | None = _HAND_ON) -> None:
        self._trees = StreamTrees(source, stripes=stripes, slots=choose_slots(stripes))
        self._complete = complete
        self._hand_on = hand_on
        self._slow = 0
        self._cohorts = 0
        self._commands: list[StreamCommand] = []

    @property
    def active(self) -> bool:
        """True while a node that joined has neither published nor failed."""
        return any(not member.is_holder for member in self._trees.members())

    def seat(self, node: str) -> Follow | None:
        """Return a node's seat of now, to tell it again; None if it does not receive."""
        member = self._trees.find(node)
        if member is None or member.is_complete:
            return None
        return Follow(node, _parent_names(member))

    def handle(self, event: StreamEvent) -> list[StreamCommand]:  # noqa: C901 - one case for each event
        """Take in what happened; return what to do now. Events of nodes and seats that are no more are ignored."""
        match event:
            case NodesJoined(newcomers):
                self._join(newcomers)
            case HolderJoined(node, zone):
                self._hold(node, zone)
            case StreamBroke():
                self._broke(event)
            case StreamLags(node, stripe, parent):
                self._lags(node, stripe, parent)
            case NodeComplete(node):
                self._completed(node)
            case SourcePublished():
                self._complete = True
                for member in self._trees.members():
                    self._publish_if_complete(member)
            case NodePublished(node):
                self._published(node)
            case NodeFailed(node, error):
                self._fail(node, error)
            case NodeSilent(node):
                self._set_silent(node, is_silent=True)
            case NodeHeard(node):
                self._set_silent(node, is_silent=False)
            case SourceFailed(error):
                self._lose_source(error)
        commands, self._commands = self._commands, []
        return commands

    def _find(self, node: str) -> Member | None:
        """Return a node that takes part; not the source."""
        member = self._trees.find(node)
        return None if member is self._trees.source else member

    # Coming

    def _join(self, newcomers: Sequence[Newcomer]) -> None:
        fresh: dict[str, Newcomer] = {}
        for newcomer in newcomers:
            member = self._trees.find(newcomer.node)
            if member is not None and member.is_holder:  # the node had the snapshot and lost it
                self._forget(member)
            if member is None or member.is_holder:
                fresh.setdefault(newcomer.node, newcomer)
        for cohort in _group(list(fresh.values())):
            self._seat(cohort)
            self._cohorts += 1

    def _seat(self, cohort: list[Newcomer]) -> None:
        """Seat nodes with links that are alike, and let the roots of their trees follow nodes that came before."""
        trees = self._trees
        seating = seat_nodes([each.zone for each in cohort], trees.stripes)
        members: list[Member] = []
        for each in cohort:
            link = float("inf") if each.link is None else each.link
            members.append(trees.add(each.node, each.zone, link, is_complete=False, cohort=self._cohorts))
        for stripe, tree in enumerate(seating.parents):
            for child, parent in zip(members, tree, strict=True):
                if parent != ROOT:
                    trees.seat(child, stripe, members[parent])
        for stripe, tree in enumerate(seating.parents):  # last, when few of the newcomers still have free slots
            root = members[tree.index(ROOT)]
            trees.seat(root, stripe, trees.find_parent(root, stripe))
        self._commands += _hand_on([members[index] for index in seating.order], self._hand_on)

    def _hold(self, node: str, zone: str) -> None:
        if self._trees.find(node) is None:
            self._trees.add(node, zone, float("inf"), is_complete=True).is_holder = True

    # Going on

    def _completed(self, node: str) -> None:
        member = self._find(node)
        if member is not None and not member.is_complete:
            member.is_complete = True
            member.reseats.clear()
            for stripe in range(self._trees.stripes):
                self._trees.unseat(member, stripe)
            self._publish_if_complete(member)

    def _publish_if_complete(self, member: Member) -> None:
        if self._complete and member.is_complete and not (member.is_publishing or member.is_holder):
            member.is_publishing = True
            self._commands.append(Publish(member.name))

    def _published(self, node: str) -> None:
        member = self._find(node)
        if member is not None and member.is_publishing:
            member.is_publishing = False
            member.is_holder = True
            self._commands.append(Finish(node, None))

    def _set_silent(self, node: str, *, is_silent: bool) -> None:
        """Seat nobody below a silent node. Its children tell if bytes do not come: its streams may be well."""
        member = self._find(node)
        if member is None:
            return
        member.is_silent = is_silent
        self._trees.update(member)
        if not is_silent:
            for stripe in sorted(member.reseats):
                self._tell_seat(member, stripe)
            member.reseats.clear()

    # Trouble

    def _broke(self, event: StreamBroke) -> None:
        member, parent = self._find(event.node), self._trees.find(event.parent)
        stripe = event.stripe
        if member is None or member.is_complete:
            return
        if parent is None or member.parents[stripe] is not parent:
            self._tell_seat(member, stripe)  # the node has not been told yet, or was told in the wrong order
            return
        if event.next_unit > member.next_units[stripe]:
            member.tries[stripe] = 0
        member.next_units[stripe] = event.next_unit
        member.tries[stripe] += 1
        tries = member.tries[stripe]
        from_source = parent is self._trees.source
        if tries >= MAX_SOURCE_TRIES + _PEER_TRIES or (from_source and tries >= MAX_SOURCE_TRIES):
            self._leave(member, event.error)
            return
        if from_source:
            self._tell_seat(member, stripe)
            return
        member.refused.add(parent)
        self._trees.unseat(member, stripe)
        if tries >= _PEER_TRIES:
            self._move(member, stripe, self._trees.source)
        else:
            self._move(member, stripe, self._trees.find_parent(member, stripe))
        is_wrong = isinstance(event.error, IntegrityError)
        if self._is_believed(member, parent) and (is_wrong or self._is_accused(parent, member, _BROKE)):
            parent.is_banned = True
            self._trees.update(parent)
            self._move_children(parent)

    def _lags(self, node: str, stripe: int, parent_name: str) -> None:
        """Move the children of a node that is slow to several of them, or the one that complains again.

        A first complaint may be the child's own fault, and each move costs others a part of their link.
        """
        member, parent = self._find(node), self._find(parent_name)
        if member is None or parent is None or member.is_complete:
            return
        if member.parents[stripe] is not parent:
            self._tell_seat(member, stripe)
            return
        is_repeated = stripe in member.complaints
        member.complaints.add(stripe)
        if self._is_trouble_above(parent, stripe) or not self._is_believed(member, parent):
            return
        if self._is_accused(parent, member, _LAGS) and self._slow * _MAX_SLOW_PART < len(self._trees.members()):
            self._slow += 1
            self._trees.mark_slow(parent)
            self._move_children(parent)
        elif is_repeated:
            member.refused.add(parent)
            self._trees.unseat(member, stripe)
            self._move(member, stripe, self._trees.find_parent(member, stripe))

    def _is_trouble_above(self, member: Member, stripe: int) -> bool:
        """Return whether a node, or one above it, gets a stripe too slowly itself."""
        above: Member | None = member
        while above is not None:
            if stripe in above.complaints:
                return True
            above = above.parents[stripe]
        return False

    def _is_believed(self, member: Member, parent: Member) -> bool:
        if len(member.accused | {parent.name}) > _MAX_ACCUSED:
            return False
        member.accused.add(parent.name)
        return True

    def _is_accused(self, parent: Member, member: Member, kind: str) -> bool:
        accusers = parent.accusers.setdefault(kind, set())
        accusers.add(member.name)
        return len(accusers) >= _ENOUGH_ACCUSERS

    def _move_children(self, parent: Member) -> None:
        """Seat the children of a node elsewhere.

        The child that has most below itself takes the node's own place, where the slot is free or nearly so; and it
        can be seated there in any case, which is more than can be said of others' slots: those may be below the child.
        """
        for stripe in range(self._trees.stripes):
            children = sorted(parent.children[stripe], key=lambda child: -len(child.children[stripe]))
            for child in children:
                self._trees.unseat(child, stripe)
            self._seat_orphans(children, stripe, parent.parents[stripe])

    def _seat_orphans(self, orphans: list[Member], stripe: int, above: Member | None) -> None:
        for number, child in enumerate(orphans):
            if number == 0 and above is not None and self._trees.can_adopt(above, child, stripe):
                self._move(child, stripe, above)
            else:
                self._move(child, stripe, self._trees.find_parent(child, stripe))

    def _move(self, child: Member, stripe: int, parent: Member) -> None:
        self._trees.seat(child, stripe, parent)
        self._tell_seat(child, stripe)

    def _tell_seat(self, member: Member, stripe: int) -> None:
        parent = member.parents[stripe]
        if member.is_silent:
            member.reseats.add(stripe)
        elif parent is not None:
            self._commands.append(Reseat(member.name, stripe, parent.name))

    # Leaving

    def _fail(self, node: str, error: HubdistError) -> None:
        member = self._find(node)
        if member is not None:
            self._leave(member, error)

    def _leave(self, member: Member, error: HubdistError) -> None:
        if not member.is_holder:
            self._commands.append(Finish(member.name, error))
        self._forget(member)

    def _forget(self, member: Member) -> None:
        above = list(member.parents)
        orphans = [sorted(each, key=lambda child: -len(child.children[at])) for at, each in enumerate(member.children)]
        for child, stripe in member.all_children():
            self._trees.unseat(child, stripe)
        self._slow -= member.is_slow
        self._trees.remove(member)
        for stripe, children in enumerate(orphans):
            self._seat_orphans(children, stripe, above[stripe])

    def _lose_source(self, error: HubdistError) -> None:
        """Give up all nodes that may lack units. Nobody takes their children, for these are given up too."""
        given_up = [member for member in self._trees.members() if not (member.is_publishing or member.is_holder)]
        for member in given_up:
            for child, stripe in member.all_children():
                self._trees.unseat(child, stripe)
        for member in given_up:
            self._leave(member, error)


def _group(newcomers: Sequence[Newcomer]) -> list[list[Newcomer]]:
    """Group nodes whose links are alike, fastest first, so that no node waits for one with a slower link."""
    cohorts: list[list[Newcomer]] = []
    fastest = 0.0
    for newcomer in sorted(newcomers, key=lambda each: (-(each.link or 0.0), not each.is_proven)):
        link = newcomer.link or 0.0
        if not cohorts or link < _SAME_LINK * fastest:
            cohorts.append([])
            fastest = link
        cohorts[-1].append(newcomer)
    return cohorts


def _parent_names(member: Member) -> tuple[str, ...]:
    return tuple(parent.name for parent in member.parents if parent is not None)


def _hand_on(members: list[Member], fan: int | None) -> list[StreamCommand]:
    """Return the seats of nodes, most urgent first; those of later nodes below those of earlier ones."""
    if fan is None:
        return [Follow(member.name, _parent_names(member)) for member in members]
    seats: dict[int, Follow] = {}
    for number in reversed(range(len(members))):
        first = fan * (number + 1)
        below = tuple(seats[at] for at in range(first, min(first + fan, len(members))))
        seats[number] = Follow(members[number].name, _parent_names(members[number]), below)
    return [seats[number] for number in range(min(fan, len(members)))]
