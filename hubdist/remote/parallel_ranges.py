"""Readers that request several pieces of a model in parallel, in bounded memory: in any order, or in order."""

from __future__ import annotations

import abc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait

from hubdist.errors import TransferTimeoutError
from hubdist.model.chunks import Piece
from hubdist.model.manifest import BLOCK_BYTES
from hubdist.system.threads import start_thread

PART_BYTES = 2 * BLOCK_BYTES
"""Bytes that are read, checked and written at a time; small enough to stay in the processor's cache."""

Stream = Callable[[Piece, memoryview], Iterator[tuple[int, memoryview]]]
"""Reads a piece through a buffer. Yields offset and bytes of each part, in order, valid until the next part."""

WritePiece = Callable[[Piece, memoryview], None]

_END_S = 30.0
"""Seconds to wait for threads that were told to stop; threads that hang in a dead mount are left behind."""


class _RangeReader(abc.ABC):
    """Threads that take pieces in order, each with a request of its own; use once.

    Args:
        pieces: The pieces to read, in order.
        stream: Reads one piece; called by several threads.
        write: Takes each piece; the bytes are overwritten after it returns.
        requests: How many pieces to read at the same time.
        stop: Makes waiting reads fail soon.
    """

    def __init__(
        self, pieces: Sequence[Piece], stream: Stream, write: WritePiece, *, requests: int, stop: Callable[[], None]
    ) -> None:
        self._pieces = pieces
        self._stream = stream
        self._write = write
        self._requests = min(requests, len(pieces))
        self._stop = stop
        self._changed = threading.Condition()
        self._taken = 0
        self._ended = False
        self._failed: BaseException | None = None

    def run(self, *, timeout_s: float, redacted: str) -> None:
        """Read all pieces, and pass every chunk to `write`.

        Args:
            timeout_s: Longest time in seconds for all pieces together.
            redacted: What is read, without secrets, for errors.

        Raises:
            TransferTimeoutError: The time is over.
            HubdistError: The first error that `stream` or `write` raised.
        """
        deadline = time.monotonic() + timeout_s
        started = [start_thread(self._work, f"hubdist-copy-{number}") for number in range(self._requests)]
        outcomes = [outcome for _, outcome in started]
        for outcome in outcomes:
            outcome.add_done_callback(self._note)
        try:
            in_time = self._wait(outcomes, deadline)
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
            if not all(outcome.done() for outcome in outcomes):
                self._stop()
            for thread, _ in started:
                thread.join(_END_S)
        if self._failed is not None:
            raise self._failed
        if not in_time:
            raise TransferTimeoutError(f"{redacted} could not be read within {timeout_s:g} s")

    @abc.abstractmethod
    def _work(self) -> None:
        """Read until no piece is left; runs in each of the threads."""

    @abc.abstractmethod
    def _wait(self, outcomes: list[Future[None]], deadline: float) -> bool:
        """Wait until every chunk was written or something failed; False if the time is over."""

    def _note(self, outcome: Future[None]) -> None:
        with self._changed:
            if not self._ended:  # a later failure is only the effect of `stop`
                self._failed = self._failed or outcome.exception()
            self._changed.notify_all()

    def _goes_on(self) -> bool:
        return self._taken < len(self._pieces) and not self._ended and self._failed is None


class UnorderedRangeReader(_RangeReader):
    """Writes pieces of at most `PART_BYTES` as they come, from the threads that read them."""

    def _work(self) -> None:
        buffer = memoryview(bytearray(PART_BYTES))
        while (number := self._take()) is not None:
            piece = self._pieces[number]
            for at, data in self._stream(piece, buffer):
                self._write(Piece(piece.entry_index, at, at + len(data)), data)

    def _take(self) -> int | None:
        with self._changed:
            if not self._goes_on():
                return None
            self._taken += 1
            return self._taken - 1

    def _wait(self, outcomes: list[Future[None]], deadline: float) -> bool:
        done, waiting = wait(outcomes, max(0.0, deadline - time.monotonic()), FIRST_EXCEPTION)
        return not waiting or any(outcome.exception() is not None for outcome in done)


class OrderedRangeReader(_RangeReader):
    """Writes each piece as a whole, in order, from the thread that called `run`.

    A thread takes a piece together with a buffer, and the buffer is free again when the piece was written. Because
    pieces are taken in order, the next piece to write always has a buffer, so the readers cannot deadlock.
    """

    def __init__(
        self, pieces: Sequence[Piece], stream: Stream, write: WritePiece, *, requests: int, stop: Callable[[], None]
    ) -> None:
        super().__init__(pieces, stream, write, requests=requests, stop=stop)
        self._buffer_bytes = max((piece.end - piece.start for piece in pieces), default=0)
        self._free: list[bytearray | None] = [None] * self._requests
        self._buffers: dict[int, bytearray] = {}
        self._whole: set[int] = set()

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            number, buffer = taken
            piece = self._pieces[number]
            for _ in self._stream(piece, memoryview(buffer)[: piece.end - piece.start]):
                pass  # the buffer holds the whole piece afterwards
            with self._changed:
                self._whole.add(number)
                self._changed.notify_all()

    def _take(self) -> tuple[int, bytearray] | None:
        with self._changed:
            while self._goes_on() and not self._free:
                self._changed.wait()  # bounded: `run` sets `_ended` and notifies at its deadline
            if not self._goes_on():
                return None
            number = self._taken
            self._taken += 1
            self._buffers[number] = self._free.pop() or bytearray(self._buffer_bytes)
            return number, self._buffers[number]

    def _wait(self, outcomes: list[Future[None]], deadline: float) -> bool:
        del outcomes  # `_note` reports failures to this thread
        for number, piece in enumerate(self._pieces):
            with self._changed:
                while number not in self._whole and self._failed is None:
                    if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                        return False
                if self._failed is not None:
                    return True
                buffer = self._buffers.pop(number)
            self._write(piece, memoryview(buffer)[: piece.end - piece.start])
            with self._changed:
                self._free.append(buffer)
                self._changed.notify_all()
        return True
