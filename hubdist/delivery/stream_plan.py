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
    NodeStuck,
    StreamBroke,
    StreamCommand,
    StreamEvent,
    StreamLags,
)
from hubdist.delivery.stream_repair import Repair
from hubdist.delivery.stream_trees import SAME_LINK, Member, StreamTrees
from hubdist.errors import HubdistError

_HAND_ON = 8
"""How many nodes are told their seats by the coordinator, and by each node that hands on seats to others."""


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
        self._unfinished = 0
        self._cohorts = 0
        self._commands: list[StreamCommand] = []
        self._repair = Repair(self._trees, self._commands)

    @property
    def active(self) -> bool:
        """True while a node that joined has neither published nor failed."""
        return self._unfinished > 0

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
            case StreamBroke() | StreamLags():
                self._complain(event)
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
            case NodeStuck(node):
                self._set_silent(node, is_silent=True)
                self._repair.move_children(node)
            case NodeHeard(node):
                self._set_silent(node, is_silent=False)
            case SourceFailed(error):
                self._lose_source(error)
        commands = list(self._commands)
        self._commands.clear()
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
                self._repair.forget(member)
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
        self._unfinished += len(cohort)
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
        self._repair.move_below(members[0].link)
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
            self._finish(member, None)

    def _set_silent(self, node: str, *, is_silent: bool) -> None:
        """Seat nobody below a silent node. Its children tell if bytes do not come: its streams may be well."""
        member = self._find(node)
        if member is None:
            return
        member.is_silent = is_silent
        self._trees.update(member)
        if not is_silent:
            for stripe in sorted(member.reseats):
                self._repair.tell_seat(member, stripe)
            member.reseats.clear()

    def _complain(self, event: StreamBroke | StreamLags) -> None:
        member = self._find(event.node)
        if member is None or member.is_complete:
            return
        if isinstance(event, StreamLags):
            self._repair.take_lag(member, event)
            return
        error = self._repair.take_break(member, event)
        if error is not None:
            self._leave(member, error)

    # Leaving

    def _fail(self, node: str, error: HubdistError) -> None:
        member = self._find(node)
        if member is not None:
            self._leave(member, error)

    def _leave(self, member: Member, error: HubdistError) -> None:
        if not member.is_holder:
            self._finish(member, error)
        self._repair.forget(member)

    def _finish(self, member: Member, error: HubdistError | None) -> None:
        self._unfinished -= 1
        self._commands.append(Finish(member.name, error))

    def _lose_source(self, error: HubdistError) -> None:
        """Give up all nodes that may lack units. Nobody takes their children, for these are given up too."""
        given_up = [member for member in self._trees.members() if not (member.is_publishing or member.is_holder)]
        for member in given_up:
            for stripe in range(self._trees.stripes):
                self._trees.unseat(member, stripe)
        for member in given_up:
            self._leave(member, error)


def _group(newcomers: Sequence[Newcomer]) -> list[list[Newcomer]]:
    """Group nodes whose links are alike, fastest first, so that no node waits for one with a slower link."""
    cohorts: list[list[Newcomer]] = []
    fastest = 0.0
    for newcomer in sorted(newcomers, key=lambda each: (-(each.link or 0.0), not each.is_proven)):
        link = newcomer.link or 0.0
        if not cohorts or link < SAME_LINK * fastest:
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
