"""The streams of one node in one delivery: a thread for each stripe receives, checks and writes units."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from hubdist.errors import HubdistError, IntegrityError, PeerError, UnknownDeliveryError
from hubdist.model.chunks import Chunk, join_chunks
from hubdist.streams.buffers import Buffers
from hubdist.streams.frames import NO_END, FrameKind, Header, Request
from hubdist.streams.lag import NO_PROGRESS, LagWatch, Progress
from hubdist.streams.units import Units
from hubdist.system.threads import start_thread

_JOIN_S = 5.0
BEGIN_S = 10.0
"""How long a parent may take no part in the delivery: it may be told of the delivery later than its child."""

PAUSE_S = 0.05
"""How long a child waits before it asks such a parent again. The parent's port has kept it waiting before."""
_TICK_S = 0.25
_LOG = logging.getLogger(__name__)


class Stream(Protocol):
    """A way by which a parent sends units; `UnitStream` is the one over a port."""

    def request(self, request: Request) -> None:
        """Ask for units."""
        ...

    def receive_header(self) -> Header:
        """The head of the next unit, a heartbeat, or the end of the answer."""
        ...

    def receive_bytes(self, header: Header, buffer: memoryview) -> Chunk:
        """The chunk of the unit whose head came last.

        Args:
            header: What `receive_header` returned last.
            buffer: Where the unit's bytes go; of `header.size`.
        """
        ...

    def cancel(self) -> None:
        """Let the thread that receives stop soon."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


@dataclass(frozen=True, slots=True)
class StripeEnded:
    """The news of one stripe.

    Attributes:
        stripe: The stripe.
        parent: The parent's name.
        error: Why the stream broke; None if the node has the whole stripe.
    """

    stripe: int
    parent: str
    error: HubdistError | None


@dataclass(frozen=True, slots=True)
class StripeLags:
    """A stripe that falls behind the others, while its parent is to blame.

    Attributes:
        stripe: The stripe.
        parent: The parent's name.
    """

    stripe: int
    parent: str


StripeNews = StripeEnded | StripeLags


@dataclass(slots=True)
class _Stripe:
    """The stream that a stripe comes by now; another thread may still be ending with an earlier one.

    Attributes:
        parent: The parent's name.
        stream: The stream, once it is open.
        stopped: Set when the stream is left for another one.
        ended: True once the stream has ended by itself.
        progress: What the parent has told last; None before it answers.
    """

    parent: str
    stream: Stream | None = None
    stopped: threading.Event = field(default_factory=threading.Event)
    ended: bool = False
    progress: Progress | None = None


class Follower:
    """Receives the stripes of one delivery. Safe for several threads.

    Args:
        units: What this node has; units are noted there when they are checked and written.
        write: Checks a unit against its digests and writes it. Raises IntegrityError for wrong bytes, StoreError if
            this node's disk refuses.
        open_stream: Opens a stream to a parent by name.
        buffers: Lends the memory for what is received.
        stripes: The number of stripes.
        clock: Tells the time in seconds.

    Attributes:
        received: Parent -> bytes that came from there.
        marks: Pairs of seconds since the start and bytes that had come by then, one for each unit.
    """

    def __init__(
        self,
        units: Units,
        write: Callable[[Chunk, memoryview], None],
        open_stream: Callable[[str], Stream],
        buffers: Buffers,
        *,
        stripes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._units = units
        self._write = write
        self._open_stream = open_stream
        self._buffers = buffers
        self._stripes = stripes
        self._lag = LagWatch(stripes)
        self._clock = clock
        self._begun = clock()
        self._changed = threading.Condition()
        self._current: dict[int, _Stripe] = {}
        self._threads: set[threading.Thread] = set()
        self._news: list[StripeNews] = []
        self._stopped = False
        self.received: Counter[str] = Counter()
        self.marks: list[tuple[float, int]] = []

    def follow(self, stripe: int, parent: str) -> None:
        """Receive a stripe from a parent, from the first unit on that this node lacks; an earlier stream is left.

        Nothing changes if the stripe comes from that parent already.

        Args:
            stripe: The stripe.
            parent: The parent's name.
        """
        current = _Stripe(parent)
        with self._changed:
            before = self._current.get(stripe)
            if self._stopped or (before is not None and before.parent == parent and not before.ended):
                return
            self._current[stripe] = current
            self._lag.reseat(stripe)
            _leave(before)
            thread, outcome = start_thread(lambda: self._receive(stripe, current), f"hubdist-stripe-{stripe}")
            outcome.add_done_callback(lambda ended: self._tell(stripe, current, ended.exception()))
            self._threads = {running for running in self._threads if running.is_alive()} | {thread}

    def wait(self, timeout_s: float) -> list[StripeNews]:
        """Wait for news of stripes, and take them.

        Args:
            timeout_s: Longest wait in seconds.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._news or self._stopped, timeout_s)
            news, self._news = self._news, []
            return news

    def stop(self) -> None:
        """Leave all streams, and wait for their threads."""
        with self._changed:
            self._stopped = True
            for current in self._current.values():
                _leave(current)
            threads = set(self._threads)
            self._changed.notify_all()
        for thread in threads:
            thread.join(_JOIN_S)

    def _tell(self, stripe: int, current: _Stripe, error: BaseException | None) -> None:
        """Note how a stripe's thread ended; runs in that thread."""
        if error is not None and not isinstance(error, HubdistError):
            where = "".join(traceback.format_tb(error.__traceback__))  # not its text, which may hold a secret
            _LOG.error("hubdist: unexpected %s in a stream:\n%s", type(error).__name__, where)
            error = PeerError(f"unexpected {type(error).__name__} in a stream")
        with self._changed:
            current.ended = True
            if not current.stopped.is_set():
                self._news.append(StripeEnded(stripe, current.parent, error))
                self._changed.notify_all()

    def _receive(self, stripe: int, current: _Stripe) -> None:
        """Receive what this node neither has nor expects, until it has the whole stripe.

        While the node only expects units, no stream is open: a parent closes one that asks for nothing.
        """
        deadline = self._clock() + BEGIN_S
        while not current.stopped.is_set():
            if self._units.next_missing(stripe, self._stripes) is not None:
                try:
                    self._receive_missing(stripe, current)
                except UnknownDeliveryError:
                    if self._clock() > deadline:
                        raise
                    current.progress = NO_PROGRESS
                    current.stopped.wait(PAUSE_S)
            elif self._units.wait_taken(_TICK_S) and self._units.next_missing(stripe, self._stripes) is None:
                return

    def _receive_missing(self, stripe: int, current: _Stripe) -> None:
        stream = self._open_stream(current.parent)
        try:
            with self._changed:
                current.stream = stream
                if current.stopped.is_set():
                    return
            while (request := self._units.next_missing(stripe, self._stripes)) is not None:
                stream.request(request)
                if not self._take_answer(request, stream, current):
                    return
        finally:
            stream.close()

    def _take_answer(self, request: Request, stream: Stream, current: _Stripe) -> bool:
        """Receive the units of one request; False if this thread was told to leave."""
        expected, parts = request.first, list[Chunk]()
        while not current.stopped.is_set():
            header = stream.receive_header()
            current.progress = header.progress
            if header.is_end:
                if header.number != NO_END:
                    self._units.set_count(header.number)
                return True
            if header.kind is not FrameKind.UNIT:
                continue
            if header.number != expected:
                raise IntegrityError(f"unit {header.number} came instead of unit {expected}")
            with self._buffers.take(header.size) as buffer:
                chunk = stream.receive_bytes(header, buffer)
                self._write(chunk, buffer)
            parts.append(chunk)
            if not header.more:
                self._note(join_chunks(parts), current.parent)
                parts = []
                expected += request.step
        return False

    def _note(self, chunk: Chunk, parent: str) -> None:
        self._units.add(chunk.index, chunk)
        counts = self._units.counts(self._stripes)
        with self._changed:
            self.received[parent] += chunk.size
            self.marks.append((self._clock() - self._begun, self.received.total()))
            if self._units.reuses:
                return
            current = [self._current.get(stripe) for stripe in range(self._stripes)]
            lagging = self._lag.look(counts, [None if each is None else each.progress for each in current])
            complaints = [
                StripeLags(stripe, each.parent) for stripe in lagging if (each := current[stripe]) is not None
            ]
            if complaints:
                self._news += complaints
                self._changed.notify_all()


def _leave(current: _Stripe | None) -> None:
    if current is not None:
        current.stopped.set()
        if current.stream is not None:
            current.stream.cancel()
