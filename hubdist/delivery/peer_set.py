"""The peers of one delivery, their slots, and which of them can send and fetch now."""

from __future__ import annotations

from collections import Counter

from hubdist.delivery.peers import Peer, Role, Window, descending, next_below, without

_COMPARED = 4
"""How many senders are compared to find the least busy one. Comparing all of them would cost more than it gains."""


class PeerSet:
    """All peers of one delivery, and the sets of those that can send or fetch at the moment.

    Args:
        source: The peer that has every chunk from the start; it never fetches, and it is in none of the sets.
    """

    def __init__(self, source: Peer) -> None:
        self.source = source
        self._by_name: dict[str, Peer] = {}
        self._order: list[Peer] = []
        """Every peer that ever joined, at the index of its bit."""
        self._receiving = 0
        self._publishing = 0
        self._can_fetch = 0
        self._can_fetch_urgent = 0
        self._can_send = 0
        self._banned = 0
        self._cannot_read_source = 0
        self._source_fetches: Counter[Peer] = Counter()
        """Receiver -> how many chunks it fetches from the source now."""
        self._fetch_slots_freed: list[Peer] = []
        self._send_slots_freed: list[Peer] = []
        self._last_picked = 0
        self._last_seed = 0

    @property
    def can_fetch(self) -> int:
        """The peers that have a slot for another fetch."""
        return self._can_fetch

    @property
    def can_fetch_urgent(self) -> int:
        """The peers that have a slot for another urgent fetch; all of `can_fetch` among them."""
        return self._can_fetch_urgent

    @property
    def can_send(self) -> int:
        """The peers that others may begin to fetch from."""
        return self._can_send

    @property
    def active(self) -> bool:
        """True while a peer receives or publishes."""
        return bool(self._receiving | self._publishing)

    @property
    def slots_freed(self) -> bool:
        """True if `take_freed` would return anything."""
        return bool(self._fetch_slots_freed or self._send_slots_freed)

    @property
    def source_fetches_in_links(self) -> float:
        """How many whole links the fetches from the source can fill.

        A receiver's link is shared by all that it fetches, so each fetch counts for an equal part of one link.
        """
        share = 0.0
        for receiver, count in self._source_fetches.items():
            share += count / receiver.fetch_window.used
        return share

    def find(self, name: str) -> Peer | None:
        """Return the node of this name if it takes part; never the source."""
        return self._by_name.get(name)

    def receivers(self) -> list[Peer]:
        """Return the peers that want or fetch chunks."""
        return self.peers_of(self._receiving)

    def peers_of(self, peers: int) -> list[Peer]:
        """Return the members of a set."""
        return [self._order[index] for index in descending(peers)]

    # Joining and leaving

    def add(self, name: str, role: Role, *, max_slots: int, max_urgent_slots: int) -> Peer:
        """Add a node that begins to receive, or that has the snapshot.

        Args:
            name: The node's name; no node of this name takes part at the moment.
            role: `RECEIVING` or `HOLDING`.
            max_slots: Slots in each direction.
            max_urgent_slots: Slots in each direction that urgent fetches may use.
        """
        fetch_window, send_window = (Window(max_slots, max_urgent_slots) for _ in range(2))
        peer = Peer(name, 1 << len(self._order), role, fetch_window, send_window)
        self._by_name[name] = peer
        self._order.append(peer)
        self._can_send |= peer.bit
        if role is Role.HOLDING:
            self._send_slots_freed.append(peer)
        else:
            self._receiving |= peer.bit
            self._can_fetch |= peer.bit
            self._can_fetch_urgent |= peer.bit
            self._fetch_slots_freed.append(peer)
        return peer

    def remove(self, peer: Peer) -> None:
        """Remove a node that left; it neither fetches nor sends any more."""
        del self._by_name[peer.name]
        self._stop_receiving(peer)
        self._publishing = without(self._publishing, peer.bit)
        self._can_send = without(self._can_send, peer.bit)

    def start_publishing(self, peer: Peer) -> None:
        """Note that a receiver has every chunk."""
        peer.role = Role.PUBLISHING
        self._stop_receiving(peer)
        self._publishing |= peer.bit

    def finish_publishing(self, peer: Peer) -> None:
        """Note that a node has the snapshot."""
        peer.role = Role.HOLDING
        self._publishing = without(self._publishing, peer.bit)

    def _stop_receiving(self, peer: Peer) -> None:
        self._receiving = without(self._receiving, peer.bit)
        self._can_fetch = without(self._can_fetch, peer.bit)
        self._can_fetch_urgent = without(self._can_fetch_urgent, peer.bit)

    # Peers that others do not count on

    def silence(self, peer: Peer) -> None:
        """Note that a node gives no answer: it neither fetches nor sends until it is heard again."""
        peer.silent = True
        self._can_send = without(self._can_send, peer.bit)
        self._update_can_fetch(peer)

    def hear(self, peer: Peer) -> None:
        """Note that a silent node answers again."""
        peer.silent = False
        if peer.send_window.has_slot and not peer.banned:
            self._can_send |= peer.bit
            self._send_slots_freed.append(peer)
        if peer.role is Role.RECEIVING:
            self._update_can_fetch(peer)
            self._fetch_slots_freed.append(peer)

    def ban(self, peer: Peer) -> None:
        """Let nobody fetch from a node any more."""
        peer.banned = True
        self._banned |= peer.bit
        self._can_send = without(self._can_send, peer.bit)

    def note_cannot_read_source(self, peer: Peer) -> None:
        """Note that a node failed to read the source; `pick_seed` prefers others."""
        self._cannot_read_source |= peer.bit

    # Slots

    def take_slots(self, receiver: Peer, sender: Peer) -> None:
        """Take a slot at both ends of a fetch that begins.

        Args:
            receiver: The peer that fetches.
            sender: The peer that is asked, or the source.
        """
        receiver.fetch_window.used += 1
        sender.send_window.used += 1
        sender.sent += 1
        if sender is self.source:
            self._source_fetches[receiver] += 1
        self._update_can_fetch(receiver)
        if not sender.send_window.has_slot:
            self._can_send = without(self._can_send, sender.bit)

    def free_slots(self, receiver: Peer, sender: Peer) -> None:
        """Free the slots at both ends of a fetch that ended.

        Args:
            receiver: The peer that fetched.
            sender: The peer that was asked, or the source.
        """
        receiver.fetch_window.used -= 1
        sender.send_window.used -= 1
        if sender is self.source:
            self._source_fetches[receiver] -= 1
            if not self._source_fetches[receiver]:
                del self._source_fetches[receiver]
        self._update_can_fetch(receiver)
        self._fetch_slots_freed.append(receiver)
        usable = sender.send_window.has_slot and not sender.banned and not sender.silent
        if not usable or self._by_name.get(sender.name) is not sender:
            self._can_send = without(self._can_send, sender.bit)
        elif not self._can_send & sender.bit:
            self._can_send |= sender.bit
            self._send_slots_freed.append(sender)

    def look_again(self, receiver: Peer) -> None:
        """Let the scheduler look for another fetch of this receiver: it wants a chunk again."""
        self._fetch_slots_freed.append(receiver)

    def take_freed(self) -> tuple[list[Peer], list[Peer]]:
        """Return the senders and the receivers that may have free slots since the last call, each of them once."""
        senders, self._send_slots_freed = self._send_slots_freed, []
        receivers, self._fetch_slots_freed = self._fetch_slots_freed, []
        return list(dict.fromkeys(senders)), list(dict.fromkeys(receivers))

    def _update_can_fetch(self, peer: Peer) -> None:
        # Runs twice for each chunk and node, so what `without` and `has_slot` do is written out.
        window, bit, heard = peer.fetch_window, peer.bit, not peer.silent
        if heard and window.used < window.slots:
            self._can_fetch |= bit
        elif self._can_fetch & bit:
            self._can_fetch ^= bit
        if heard and window.has_urgent_slot:
            self._can_fetch_urgent |= bit
        elif self._can_fetch_urgent & bit:
            self._can_fetch_urgent ^= bit

    # Choosing one of several

    def pick(self, peers: int) -> Peer:
        """Return one member of a set that is not empty, in turns."""
        self._last_picked = next_below(peers, self._last_picked)
        return self._order[self._last_picked]

    def pick_some(self, peers: int, count: int) -> int:
        """Return a part of a set, in turns.

        Args:
            peers: The set.
            count: Size of the part; a smaller set is returned whole.
        """
        if peers.bit_count() <= count:
            return peers
        some = 0
        for _ in range(count):
            some |= self.pick(peers ^ some).bit
        return some

    def pick_least_busy(self, peers: int) -> Peer:
        """Return a member that sends little at the moment, and of those the one that has sent least so far.

        Only a few members are compared. The set is not empty.
        """
        best = self.pick(peers)
        for _ in range(_COMPARED - 1):
            peers = without(peers, best.bit)
            if not peers:
                break
            other = self._order[next_below(peers, self._last_picked)]
            if (other.send_window.used, other.sent) < (best.send_window.used, best.sent):
                best = other
        return best

    def pick_seed(self, peers: int) -> Peer | None:
        """Return a peer with an urgent slot that should fetch a chunk from the source, in turns of their own.

        Banned peers, and peers that failed to read the source, are left out unless there are no others in the set:
        nobody would fetch the chunk from a banned peer.

        Args:
            peers: The peers that want the chunk.
        """
        peers = peers & ~self._banned or peers
        peers = (peers & ~self._cannot_read_source or peers) & self._can_fetch_urgent
        if not peers:
            return None
        self._last_seed = next_below(peers, self._last_seed)
        return self._order[self._last_seed]
