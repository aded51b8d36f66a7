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

from hubdist.errors import HubdistError, PeerError
from hubdist.model.chunks import Chunk, join_chunks
from hubdist.streams.client import Unit, check_number
from hubdist.streams.frames import NO_END, Header, Request
from hubdist.streams.units import Units
from hubdist.system.threads import start_thread

_JOIN_S = 5.0
_TICK_S = 0.25
_LOG = logging.getLogger(__name__)


class Stream(Protocol):
    """A way by which a parent sends units; `UnitStream` is the one over a port."""

    def request(self, request: Request) -> None:
        """Ask for units."""
        ...

    def receive(self) -> Unit | Header:
        """The next unit, a heartbeat, or the end of the answer."""
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


@dataclass(slots=True)
class _Stripe:
    """The stream that a stripe comes by now; another thread may still be ending with an earlier one."""

    parent: str
    stream: Stream | None = None
    stopped: threading.Event = field(default_factory=threading.Event)


class Follower:
    """Receives the stripes of one delivery. Safe for several threads.

    Args:
        units: What this node has; units are noted there when they are checked and written.
        write: Checks a unit against its digests and writes it. Raises IntegrityError for wrong bytes, StoreError if
            this node's disk refuses.
        open_stream: Opens a stream to a parent by name.
        stripes: The number of stripes.

    Attributes:
        received: Parent -> bytes that came from there.
        marks: Pairs of seconds since the start and bytes that had come by then, one for each unit.
    """

    def __init__(
        self,
        units: Units,
        write: Callable[[Chunk, memoryview], None],
        open_stream: Callable[[str], Stream],
        *,
        stripes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._units = units
        self._write = write
        self._open_stream = open_stream
        self._stripes = stripes
        self._clock = clock
        self._begun = clock()
        self._changed = threading.Condition()
        self._current: dict[int, _Stripe] = {}
        self._threads: set[threading.Thread] = set()
        self._news: list[StripeEnded] = []
        self._stopped = False
        self.received: Counter[str] = Counter()
        self.marks: list[tuple[float, int]] = []

    def follow(self, stripe: int, parent: str) -> None:
        """Receive a stripe from a parent, from the first unit on that this node lacks; an earlier stream is left.

        Args:
            stripe: The stripe.
            parent: The parent's name.
        """
        current = _Stripe(parent)
        with self._changed:
            if self._stopped:
                return
            before = self._current.get(stripe)
            self._current[stripe] = current
            _leave(before)
            thread, outcome = start_thread(lambda: self._receive(stripe, current), f"hubdist-stripe-{stripe}")
            outcome.add_done_callback(lambda ended: self._tell(stripe, current, ended.exception()))
            self._threads = {running for running in self._threads if running.is_alive()} | {thread}

    def wait(self, timeout_s: float) -> list[StripeEnded]:
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
            if not current.stopped.is_set():
                self._news.append(StripeEnded(stripe, current.parent, error))
                self._changed.notify_all()

    def _receive(self, stripe: int, current: _Stripe) -> None:
        """Receive what this node neither has nor expects, until it has the whole stripe.

        While the node only expects units, no stream is open: a parent closes one that asks for nothing.
        """
        while not current.stopped.is_set():
            if self._units.next_missing(stripe, self._stripes) is not None:
                self._receive_missing(stripe, current)
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
            came = stream.receive()
            if isinstance(came, Unit):
                check_number(came, expected)
                self._write(came.chunk, came.data)
                parts.append(came.chunk)
                if not came.more:
                    self._note(join_chunks(parts), current.parent)
                    parts = []
                    expected += request.step
            elif came.is_end:
                if came.number != NO_END:
                    self._units.set_count(came.number)
                return True
        return False

    def _note(self, chunk: Chunk, parent: str) -> None:
        self._units.add(chunk.index, chunk)
        with self._changed:
            self.received[parent] += chunk.size
            self.marks.append((self._clock() - self._begun, self.received.total()))


def _leave(current: _Stripe | None) -> None:
    if current is not None:
        current.stopped.set()
        if current.stream is not None:
            current.stream.cancel()
