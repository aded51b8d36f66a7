"""Read the chunks of a model with several requests side by side, in bounded memory."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait

from hubdist.errors import TransferTimeoutError
from hubdist.manifest import Chunk, Piece

_END_S = 30.0
"""How long to wait for threads that were told to stop; those that hang in a dead mount are left behind."""


class ChunkReader:
    """Threads that take the pieces of chunks in order, each with a request of its own; use once.

    A chunk gets a buffer when its first piece is taken, and gives it back when it has been handed on. A thread asks
    for a new chunk only when all pieces of the one before are taken, so there is a buffer for it, or one becomes
    free: `requests` buffers are enough, and pieces of small files are read side by side too.

    Args:
        chunks: What to read, in order.
        read: Fills a view with a piece; called by several threads.
        write: Takes a whole chunk; the view is used again when it returns.
        requests: How many pieces to read at the same time.
        stop: Makes the reads that wait fail soon.
    """

    def __init__(
        self,
        chunks: Sequence[Chunk],
        read: Callable[[Piece, memoryview], None],
        write: Callable[[Chunk, memoryview], None],
        *,
        requests: int,
        stop: Callable[[], None],
    ) -> None:
        self._chunks = chunks
        self._read = read
        self._write = write
        self._requests = requests
        self._stop = stop
        self._changed = threading.Condition()
        self._todo = deque((chunk, piece, start) for chunk in chunks for piece, start in _places(chunk))
        self._unread = {chunk.index: len(chunk.pieces) for chunk in chunks}
        self._buffer_bytes = max((chunk.size for chunk in chunks), default=0)
        self._free: list[bytearray | None] = [None] * requests
        self._buffers: dict[int, bytearray] = {}
        self._ordered = False
        self._ended = False
        self._failed: BaseException | None = None

    def run(self, *, timeout_s: float, public: str, ordered: bool) -> None:
        """Read and hand on everything.

        Args:
            timeout_s: Longest time in seconds for all of it.
            public: What is read, for errors.
            ordered: Hand on the chunks in order and from this thread, else from the threads that read.

        Raises:
            TransferTimeoutError: The time is over.
            HubdistError: What `read` or `write` raised first.
        """
        self._ordered = ordered
        deadline = time.monotonic() + timeout_s
        threads, outcomes = self._start()
        try:
            in_time = self._hand_on_all(deadline) if ordered else _wait_for(outcomes, deadline)
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
            if not all(outcome.done() for outcome in outcomes):
                self._stop()
            for thread in threads:
                thread.join(_END_S)
        if self._failed is not None:
            raise self._failed
        if not in_time:
            raise TransferTimeoutError(f"{public} could not be read within {timeout_s:g} s")

    def _start(self) -> tuple[list[threading.Thread], list[Future[None]]]:
        threads, outcomes = [], []
        for number in range(min(self._requests, len(self._todo))):
            outcome: Future[None] = Future()
            outcome.add_done_callback(self._note)
            thread = threading.Thread(target=self._work, args=(outcome,), name=f"hubdist-copy-{number}", daemon=True)
            thread.start()
            threads.append(thread)
            outcomes.append(outcome)
        return threads, outcomes

    def _note(self, outcome: Future[None]) -> None:
        with self._changed:
            if not self._ended:  # what fails after that was stopped
                self._failed = self._failed or outcome.exception()
            self._changed.notify_all()

    def _work(self, outcome: Future[None]) -> None:
        try:
            while (taken := self._take()) is not None:
                chunk, piece, view = taken
                self._read(piece, view)
                with self._changed:
                    self._unread[chunk.index] -= 1
                    whole = self._unread[chunk.index] == 0
                    if whole and self._ordered:
                        self._changed.notify_all()
                if whole and not self._ordered:
                    self._hand_on(chunk)
            outcome.set_result(None)
        except BaseException as error:  # noqa: BLE001 - it is raised again by the thread that waits
            outcome.set_exception(error)

    def _take(self) -> tuple[Chunk, Piece, memoryview] | None:
        """The next piece and where its bytes go; None if nothing is left to do."""
        with self._changed:
            while self._todo and not self._ended and self._failed is None:
                chunk, piece, start = self._todo[0]
                if chunk.index not in self._buffers:
                    if not self._free:
                        self._changed.wait()  # `run` ends it at its deadline
                        continue
                    self._buffers[chunk.index] = self._free.pop() or bytearray(self._buffer_bytes)
                self._todo.popleft()
                view = memoryview(self._buffers[chunk.index])[start : start + piece.end - piece.start]
                return chunk, piece, view
        return None

    def _hand_on(self, chunk: Chunk) -> None:
        self._write(chunk, memoryview(self._buffers[chunk.index])[: chunk.size])
        with self._changed:
            self._free.append(self._buffers.pop(chunk.index))
            self._changed.notify_all()

    def _hand_on_all(self, deadline: float) -> bool:
        """Hand on the chunks in order; False if the time is over."""
        for chunk in self._chunks:
            with self._changed:
                while self._unread[chunk.index] and self._failed is None:
                    if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                        return False
                if self._failed is not None:
                    return True
            self._hand_on(chunk)
        return True


def _places(chunk: Chunk) -> Iterator[tuple[Piece, int]]:
    """Each piece and where it begins in its chunk."""
    start = 0
    for piece in chunk.pieces:
        yield piece, start
        start += piece.end - piece.start


def _wait_for(outcomes: list[Future[None]], deadline: float) -> bool:
    """Wait until all are done or one has failed; False if the time is over."""
    done, waiting = wait(outcomes, max(0.0, deadline - time.monotonic()), FIRST_EXCEPTION)
    return not waiting or any(outcome.exception() is not None for outcome in done)
