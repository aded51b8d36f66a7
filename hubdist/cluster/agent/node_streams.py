"""The streams of one node: receives the stripes of its deliveries from the parents that the coordinator names."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from hubdist.cluster.agent.answer_stream import AnswerStream
from hubdist.cluster.agent.chunk_rpc import DescribeUnit, RequestPart
from hubdist.cluster.agent.messages import BrokenStream, News, Parent, Seat
from hubdist.cluster.agent.node_port import Address, NodePort
from hubdist.errors import PeerError, PortClosedError
from hubdist.model.chunks import Chunk
from hubdist.streams.buffers import Buffers
from hubdist.streams.follower import Follower, Stream, StripeLags
from hubdist.streams.units import Units

_MAX_MARKS = 256


@dataclass(slots=True)
class _Following:
    """One delivery that this node receives."""

    follower: Follower
    units: Units
    stripes: int
    parents: dict[str, Parent] = field(default_factory=dict)
    left: set[int] = field(default_factory=set)
    """Stripes that have not been received whole."""
    orders: dict[int, int] = field(default_factory=dict)
    """Stripe -> the number of the newest order that named its parent."""
    closed: dict[str, tuple[Address, str]] = field(default_factory=dict)
    """Parents whose ports could not be reached -> which, and why; not told yet."""
    unreachable: set[Address] = field(default_factory=set)
    """The ports of these parents: no stream tries them again."""


class NodeStreams:
    """Follows the parents of this node in all its deliveries. Safe for several threads.

    Args:
        port: The node's port.
        buffers: Lend the memory for what is received.
        request: Gets bytes from another agent, as `request_part`.
        describe: Asks another agent for a unit's chunk, as `describe_unit`.
    """

    def __init__(
        self,
        port: NodePort,
        buffers: Buffers,
        request: RequestPart,
        describe: DescribeUnit,
    ) -> None:
        self._port = port
        self._buffers = buffers
        self._request = request
        self._describe = describe
        self._guard = threading.Lock()
        self._following: dict[str, _Following] = {}

    def follow(
        self,
        delivery: str,
        seat: Seat,
        write: Callable[[Chunk, memoryview], None],
    ) -> None:
        """Receive stripes from parents; an earlier parent of a stripe is left.

        Args:
            delivery: Name of the delivery, in which the port takes part already.
            seat: The parents; a stripe whose parent a newer order has named keeps that one.
            write: Checks a unit and writes it.
        """
        units = self._port.units(delivery)
        with self._guard:
            following = self._following.get(delivery)
            if following is None:
                follower = Follower(
                    units, write, lambda name: self._open(delivery, name), self._buffers, stripes=seat.stripes
                )
                following = _Following(follower, units, seat.stripes, left=set(range(seat.stripes)))
                self._following[delivery] = following
            order, known = seat.order, following.orders
            parents = {stripe: parent for stripe, parent in seat.parents.items() if order >= known.get(stripe, order)}
            known.update(dict.fromkeys(parents, order))
            following.parents.update({parent.name: parent for parent in parents.values()})
        for stripe, parent in parents.items():
            following.follower.follow(stripe, parent.name)

    def wait(self, delivery: str, timeout_s: float) -> News:
        """Wait until the node has all units, or a stream breaks.

        Args:
            delivery: Name of the delivery.
            timeout_s: Longest wait in seconds; then the news is how far the node is.

        Raises:
            PeerError: This node receives nothing for the delivery.
            StoreError: This node's disk refuses.
        """
        with self._guard:
            following = self._following.get(delivery)
        if following is None:
            raise PeerError(f"this node receives nothing for the delivery {delivery}")
        broken, slow = [], []
        for news in following.follower.wait(timeout_s):
            if isinstance(news, StripeLags):
                slow.append(news)
            elif news.error is None:
                following.left.discard(news.stripe)
            else:
                missing = following.units.next_missing(news.stripe, following.stripes)
                first = news.stripe if missing is None else missing.first
                broken.append(BrokenStream(news.stripe, news.parent, first, news.error))
        closed, following.closed = following.closed, {}
        follower, is_complete = following.follower, not following.left
        marks = follower.marks[:: max(1, len(follower.marks) // _MAX_MARKS)] if is_complete else []
        return News(
            tuple(broken),
            tuple(slow),
            is_complete,
            follower.received.total(),
            tuple(follower.received.most_common()),
            tuple(marks),
            tuple((name, address, why) for name, (address, why) in closed.items()),
        )

    def leave(self, delivery: str) -> None:
        """Receive nothing more for a delivery."""
        with self._guard:
            following = self._following.pop(delivery, None)
        if following is not None:
            following.follower.stop()

    def _open(self, delivery: str, name: str) -> Stream:
        with self._guard:
            following = self._following[delivery]
            parent = following.parents[name]
        if parent.address is not None and parent.address not in following.unreachable:
            try:
                return self._port.open_stream(delivery, parent.address)
            except PortClosedError as error:
                following.unreachable.add(parent.address)
                following.closed[name] = parent.address, error.what
        if parent.agent is None:  # the coordinator hears of it, and tells the agent
            raise PortClosedError(f"the port of {name} cannot be reached")
        return AnswerStream(parent.agent, delivery, self._request, self._describe)
