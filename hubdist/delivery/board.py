"""What a delivery knows of its nodes and chunks, kept consistent at every change.

Sets of nodes and sets of chunks are integers with a bit for each, so that thousands of nodes are told apart by a few
machine instructions.
"""

from __future__ import annotations

from hubdist.delivery.events import Command, Fetch, Withdraw
from hubdist.delivery.members import Member, Role, bits, turned

_LOOKED_AT = 4
"""Sources that are compared, least loaded first."""


class Board:
    """Who has which chunk, who lacks it, and what is under way.

    Args:
        source: What has all chunks.
        is_place: Nodes read the source themselves: nothing is offered there.

    Attributes:
        members: Nodes by name, without those that left.
        order: All that ever were; a node's place here is its bit.
        commands: To be carried out.
        receiving: Nodes that lack or fetch chunks.
        publishing: Nodes that have all, and publish.
        hungry: Nodes that may fetch another chunk.
        open: Nodes that may be read by another.
        showing: Nodes that have something on offer.
        unfit: Nodes that could not read the source.
        barred: Nodes that sent wrong bytes.
        lacking: For each chunk, the nodes that lack it and do not fetch it.
        offered: For each chunk, the nodes that have it on offer; without the source.
        held: For each chunk, the nodes that have it on their disks; without the source.
        coming: For each chunk, how many offers are under way; without the source's.
        rescued: Chunk -> nodes that shall have it from the source.
        peered: Chunks that a node has.
        warm: Chunks that a node has on offer.
        cold: Chunks that somebody lacks, and that are neither on offer nor about to be.
        fed: Nodes that may have got room for another fetch; looked at when an event has been taken in.
        served: Nodes that may have got something for others.
    """

    def __init__(self, source: Member, *, is_place: bool) -> None:
        self.source = source
        self.is_place = is_place
        self.members: dict[str, Member] = {}
        self.order: list[Member] = []
        self.commands: list[Command] = []
        self.receiving = 0
        self.publishing = 0
        self.hungry = 0
        self.open = 0
        self.showing = 0
        self.unfit = 0
        self.barred = 0
        self.lacking: list[int] = []
        self.offered: list[int] = []
        self.held: list[int] = []
        self.coming: list[int] = []
        self.rescued: dict[int, int] = {}
        self.peered = 0
        self.warm = 0
        self.cold = 0
        self.fed: list[Member] = []
        self.served: list[Member] = []
        self._turn = 0

    @property
    def all_chunks(self) -> int:
        """The set of all chunks so far."""
        return (1 << len(self.lacking)) - 1

    @property
    def for_source(self) -> int:
        """Chunks that the source is asked for."""
        return self.cold | sum(1 << chunk for chunk in self.rescued)

    def known(self, name: str) -> Member | None:
        """The source or a node that has not left."""
        return self.source if name == self.source.name else self.members.get(name)

    def members_of(self, nodes: int) -> list[Member]:
        """The members of a set."""
        return [self.order[index] for index in bits(nodes)]

    def next_of(self, nodes: int) -> Member:
        """One of these nodes, in turns."""
        index = turned(nodes, self._turn)
        self._turn = (index + 1) % len(self.order)
        return self.order[index]

    def least_busy(self, nodes: int) -> Member:
        """The one of a few of these nodes that has sent least; it is the next to send, or to keep what it gets."""
        best = self.next_of(nodes)
        for _ in range(_LOOKED_AT - 1):
            nodes &= ~best.bit
            if not nodes:
                break
            other = self.order[turned(nodes, self._turn)]
            if other.sent < best.sent:
                best = other
        return best

    # Nodes and chunks

    def add(self, member: Member) -> None:
        """A node comes; its bit is its place in the order."""
        self.members[member.name] = member
        self.order.append(member)
        self.open |= member.bit
        if member.role is Role.HOLDING:
            member.holds = self.all_chunks
            for chunk in range(len(self.lacking)):
                self.have(member, chunk)
            return
        member.lacks = self.all_chunks
        self.receiving |= member.bit
        self.hungry |= member.bit
        for chunk in range(len(self.lacking)):
            self.lacking[chunk] |= member.bit
            self._tend(chunk)
        self.fed.append(member)

    def add_chunks(self, count: int) -> None:
        """All nodes that receive lack further chunks."""
        for _ in range(count):
            chunk = len(self.lacking)
            self.lacking.append(self.receiving)
            self.offered.append(0)
            self.held.append(0)
            self.coming.append(0)
            for member in self.members_of(self.receiving):
                member.lacks |= 1 << chunk
            self._tend(chunk)
        self.fed.extend(self.members_of(self.receiving & self.hungry))

    def complete(self, member: Member) -> None:
        """A node has all chunks."""
        member.role = Role.PUBLISHING
        self.receiving &= ~member.bit
        self.hungry &= ~member.bit
        self.publishing |= member.bit

    def published(self, member: Member) -> None:
        """A node has the snapshot."""
        member.role = Role.HOLDING
        self.publishing &= ~member.bit

    def forget(self, member: Member) -> None:
        """A node leaves; who read from it lacks those chunks again."""
        del self.members[member.name]
        for chunk in list(member.reads):
            self.end_read(member, chunk)
        for chunk, readers in list(member.readers.items()):
            for reader in self.members_of(readers):
                self.end_read(reader, chunk, told=False)
                self.lack(reader, chunk)
        for chunk in range(len(self.lacking)):
            self.lacking[chunk] &= ~member.bit
            self.offered[chunk] &= ~member.bit
            self.have_not(member, chunk)
        for chunk in bits(member.offering):
            self.coming[chunk] -= 1
        member.offers = member.offering = 0
        for chunk in bits(member.only_source):
            self._end_rescue(member, chunk)
        self.showing &= ~member.bit
        self.receiving &= ~member.bit
        self.publishing &= ~member.bit
        self.hungry &= ~member.bit
        self.open &= ~member.bit
        for chunk in range(len(self.lacking)):
            self._tend(chunk)
            self.drop_if_unwanted(chunk)

    def bar(self, member: Member) -> None:
        """Do not ask a node again: it sent wrong bytes."""
        member.barred = True
        self.barred |= member.bit
        self.open &= ~member.bit
        for chunk in bits(member.holds):
            self.have_not(member, chunk)
        for chunk in bits(member.offers):
            self.unlist(member, chunk)

    # Who has and who lacks a chunk

    def have(self, member: Member, chunk: int) -> None:
        """A node has a chunk on its disk, for others too."""
        self.held[chunk] |= member.bit
        self.peered |= 1 << chunk

    def have_not(self, member: Member, chunk: int) -> None:
        """A node is not asked for a chunk."""
        self.held[chunk] &= ~member.bit
        if not self.held[chunk]:
            self.peered &= ~(1 << chunk)

    def lack(self, member: Member, chunk: int) -> None:
        """A node did not get a chunk."""
        member.lacks |= 1 << chunk
        self.lacking[chunk] |= member.bit
        self._tend(chunk)
        self.fed.append(member)

    def rescue(self, member: Member, chunk: int) -> None:
        """Let a node have a chunk from the source and from nobody else."""
        member.lacks &= ~(1 << chunk)
        member.only_source |= 1 << chunk
        self.lacking[chunk] &= ~member.bit
        self.rescued[chunk] = self.rescued.get(chunk, 0) | member.bit
        self._tend(chunk)

    def _end_rescue(self, member: Member, chunk: int) -> None:
        member.only_source &= ~(1 << chunk)
        self.rescued[chunk] &= ~member.bit
        if not self.rescued[chunk]:
            del self.rescued[chunk]

    def _tend(self, chunk: int) -> None:
        """Note whether a chunk is on offer or cold."""
        flag = 1 << chunk
        self.warm = self.warm | flag if self.offered[chunk] else self.warm & ~flag
        if self.lacking[chunk] and not self.offered[chunk] and not self.coming[chunk]:
            self.cold |= flag
        else:
            self.cold &= ~flag

    # Offers

    def begin_offer(self, member: Member, chunk: int) -> None:
        """A node was told to offer a chunk."""
        member.offering |= 1 << chunk
        if member is not self.source:
            self.coming[chunk] += 1
            self._tend(chunk)

    def end_offering(self, member: Member, chunk: int) -> None:
        """It has answered."""
        member.offering &= ~(1 << chunk)
        if member is not self.source:
            self.coming[chunk] -= 1
            self._tend(chunk)

    def list_offer(self, member: Member, chunk: int) -> None:
        """A node has a chunk on offer for others, as long as somebody lacks it."""
        member.offers |= 1 << chunk
        self.offered[chunk] |= member.bit
        self.showing |= member.bit
        self._tend(chunk)
        if member.barred or not self.lacking[chunk]:
            self.unlist(member, chunk)
        self.served.append(member)

    def unlist(self, member: Member, chunk: int) -> None:
        """Let an offer take no further readers; withdraw it when it has none."""
        if not member.offers >> chunk & 1:
            return
        member.offers &= ~(1 << chunk)
        if member is not self.source:
            self.offered[chunk] &= ~member.bit
            if not member.offers:
                self.showing &= ~member.bit
            self._tend(chunk)
        if chunk not in member.readers:
            self.commands.append(Withdraw(member.name, chunk))

    def drop_if_unwanted(self, chunk: int) -> None:
        """End all nodes' offers of a chunk that nobody lacks."""
        if not self.lacking[chunk]:
            for member in self.members_of(self.offered[chunk]):
                self.unlist(member, chunk)

    def make_room(self, member: Member) -> None:
        """End an offer that nobody reads, if a further one needs its room."""
        idle = member.idle_offer()
        if idle is not None:
            self.unlist(member, idle)

    # Fetches

    def begin_read(self, member: Member, chunk: int, sender: Member, *, keep: bool) -> None:
        """A node fetches a chunk, and will have it on offer or not."""
        flag = 1 << chunk
        member.lacks &= ~flag
        if member.only_source & flag:
            self._end_rescue(member, chunk)
        self.lacking[chunk] &= ~member.bit
        if keep:
            self.make_room(member)
            member.keeps |= flag
            self.coming[chunk] += 1
        self._tend(chunk)
        member.reads[chunk] = sender
        member.down.used += 1
        sender.readers[chunk] = sender.readers.get(chunk, 0) | member.bit
        sender.up.used += 1
        sender.sent += 1
        if not member.down.has_room:
            self.hungry &= ~member.bit
        if not sender.up.has_room:
            self.open &= ~sender.bit
        self.commands.append(Fetch(member.name, chunk, sender.name, keep))

    def end_read(self, member: Member, chunk: int, *, told: bool = True) -> None:
        """A fetch is over, well or not; `told` is false where its sender is gone."""
        sender = member.reads.pop(chunk)
        if member.keeps >> chunk & 1:
            member.keeps &= ~(1 << chunk)
            self.coming[chunk] -= 1
            self._tend(chunk)
        member.down.used -= 1
        sender.up.used -= 1
        readers = sender.readers[chunk] ^ member.bit
        if readers:
            sender.readers[chunk] = readers
        else:
            del sender.readers[chunk]
            if told and not sender.offers >> chunk & 1 and not (self.is_place and sender is self.source):
                self.commands.append(Withdraw(sender.name, chunk))
        if member.role is Role.RECEIVING and member.down.has_room:
            self.hungry |= member.bit
            self.fed.append(member)
        else:
            self.hungry &= ~member.bit
        if sender.up.has_room and not sender.barred and self.members.get(sender.name) is sender:
            self.open |= sender.bit
            self.served.append(sender)
        else:
            self.open &= ~sender.bit
