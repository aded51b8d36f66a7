"""The plan: each chunk leaves the source about once, and nodes hand on what they have while they lack the rest.

A chunk that no node has is cold: one node fetches it from the source and keeps it on offer for the others. Offers are
matched with nodes that lack them whenever either side has room; where many nodes lack a chunk, the first ones that get
it keep it on offer too, so that it spreads like a tree. What is lost, or had to make room, is offered anew from the
disk of any node that has it; the source is asked again only when none has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hubdist.delivery.events import (
    ChunkArrived,
    ChunkFailed,
    ChunkOffered,
    ChunksAdded,
    Closed,
    Command,
    Event,
    Fetch,
    Finish,
    HolderJoined,
    NodeFailed,
    NodeJoined,
    NodePublished,
    Offer,
    OfferFailed,
    Publish,
    SourceFailed,
    Withdraw,
)
from hubdist.delivery.members import Member, Role, Window, bits, turned
from hubdist.errors import HubdistError, IntegrityError

MAX_TRIES = 3
"""How often a chunk is offered or fetched before its node is given up."""

_FEW_NODES = 12
"""Up to as many nodes, wide windows keep all links busy; beyond, a chunk spreads over many steps, and what counts is
that a step is quick: few fetches share a link."""

_FAN_OUT = 4
"""Nodes that one offer of a chunk shall serve."""

_STEP_BYTES = 4 << 20
"""Bytes under way to a node, and from it, if there are many: what fills a link while an answer is on its way."""

_SEED_BYTES = 12 << 20
"""Bytes under way from the source; but at least a chunk for each of few nodes, for their links are shared by peers."""

_PEER_TRIES = 2
"""Failed fetches from peers after which a node gets a chunk from the source."""

_MOST_ACCUSED = 2
"""A node that finds wrong bytes of more peers than this is not believed."""

_FEW_SENDERS = 8
_LOOKED_AT = 4
"""Sources that are compared, least loaded first."""


class Delivery:
    """One model's way to a set of nodes.

    Not for use by several threads: the coordinator's event loop owns it.

    Args:
        chunk_bytes: Size in bytes of every chunk, in order.
        source: Name of what has all chunks: the driver's node, or a place that nodes read themselves.
        nodes: How many nodes are expected.
        node_window_bytes: Most bytes in flight to a node, and most that it has on offer; one chunk is always allowed.
        source_window_bytes: Most bytes on offer at the source; one chunk is always allowed.
        largest_bytes: Size of the largest chunk, also of those that come later.
        is_place: Nodes read the source themselves: nothing is offered there.
        closed: There are no further chunks.
    """

    def __init__(
        self,
        chunk_bytes: Sequence[int],
        *,
        source: str,
        nodes: int,
        node_window_bytes: int,
        source_window_bytes: int,
        largest_bytes: int | None = None,
        is_place: bool = False,
        closed: bool = True,
    ) -> None:
        self._closed = closed
        self._is_place = is_place
        largest = max(largest_bytes or 0, *chunk_bytes, 1)
        self._most = max(1, node_window_bytes // largest)
        wide = nodes <= _FEW_NODES
        most = 4 * nodes if is_place else max(1, source_window_bytes // largest)
        seeds = most if is_place else min(most, max(nodes if wide else 4, _SEED_BYTES // largest))
        self._source = Member(source, 0, Role.HOLDING, Window(0, 0), Window(seeds, seeds), most)
        self._slots = max(1, self._most - 2 if wide else min(self._most, max(2, _STEP_BYTES // largest)))
        self._members: dict[str, Member] = {}
        self._order: list[Member] = []
        self._receiving = 0
        """Nodes that lack or fetch chunks."""
        self._publishing = 0
        self._hungry = 0
        """Nodes that may fetch another chunk."""
        self._open = 0
        """Nodes that may be read by another."""
        self._unfit = 0
        """Nodes that could not read the source."""
        self._barred = 0
        """Nodes that sent wrong bytes."""
        self._showing = 0
        """Nodes that have something on offer."""
        self._lacking: list[int] = []
        """For each chunk, the nodes that lack it and do not fetch it."""
        self._offered: list[int] = []
        """For each chunk, the nodes that have it on offer; without the source."""
        self._held: list[int] = []
        """For each chunk, the nodes that have it on their disks; without the source."""
        self._peered = 0
        """Chunks that a node has."""
        self._coming: list[int] = []
        """For each chunk, how many offers are under way; without the source's."""
        self._warm = 0
        """Chunks that a node has on offer."""
        self._cold = 0
        """Chunks that somebody lacks, and that are neither on offer nor about to be."""
        self._rescued: dict[int, int] = {}
        """Chunk -> nodes that shall have it from the source."""
        self._offer_tries: Counter[int] = Counter()
        self._turn = 0
        self._seed_turn = 0
        self._fed: list[Member] = []
        """Nodes that may have got room for another fetch; looked at when an event has been taken in."""
        self._served: list[Member] = []
        """Nodes that may have got something for others."""
        self._add(chunk_bytes)

    @property
    def active(self) -> bool:
        """True while a node that joined is neither published nor failed."""
        return bool(self._receiving | self._publishing)

    def handle(self, event: Event) -> list[Command]:  # noqa: C901, PLR0912 - one case for each event
        """Take in what happened; return what to do now. Events of nodes that are done are ignored."""
        out: list[Command] = []
        match event:
            case ChunkArrived(node, chunk, source, seconds):
                self._arrived(node, chunk, source, seconds, out)
            case ChunkOffered(node, chunk):
                self._opened(node, chunk, out)
            case ChunkFailed(node, chunk, source, error):
                self._chunk_failed(node, chunk, source, error, out)
            case OfferFailed(node, chunk, error):
                self._offer_failed(node, chunk, error, out)
            case NodeJoined(node):
                self._join(node, out)
            case HolderJoined(node):
                self._hold(node)
            case ChunksAdded(sizes):
                self._add(sizes)
            case Closed():
                self._closed = True
                for member in self._of(self._receiving):
                    self._publish_if_complete(member, out)
            case NodeFailed(node, error):
                if node in self._members:
                    self._leave(self._members[node], error, out)
            case NodePublished(node):
                self._published(node, out)
            case SourceFailed(error):
                for member in self._of(self._receiving):
                    self._leave(member, error, out)
        self._match(out)
        return out

    # Nodes and chunks that come

    def _join(self, node: str, out: list[Command]) -> None:
        member = self._members.get(node)
        if member is not None and member.role is not Role.HOLDING:
            return
        if member is not None:  # it had the snapshot and lost it
            self._forget(member, out)
        member = self._make(node, Role.RECEIVING)
        member.lacks = (1 << len(self._lacking)) - 1
        self._receiving |= member.bit
        self._hungry |= member.bit
        for chunk in range(len(self._lacking)):
            self._lacking[chunk] |= member.bit
            self._tend(chunk)
        self._fed.append(member)
        self._publish_if_complete(member, out)

    def _hold(self, node: str) -> None:
        if node in self._members or node == self._source.name:
            return
        member = self._make(node, Role.HOLDING)
        member.holds = (1 << len(self._lacking)) - 1
        for chunk in range(len(self._lacking)):
            self._have(member, chunk)

    def _make(self, node: str, role: Role) -> Member:
        down, up = Window(self._slots, self._most), Window(self._slots, self._most)
        member = Member(node, 1 << len(self._order), role, down, up, self._most)
        self._members[node] = member
        self._order.append(member)
        self._open |= member.bit
        return member

    def _add(self, sizes: Sequence[int]) -> None:
        for _ in sizes:
            chunk = len(self._lacking)
            self._lacking.append(self._receiving)
            self._offered.append(0)
            self._held.append(0)
            self._coming.append(0)
            for member in self._of(self._receiving):
                member.lacks |= 1 << chunk
            self._tend(chunk)
        self._fed.extend(self._of(self._receiving & self._hungry))

    # Chunks that arrive

    def _arrived(self, node: str, chunk: int, source: str, seconds: float, out: list[Command]) -> None:
        member = self._members.get(node)
        if member is None or chunk not in member.reads or member.reads[chunk].name != source:
            return
        sender = member.reads[chunk]
        keeps = member.keeps >> chunk & 1
        member.down.learn(seconds)
        sender.up.learn(seconds)
        self._end_read(member, chunk, out)
        member.holds |= 1 << chunk
        if not member.barred:
            self._have(member, chunk)
        if keeps:
            self._list_offer(member, chunk, out)
        if sender is self._source and not self._rescued.get(chunk):
            self._unlist(sender, chunk, out)
        self._drop_if_unwanted(chunk, out)
        self._publish_if_complete(member, out)

    def _publish_if_complete(self, member: Member, out: list[Command]) -> None:
        if self._closed and not member.lacks and not member.reads and not member.only_source:
            member.role = Role.PUBLISHING
            self._receiving &= ~member.bit
            self._hungry &= ~member.bit
            self._publishing |= member.bit
            out.append(Publish(member.name))

    def _published(self, node: str, out: list[Command]) -> None:
        member = self._members.get(node)
        if member is not None and member.role is Role.PUBLISHING:
            member.role = Role.HOLDING
            self._publishing &= ~member.bit
            out.append(Finish(node, None))

    # Offers

    def _opened(self, node: str, chunk: int, out: list[Command]) -> None:
        member = self._known(node)
        if member is None or not member.offering >> chunk & 1:
            return
        member.offering &= ~(1 << chunk)
        if member is self._source:
            del self._offer_tries[chunk]
            member.offers |= 1 << chunk
        else:
            self._coming[chunk] -= 1
            self._list_offer(member, chunk, out)

    def _list_offer(self, member: Member, chunk: int, out: list[Command]) -> None:
        member.offers |= 1 << chunk
        self._offered[chunk] |= member.bit
        self._showing |= member.bit
        self._tend(chunk)
        if member.barred or not self._lacking[chunk]:
            self._unlist(member, chunk, out)
        self._served.append(member)

    def _unlist(self, member: Member, chunk: int, out: list[Command]) -> None:
        """Let an offer take no further readers; withdraw it when it has none."""
        if not member.offers >> chunk & 1:
            return
        member.offers &= ~(1 << chunk)
        if member is not self._source:
            self._offered[chunk] &= ~member.bit
            if not member.offers:
                self._showing &= ~member.bit
            self._tend(chunk)
        if chunk not in member.readers:
            out.append(Withdraw(member.name, chunk))

    def _drop_if_unwanted(self, chunk: int, out: list[Command]) -> None:
        if not self._lacking[chunk]:
            for member in self._of(self._offered[chunk]):
                self._unlist(member, chunk, out)

    def _offer_failed(self, node: str, chunk: int, error: HubdistError, out: list[Command]) -> None:
        member = self._known(node)
        if member is None or not member.offering >> chunk & 1:
            return
        member.offering &= ~(1 << chunk)
        if member is self._source:
            self._offer_tries[chunk] += 1
            if self._offer_tries[chunk] >= MAX_TRIES:
                for receiver in self._of(self._receiving):
                    self._leave(receiver, error, out)
            return
        self._coming[chunk] -= 1
        self._have_not(member, chunk)
        self._tend(chunk)
        if isinstance(error, IntegrityError):
            self._bar(member, out)

    # Failures

    def _chunk_failed(self, node: str, chunk: int, source: str, error: HubdistError, out: list[Command]) -> None:
        member = self._members.get(node)
        if member is None or chunk not in member.reads or member.reads[chunk].name != source:
            return
        sender = member.reads[chunk]
        self._end_read(member, chunk, out)
        self._lack(member, chunk)
        self._unlist(sender, chunk, out)  # the object may be lost: the next try gets a new one
        member.tries[chunk] += 1
        if sender is self._source:
            self._unfit |= member.bit if self._is_place else 0
        elif isinstance(error, IntegrityError) and len(member.accused | {sender.name}) <= _MOST_ACCUSED:
            member.accused.add(sender.name)
            self._bar(sender, out)
        else:
            self._have_not(sender, chunk)
        if member.tries[chunk] >= MAX_TRIES + _PEER_TRIES or (
            sender is self._source and member.tries[chunk] >= MAX_TRIES
        ):
            self._leave(member, error, out)
        elif member.tries[chunk] >= _PEER_TRIES:
            self._rescue(member, chunk)

    def _rescue(self, member: Member, chunk: int) -> None:
        """Let a node have a chunk from the source and from nobody else."""
        member.lacks &= ~(1 << chunk)
        member.only_source |= 1 << chunk
        self._lacking[chunk] &= ~member.bit
        self._rescued[chunk] = self._rescued.get(chunk, 0) | member.bit
        self._tend(chunk)

    def _bar(self, member: Member, out: list[Command]) -> None:
        """Do not ask a node again: it sent wrong bytes."""
        member.barred = True
        self._barred |= member.bit
        self._open &= ~member.bit
        for chunk in bits(member.holds):
            self._have_not(member, chunk)
        for chunk in bits(member.offers):
            self._unlist(member, chunk, out)

    def _leave(self, member: Member, error: HubdistError, out: list[Command]) -> None:
        if member.role is not Role.HOLDING:
            out.append(Finish(member.name, error))
        self._forget(member, out)

    def _forget(self, member: Member, out: list[Command]) -> None:
        del self._members[member.name]
        for chunk in list(member.reads):
            self._end_read(member, chunk, out)
        for chunk, readers in list(member.readers.items()):
            for reader in self._of(readers):
                self._end_read(reader, chunk, out, told=False)
                self._lack(reader, chunk)
        for chunk in range(len(self._lacking)):
            self._lacking[chunk] &= ~member.bit
            self._offered[chunk] &= ~member.bit
            self._have_not(member, chunk)
        for chunk in bits(member.offering):
            self._coming[chunk] -= 1
        member.offers = member.offering = 0
        self._showing &= ~member.bit
        for chunk in list(self._rescued):
            self._rescued[chunk] &= ~member.bit
        self._receiving &= ~member.bit
        self._publishing &= ~member.bit
        self._hungry &= ~member.bit
        self._open &= ~member.bit
        for chunk in range(len(self._lacking)):
            self._tend(chunk)
            self._drop_if_unwanted(chunk, out)

    # Matching those who have with those who lack

    def _match(self, out: list[Command]) -> None:
        self._spread(out)
        if self._cold & self._peered:
            self._warm_up(out)
            self._spread(out)
        if (self._source.offers or self._is_place) and self._source.up.has_room:
            self._seed(out)
        if (self._cold or self._rescued) and not self._is_place:
            self._offer_at_source(out)

    def _spread(self, out: list[Command]) -> None:
        """Match what nodes have on offer with nodes that lack it, where either side may have got room."""
        while self._fed or self._served:
            served, self._served = self._served, []
            fed, self._fed = self._fed, []
            for sender in dict.fromkeys(served):
                self._serve(sender, out)
            for member in dict.fromkeys(fed):
                self._feed(member, out)

    def _serve(self, sender: Member, out: list[Command]) -> None:
        """Let nodes fetch what a node has on offer, as long as it has room.

        The newest chunk goes first, here and in `_feed`: the rarest one, on which most of the spreading depends.
        """
        offers = sender.offers
        while offers and sender.up.has_room:
            chunk = offers.bit_length() - 1
            takers = self._lacking[chunk] & self._hungry
            if takers:
                self._fetch(self._next(takers), chunk, sender, out)
            else:
                offers ^= 1 << chunk

    def _feed(self, member: Member, out: list[Command]) -> None:
        """Let a node fetch what others have on offer, as long as it has room."""
        while self._hungry & member.bit:
            senders = self._open & self._showing
            chunks = member.lacks & self._warm
            if not senders or not chunks:
                return
            look = self._newest_of if senders.bit_count() <= _FEW_SENDERS else self._newest
            found = look(senders, chunks)
            if found is None:
                return
            self._fetch(member, found[1], found[0], out)

    def _newest_of(self, senders: int, chunks: int) -> tuple[Member, int] | None:
        """Who offers the newest of these chunks, looking at each of few senders."""
        best, most = None, 0
        for index in bits(senders):
            both = self._order[index].offers & chunks
            if both > most:
                best, most = self._order[index], both
        return None if best is None else (best, most.bit_length() - 1)

    def _newest(self, senders: int, chunks: int) -> tuple[Member, int] | None:
        """Who offers the newest of these chunks, looking at each chunk."""
        while chunks:
            chunk = chunks.bit_length() - 1
            found = self._offered[chunk] & senders
            if found:
                return self._least_busy(found), chunk
            chunks ^= 1 << chunk
        return None

    def _warm_up(self, out: list[Command]) -> None:
        """Let nodes offer cold chunks from their disks."""
        for chunk in bits(self._cold & self._peered):
            holders = self._held[chunk] & self._open
            if not holders or not self._lacking[chunk] & self._hungry:
                continue
            holder = self._least_busy(holders)
            if chunk in holder.readers:  # it was on offer a moment ago, and somebody still reads it
                self._list_offer(holder, chunk, out)
            elif holder.may_offer:
                self._make_room(holder, out)
                holder.offering |= 1 << chunk
                self._coming[chunk] += 1
                self._tend(chunk)
                out.append(Offer(holder.name, chunk))

    def _offer_at_source(self, out: list[Command]) -> None:
        """Let the source offer what no node has, a little ahead of the nodes that will fetch it."""
        source = self._source
        offers = (source.offers | source.offering).bit_count()
        ahead = 2 * source.up.size - offers
        if ahead <= 0:
            return
        room = source.most_offers - offers - len(source.readers)
        for chunk in bits(self._cold | sum(1 << chunk for chunk, nodes in self._rescued.items() if nodes)):
            if room <= 0 or ahead <= 0:
                return
            known = source.offers | source.offering
            if known >> chunk & 1 or chunk in source.readers:
                continue
            if self._held[chunk] and not self._rescued.get(chunk):
                continue
            source.offering |= 1 << chunk
            room, ahead = room - 1, ahead - 1
            out.append(Offer(source.name, chunk))

    def _seed(self, out: list[Command]) -> None:
        """Let one node fetch each cold chunk from the source, in turns, and keep it for the others."""
        source = self._source
        chunks = self._cold | sum(1 << chunk for chunk, nodes in self._rescued.items() if nodes)
        if self._is_place:
            chunks &= ~self._peered | sum(1 << chunk for chunk in self._rescued)
        else:
            for chunk in bits(source.offers & ~chunks):
                if chunk not in source.readers:
                    self._unlist(source, chunk, out)
            chunks &= source.offers
        for chunk in bits(chunks):
            if not source.up.has_room:
                return
            rescued = self._rescued.get(chunk, 0) & self._hungry
            if rescued:
                self._fetch(self._next(rescued), chunk, source, out)
                continue
            if chunk in source.readers or not self._cold >> chunk & 1 or (self._is_place and self._held[chunk]):
                continue
            taker = self._next_seed(chunk)
            if taker is not None:
                self._fetch(taker, chunk, source, out)

    def _next_seed(self, chunk: int) -> Member | None:
        """The node that fetches a cold chunk from the source, in turns of their own; None if all are busy.

        It is one that can keep the chunk for the others, if there are others; one that the source is known not to
        serve only if there is no other.
        """
        keepers = self._lacking[chunk] & ~self._barred
        keep = bool(keepers) and self._lacking[chunk].bit_count() > 1
        nodes = keepers if keep else self._lacking[chunk]
        nodes = nodes & ~self._unfit or nodes
        while nodes:
            index = turned(nodes, self._seed_turn)
            member = self._order[index]
            if member.down.has_spare_room and (member.may_offer or not keep):
                self._seed_turn = (index + 1) % len(self._order)
                return member
            nodes &= ~member.bit
        return None

    def _fetch(self, member: Member, chunk: int, sender: Member, out: list[Command]) -> None:
        flag = 1 << chunk
        member.lacks &= ~flag
        if member.only_source & flag:
            member.only_source &= ~flag
            self._rescued[chunk] &= ~member.bit
            if not self._rescued[chunk]:
                del self._rescued[chunk]
        self._lacking[chunk] &= ~member.bit
        others = self._lacking[chunk].bit_count()
        offers = self._offered[chunk].bit_count() + self._coming[chunk]
        keep = others > offers * _FAN_OUT and member.may_offer
        if keep:
            self._make_room(member, out)
            member.keeps |= flag
            self._coming[chunk] += 1
        self._tend(chunk)
        member.reads[chunk] = sender
        member.down.used += 1
        sender.readers[chunk] = sender.readers.get(chunk, 0) | member.bit
        sender.up.used += 1
        sender.sent += 1
        if not member.down.has_room:
            self._hungry &= ~member.bit
        if not sender.up.has_room:
            self._open &= ~sender.bit
        out.append(Fetch(member.name, chunk, sender.name, keep))

    def _end_read(self, member: Member, chunk: int, out: list[Command], *, told: bool = True) -> None:
        """A fetch is over, well or not."""
        sender = member.reads.pop(chunk)
        if member.keeps >> chunk & 1:
            member.keeps &= ~(1 << chunk)
            self._coming[chunk] -= 1
            self._tend(chunk)
        member.down.used -= 1
        sender.up.used -= 1
        readers = sender.readers[chunk] ^ member.bit
        if readers:
            sender.readers[chunk] = readers
        else:
            del sender.readers[chunk]
            if told and not sender.offers >> chunk & 1 and not (self._is_place and sender is self._source):
                out.append(Withdraw(sender.name, chunk))
        if member.role is Role.RECEIVING and member.down.has_room:
            self._hungry |= member.bit
            self._fed.append(member)
        else:
            self._hungry &= ~member.bit
        if sender.up.has_room and not sender.barred and self._members.get(sender.name) is sender:
            self._open |= sender.bit
            self._served.append(sender)
        else:
            self._open &= ~sender.bit

    def _make_room(self, member: Member, out: list[Command]) -> None:
        idle = member.idle_offer()
        if idle is not None:
            self._unlist(member, idle, out)

    def _lack(self, member: Member, chunk: int) -> None:
        member.lacks |= 1 << chunk
        self._lacking[chunk] |= member.bit
        self._tend(chunk)
        self._fed.append(member)

    def _have(self, member: Member, chunk: int) -> None:
        self._held[chunk] |= member.bit
        self._peered |= 1 << chunk

    def _have_not(self, member: Member, chunk: int) -> None:
        self._held[chunk] &= ~member.bit
        if not self._held[chunk]:
            self._peered &= ~(1 << chunk)

    def _tend(self, chunk: int) -> None:
        """Note whether a chunk is on offer or cold."""
        flag = 1 << chunk
        self._warm = self._warm | flag if self._offered[chunk] else self._warm & ~flag
        if self._lacking[chunk] and not self._offered[chunk] and not self._coming[chunk]:
            self._cold |= flag
        else:
            self._cold &= ~flag

    def _known(self, node: str) -> Member | None:
        return self._source if node == self._source.name else self._members.get(node)

    def _next(self, nodes: int) -> Member:
        """One of these nodes, in turns."""
        index = turned(nodes, self._turn)
        self._turn = (index + 1) % len(self._order)
        return self._order[index]

    def _least_busy(self, nodes: int) -> Member:
        """The one of a few of these nodes that has sent least; it is the next to send, or to keep what it gets."""
        best = self._next(nodes)
        for _ in range(_LOOKED_AT - 1):
            nodes &= ~best.bit
            if not nodes:
                break
            other = self._order[turned(nodes, self._turn)]
            if other.sent < best.sent:
                best = other
        return best

    def _of(self, nodes: int) -> list[Member]:
        return [self._order[index] for index in bits(nodes)]
