"""The units of one delivery that a node has: what it may send, and what its children wait for.

A node may also expect units: it is about to take them from its own store, so that no parent need send them.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hubdist.errors import PeerError
from hubdist.model.chunks import Chunk
from hubdist.streams.frames import NO_END, Request
from hubdist.streams.lag import Progress, find_lead


@dataclass(slots=True, eq=False)
class _Waiting:
    """A thread that waits for a unit.

    Attributes:
        changed: Wakes the thread.
        lead: Number of stripes, and how many units of the leading one wake the thread too; None: no such end.
    """

    changed: threading.Condition
    lead: tuple[int, int] | None


class Units:
    """Numbers the verified units of one delivery, and lets senders wait for the next ones. Safe for several threads.

    Args:
        secret: The delivery's secret, which whoever asks for units must know.
        open_file: Opens a file of the model by its number in the chunks, for reading, and returns the descriptor.
            Raises IntegrityError or StoreError if the file cannot be opened.
    """

    def __init__(self, secret: bytes, open_file: Callable[[int], int]) -> None:
        self.secret = secret
        self.open_file = open_file
        self._guard = threading.Lock()
        self._taken = threading.Condition(self._guard)
        """Wakes those who wait until nothing is expected any more."""
        self._waiting: defaultdict[int, list[_Waiting]] = defaultdict(list)
        """Unit -> who waits for it. Each has a condition of its own: waking all for each unit would cost more than the
        digest of the unit."""
        self._chunks: dict[int, Chunk] = {}
        self._counts = [0]
        """Stripe -> units of it that are here; there are as many stripes as somebody asked for last."""
        self._expected: set[int] = set()
        self._told_lead = 0
        self._reuses = False
        self._last = -1
        """The highest number of a unit that was ever here or expected."""
        self._count: int | None = None
        self._closed = False

    @property
    def arrived(self) -> int:
        """How many units this node has."""
        with self._guard:
            return len(self._chunks)

    @property
    def count(self) -> int | None:
        """How many units the delivery has; None if that is not known yet."""
        with self._guard:
            return self._count

    @property
    def reuses(self) -> bool:
        """True if this node took units from its own store, or tried to: what comes says little of the parents then."""
        with self._guard:
            return self._reuses

    @property
    def is_complete(self) -> bool:
        """True if this node has all units of the delivery, and knows that there are no more."""
        with self._guard:
            return self._count is not None and len(self._chunks) >= self._count

    def add(self, number: int, chunk: Chunk) -> None:
        """Note a unit whose bytes were checked and lie in the model's files.

        Args:
            number: The unit.
            chunk: Its pieces and digests.
        """
        with self._guard:
            if number not in self._chunks:
                self._counts[number % len(self._counts)] += 1
            self._chunks[number] = chunk
            self._last = max(self._last, number)
            if number in self._expected:
                self._expected.discard(number)
                self._taken.notify_all()
            self._wake(number)

    def expect(self, numbers: Iterable[int]) -> None:
        """Note units that this node is about to take from its own store. Each is added or given up later.

        Args:
            numbers: The units.
        """
        with self._guard:
            self._reuses = True
            self._expected.update(set(numbers).difference(self._chunks))
            self._last = max(self._last, max(self._expected, default=-1))

    def give_up(self, number: int | None = None) -> None:
        """Note that an expected unit does not come from this node's own store: a parent has to send it.

        Args:
            number: The unit; None for all that are still expected.
        """
        with self._guard:
            if number is None:
                self._expected.clear()
            else:
                self._expected.discard(number)
            self._taken.notify_all()

    def set_count(self, count: int) -> None:
        """Note how many units the delivery has; until then, more may come."""
        with self._guard:
            self._count = count
            self._wake_all()

    def close(self) -> None:
        """Send nothing more: whoever waits for units gets an error."""
        with self._guard:
            self._closed = True
            self._wake_all()

    def wait(self, number: int, timeout_s: float, *, lead: tuple[int, int] | None = None) -> Chunk | None:
        """The chunk of a unit, when this node has the unit.

        Args:
            number: The unit.
            timeout_s: Longest wait in seconds.
            lead: Number of stripes, and how many units of the leading one end the wait too; None: no such end.

        Returns:
            None if the unit did not come in time, or there is no such unit; `is_beyond` tells these apart.

        Raises:
            PeerError: This node takes no part in the delivery any more.
        """

        def ends() -> bool:
            if self._closed or number in self._chunks or self._is_beyond(number):
                return True
            return lead is not None and find_lead(self._count_by(lead[0])) >= lead[1]

        with self._guard:
            if not ends():
                waiting = _Waiting(threading.Condition(self._guard), lead)
                self._waiting[number].append(waiting)
                waiting.changed.wait_for(ends, timeout_s)
                self._waiting[number].remove(waiting)
                if not self._waiting[number]:
                    del self._waiting[number]
            if self._closed:
                raise PeerError("this node takes no part in the delivery any more")
            return self._chunks.get(number)

    def counts(self, stripes: int) -> list[int]:
        """For each stripe how many of its units this node has.

        Args:
            stripes: The number of stripes.
        """
        with self._guard:
            return list(self._count_by(stripes))

    def progress(self, request: Request) -> Progress:
        """How far this node is, for a node that asks for a stripe.

        Args:
            request: What the other node asks for.
        """
        with self._guard:
            counts = self._count_by(request.step)
            return Progress(counts[request.first % request.step], find_lead(counts), has_begun=min(counts) > 0)

    def _count_by(self, stripes: int) -> list[int]:
        if len(self._counts) != stripes:
            self._counts = [0] * stripes
            for number in self._chunks:
                self._counts[number % stripes] += 1
        return self._counts

    def has(self, number: int) -> bool:
        """True if this node has a unit."""
        with self._guard:
            return number in self._chunks

    def is_beyond(self, number: int) -> bool:
        """True if the delivery has fewer units than this number asks for."""
        with self._guard:
            return self._is_beyond(number)

    def next_missing(self, stripe: int, step: int) -> Request | None:
        """The next run of units of a stripe that this node neither has nor expects.

        Args:
            stripe: The first unit of the stripe.
            step: The number of stripes.

        Returns:
            None if there is no such unit; the node may still expect some.
        """
        with self._guard:
            first = stripe
            while self._is_here(first):
                first += step
            if self._is_beyond(first):
                return None
            end = first
            while end <= self._last and not self._is_here(end):
                end += step
            return Request(first, end if end <= self._last else NO_END, step)

    def wait_taken(self, timeout_s: float) -> bool:
        """Wait until this node expects no unit any more; False if it still does after `timeout_s` seconds."""
        with self._guard:
            return self._taken.wait_for(lambda: not self._expected, timeout_s)

    def _wake(self, number: int) -> None:
        """Wake those who wait for a unit that is here now, or for as many units of the leading stripe."""
        for waiting in self._waiting.get(number, ()):
            waiting.changed.notify()
        lead = find_lead(self._counts)
        if lead != self._told_lead:
            self._told_lead = lead
            for waiting in (each for some in self._waiting.values() for each in some):
                if waiting.lead is not None and lead >= waiting.lead[1]:
                    waiting.changed.notify()

    def _wake_all(self) -> None:
        for waiting in (each for some in self._waiting.values() for each in some):
            waiting.changed.notify()

    def _is_here(self, number: int) -> bool:
        return number in self._chunks or number in self._expected

    def _is_beyond(self, number: int) -> bool:
        return self._count is not None and number >= self._count
