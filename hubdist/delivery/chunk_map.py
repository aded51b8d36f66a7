"""What a delivery knows of its nodes and chunks, kept consistent at every change.

Sets of nodes and sets of chunks are integers with a bit for each, so that thousands of nodes are told apart by a few
machine instructions.
"""

from __future__ import annotations

from hubdist.delivery.events import Command, Fetch
from hubdist.delivery.peers import Peer, Role, ascending, descending, turned, without

_LOOKED_AT = 4
"""Senders that are compared, to take the least loaded one."""


class ChunkMap:
    """Who has which chunk, who lacks it, and what is under way.

    Args:
        source: What has all chunks.

    Attributes:
        members: Nodes by name, without those that left.
        order: All that ever were; a node's place here is its bit.
        commands: To be carried out.
        receiving: Nodes that lack or fetch chunks.
        publishing: Nodes that have all, and publish.
        hungry: Nodes that may fetch another chunk.
        roomy: Nodes that may fetch another chunk that matters more than others.
        open: Nodes that may be read by another.
        unfit: Nodes that could not read the source.
        barred: Nodes that sent wrong bytes.
        lacking: For each chunk, the nodes that lack it and do not fetch it.
        held: For each chunk, the nodes that others may fetch it from; without the source.
        wanted: Chunks that somebody lacks.
        levels: Chunks by how many nodes have or fetch them: none, 1, 2 to 3, 4 to 7, and so on. Nodes that were barred
            do not count, nor does the source.
        rescued: Chunk -> nodes that shall have it from the source.
        seeding: Node -> how many chunks it fetches from the source.
        fed: Nodes that may have got room for another fetch; looked at when an event has been taken in.
        served: Nodes that have got room to send.
        fresh: Nodes and chunks that they have just got.
    """

    def __init__(self, source: Peer) -> None:
        self.source = source
        self.members: dict[str, Peer] = {}
        self.order: list[Peer] = []
        self.commands: list[Command] = []
        self.receiving = 0
        self.publishing = 0
        self.hungry = 0
        self.roomy = 0
        self.open = 0
        self.unfit = 0
        self.barred = 0
        self.lacking: list[int] = []
        self.held: list[int] = []
        self.wanted = 0
        self.levels = [0]
        self.rescued: dict[int, int] = {}
        self.seeding: dict[Peer, int] = {}
        self.fed: list[Peer] = []
        self.served: list[Peer] = []
        self.fresh: list[tuple[Peer, int]] = []
        self._copies: list[int] = []
        self._turn = 0

    @property
    def all_chunks(self) -> int:
        """The set of all chunks so far."""
        return (1 << len(self.lacking)) - 1

    @property
    def cold(self) -> int:
        """Chunks that somebody lacks and that no node has or fetches."""
        return self.levels[0] & self.wanted

    @property
    def for_source(self) -> int:
        """Chunks that the source is asked for: cold ones, and those that failed elsewhere."""
        return self.cold | sum(1 << chunk for chunk in self.rescued)

    @property
    def seed_share(self) -> float:
        """Links that what is under way from the source can fill: each fetch gets an equal part of its node's."""
        share = 0.0
        for member, count in self.seeding.items():
            share += count / member.down.used
        return share

    def known(self, name: str) -> Peer | None:
        """The source or a node that has not left."""
        return self.source if name == self.source.name else self.members.get(name)

    def members_of(self, nodes: int) -> list[Peer]:
        """The members of a set."""
        return [self.order[index] for index in descending(nodes)]

    def next_of(self, nodes: int) -> Peer:
        """One of these nodes, in turns."""
        self._turn = turned(nodes, self._turn)
        return self.order[self._turn]

    def some_of(self, nodes: int, most: int) -> int:
        """As many of these nodes, in turns."""
        if nodes.bit_count() <= most:
            return nodes
        some = 0
        for _ in range(most):
            some |= self.next_of(nodes ^ some).bit
        return some

    def least_busy(self, nodes: int) -> Peer:
        """The one of a few of these nodes that sends least at the moment, then the one that has sent least so far."""
        best = self.next_of(nodes)
        for _ in range(_LOOKED_AT - 1):
            nodes = without(nodes, best.bit)
            if not nodes:
                break
            other = self.order[turned(nodes, self._turn)]
            if (other.up.used, other.sent) < (best.up.used, best.sent):
                best = other
        return best

    # Nodes and chunks

    def add(self, member: Peer) -> None:
        """A node comes; its bit is its place in the order."""
        self.members[member.name] = member
        self.order.append(member)
        self.open |= member.bit
        if member.role is Role.HOLDING:
            for chunk in range(len(self.lacking)):
                self.have(member, chunk)
            self.served.append(member)
            return
        member.lacks = self.all_chunks
        self.wanted = self.all_chunks
        self.receiving |= member.bit
        self.hungry |= member.bit
        self.roomy |= member.bit
        for chunk in range(len(self.lacking)):
            self.lacking[chunk] |= member.bit
        self.fed.append(member)

    def add_chunks(self, count: int) -> None:
        """All nodes that receive lack further chunks."""
        for _ in range(count):
            flag = 1 << len(self.lacking)
            self.lacking.append(self.receiving)
            self.held.append(0)
            self._copies.append(0)
            self.levels[0] |= flag
            self.wanted |= flag if self.receiving else 0
            for member in self.members_of(self.receiving):
                member.lacks |= flag

    def complete(self, member: Peer) -> None:
        """A node has all chunks."""
        member.role = Role.PUBLISHING
        self.receiving = without(self.receiving, member.bit)
        self.hungry = without(self.hungry, member.bit)
        self.roomy = without(self.roomy, member.bit)
        self.publishing |= member.bit

    def published(self, member: Peer) -> None:
        """A node has the snapshot."""
        member.role = Role.HOLDING
        self.publishing = without(self.publishing, member.bit)

    def forget(self, member: Peer) -> None:
        """A node leaves; who read from it lacks those chunks again."""
        del self.members[member.name]
        for chunk in list(member.reads):
            self.end_read(member, chunk)
        self._drop_reads_from(member)
        for chunk in ascending(member.holds):
            self.have_not(member, chunk)
        for chunk in range(len(self.lacking)):
            self._lacks_no_more(member, chunk)
        for chunk in ascending(member.only_source):
            self._end_rescue(member, chunk)
        self.receiving = without(self.receiving, member.bit)
        self.publishing = without(self.publishing, member.bit)
        self.hungry = without(self.hungry, member.bit)
        self.roomy = without(self.roomy, member.bit)
        self.open = without(self.open, member.bit)

    def silence(self, member: Peer) -> None:
        """Do not count on a node for now: it gives no answer.

        What it has counts as not there; what is under way to it or from it is lacked again, and asked of others. An
        answer that comes after all is welcome, see `late`.
        """
        member.silent = True
        member.resting = member.holds
        for chunk in ascending(member.holds):
            self.have_not(member, chunk)
        self.open = without(self.open, member.bit)
        for chunk in list(member.reads):
            self.end_read(member, chunk)
            self.lack(member, chunk)
        self.hungry = without(self.hungry, member.bit)
        self.roomy = without(self.roomy, member.bit)
        self._drop_reads_from(member)

    def hear(self, member: Peer) -> None:
        """Count on a node again."""
        member.silent = False
        chunks, member.resting = member.resting, 0
        if not member.barred:
            for chunk in ascending(chunks):
                self.have(member, chunk)
        if member.up.has_room and not member.barred:
            self.open |= member.bit
            self.served.append(member)
        if member.role is Role.RECEIVING:
            self._look_at_room(member)
            self.fed.append(member)

    def late(self, member: Peer, chunk: int) -> bool:
        """A chunk came that a node was given up for, or that was given up for it; True if it still lacked it."""
        flag = 1 << chunk
        if not (member.lacks | member.only_source) & flag:
            return False
        member.lacks &= ~flag
        if member.only_source & flag:
            self._end_rescue(member, chunk)
        self._lacks_no_more(member, chunk)
        return True

    def _drop_reads_from(self, sender: Peer) -> None:
        for reader in self.members_of(self.receiving):
            for chunk in [chunk for chunk, other in reader.reads.items() if other is sender]:
                self.end_read(reader, chunk)
                self.lack(reader, chunk)

    def bar(self, member: Peer) -> None:
        """Do not ask a node again: it sent wrong bytes."""
        if member.barred:
            return
        member.resting = 0
        for chunk in ascending(member.holds):
            self.have_not(member, chunk)
        for chunk in member.reads:
            self._count(chunk, -1)
        member.barred = True
        self.barred |= member.bit
        self.open = without(self.open, member.bit)

    # Who has and who lacks a chunk

    def have(self, member: Peer, chunk: int) -> None:
        """A node has a chunk on its disk, for others too."""
        member.holds |= 1 << chunk
        self.held[chunk] |= member.bit
        self._count(chunk, 1)

    def have_not(self, member: Peer, chunk: int) -> None:
        """A node is not asked for a chunk that it had."""
        member.holds &= ~(1 << chunk)
        self.held[chunk] = without(self.held[chunk], member.bit)
        self._count(chunk, -1)

    def lack(self, member: Peer, chunk: int) -> None:
        """A node did not get a chunk."""
        member.lacks |= 1 << chunk
        self.lacking[chunk] |= member.bit
        self.wanted |= 1 << chunk
        self.fed.append(member)

    def rescue(self, member: Peer, chunk: int) -> None:
        """Let a node have a chunk from the source and from nobody else."""
        member.lacks &= ~(1 << chunk)
        member.only_source |= 1 << chunk
        self._lacks_no_more(member, chunk)
        self.rescued[chunk] = self.rescued.get(chunk, 0) | member.bit

    def _end_rescue(self, member: Peer, chunk: int) -> None:
        member.only_source &= ~(1 << chunk)
        self.rescued[chunk] &= ~member.bit
        if not self.rescued[chunk]:
            del self.rescued[chunk]

    def _lacks_no_more(self, member: Peer, chunk: int) -> None:
        self.lacking[chunk] = without(self.lacking[chunk], member.bit)
        if not self.lacking[chunk]:
            self.wanted &= ~(1 << chunk)

    def _count(self, chunk: int, change: int) -> None:
        """One node more or fewer has or fetches a chunk."""
        copies = self._copies[chunk]
        self._copies[chunk] = copies + change
        before, after = copies.bit_length(), (copies + change).bit_length()
        if after == before:
            return
        if after == len(self.levels):
            self.levels.append(0)
        self.levels[before] &= ~(1 << chunk)
        self.levels[after] |= 1 << chunk

    # Fetches

    def begin_read(self, member: Peer, chunk: int, sender: Peer) -> None:
        """A node fetches a chunk."""
        flag = 1 << chunk
        member.lacks &= ~flag
        if member.only_source & flag:
            self._end_rescue(member, chunk)
        self._lacks_no_more(member, chunk)
        if not member.barred:
            self._count(chunk, 1)
        member.reads[chunk] = sender
        member.down.used += 1
        sender.up.used += 1
        sender.sent += 1
        if sender is self.source:
            self.seeding[member] = self.seeding.get(member, 0) + 1
        self._look_at_room(member)
        if not sender.up.has_room:
            self.open = without(self.open, sender.bit)
        self.commands.append(Fetch(member.name, chunk, sender.name))

    def end_read(self, member: Peer, chunk: int) -> None:
        """A fetch is over, well or not."""
        sender = member.reads.pop(chunk)
        if sender is self.source:
            self.seeding[member] -= 1
            if not self.seeding[member]:
                del self.seeding[member]
        if not member.barred:
            self._count(chunk, -1)
        member.down.used -= 1
        sender.up.used -= 1
        self._look_at_room(member)
        self.fed.append(member)
        if not sender.up.has_room or sender.barred or sender.silent or self.members.get(sender.name) is not sender:
            self.open = without(self.open, sender.bit)
        elif not self.open & sender.bit:
            self.open |= sender.bit
            self.served.append(sender)

    def _look_at_room(self, member: Peer) -> None:
        """Note whether a node that receives may fetch more."""
        down, bit, heard = member.down, member.bit, not member.silent
        self.hungry = self.hungry | bit if heard and down.used < down.size else without(self.hungry, bit)
        self.roomy = self.roomy | bit if heard and down.has_spare_room else without(self.roomy, bit)
