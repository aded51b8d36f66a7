"""Work in threads of its own, for calls that give no deadline.

A call that is late cannot be stopped: its thread is left behind, and ends when the call does. Their number in a
process is bounded.
"""

from __future__ import annotations

import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any, TypeVar

_T = TypeVar("_T")
_END_S = 5.0
MAX_LEFT = 64
"""Most calls that may hang in threads that were left behind; further ones fail at once."""


class _Left:
    """How many threads were left behind and have not ended since."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def check(self) -> None:
        with self._lock:
            if self._count >= MAX_LEFT:
                raise TimeoutError(f"{self._count} earlier calls have not come back yet")

    def add(self, ended: Future[Any]) -> None:
        with self._lock:
            self._count += 1
        ended.add_done_callback(self._drop)

    def _drop(self, _: Future[Any]) -> None:
        with self._lock:
            self._count -= 1


_left = _Left()


def start_thread(work: Callable[[], _T], name: str) -> tuple[threading.Thread, Future[_T]]:
    """Begin work in a thread that does not keep the process from ending.

    Returns:
        The thread, and what will hold the work's result or error.
    """
    outcome: Future[_T] = Future()

    def run() -> None:
        _settle(outcome, work)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread, outcome


def run_within(work: Callable[[], _T], name: str, timeout_s: float) -> _T:
    """Do work in a thread and wait for it; one that is late cannot be stopped and is left behind.

    Raises:
        TimeoutError: It was not done in `timeout_s` seconds, or too many others hang already.
    """
    _left.check()
    thread, outcome = start_thread(work, name)
    try:
        result = outcome.result(timeout_s)
    finally:
        if not outcome.done():
            leave_behind(outcome)
    thread.join(timeout_s)
    return result


def leave_behind(outcome: Future[Any]) -> None:
    """Count a thread that nobody waits for any more, until its work is done."""
    _left.add(outcome)


class Worker:
    """A thread that makes one call after another, so that what belongs to a thread can be used. For one thread.

    Args:
        name: Of the thread.

    Attributes:
        lost: A call was late; the thread was left behind.
    """

    def __init__(self, name: str) -> None:
        self.lost = False
        self._name = name
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._waiting: Future[Any] | None = None

    def call(self, work: Callable[[], _T], timeout_s: float) -> _T:
        """Let the thread do a work, and wait for it.

        Raises:
            TimeoutError: It was not done in `timeout_s` seconds, this was so before, or too many others hang.
        """
        if self.lost:
            raise TimeoutError("an earlier call has not come back")
        _left.check()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        context = contextvars.copy_context()
        answer: Future[_T] = Future()
        ended: Future[None] = Future()

        def run() -> None:
            _settle(answer, lambda: context.run(work))
            ended.set_result(None)

        self._waiting = answer
        self._calls.put(run)
        try:
            return answer.result(timeout_s)
        finally:
            self._waiting = None
            if not ended.done() and (self.lost or not answer.done()):
                self.lost = True
                leave_behind(ended)
                self._calls.put(None)

    def abandon(self) -> None:
        """Let a call that waits in another thread end with TimeoutError; the thread is left behind."""
        waiting = self._waiting
        if waiting is not None:
            self.lost = True
            with contextlib.suppress(InvalidStateError):
                waiting.set_exception(TimeoutError("nobody waits for it any more"))
        self._calls.put(None)

    def close(self) -> None:
        """End the thread; one that was left behind ends when its call does."""
        self._calls.put(None)
        if self._thread is not None and not self.lost:
            self._thread.join(_END_S)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


class Workers:
    """Workers for calls of several threads at a time; close it.

    Args:
        name: Of the threads.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._idle: list[Worker] = []
        self._busy: set[Worker] = set()
        self._closed = False

    def call(self, work: Callable[[], _T], timeout_s: float) -> _T:
        """As `Worker.call`, in one of the threads.

        Raises:
            TimeoutError: It was not done in `timeout_s` seconds, `close` was called, or too many others hang.
        """
        with self._lock:
            if self._closed:
                raise TimeoutError("nobody waits for it any more")
            worker = self._idle.pop() if self._idle else Worker(self._name)
            self._busy.add(worker)
        try:
            return worker.call(work, timeout_s)
        finally:
            with self._lock:
                self._busy.discard(worker)
                closed = self._closed
                if not closed and not worker.lost:
                    self._idle.append(worker)
            if closed:
                worker.close()

    def close(self) -> None:
        """End the threads; calls that wait fail."""
        with self._lock:
            self._closed = True
            idle, busy = list(self._idle), list(self._busy)
            self._idle.clear()
        for worker in busy:
            worker.abandon()
        for worker in idle:
            worker.close()


def _settle(outcome: Future[_T], work: Callable[[], _T]) -> None:
    """Do a work and keep its result or error, unless somebody has given it up."""
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - it is raised again where the result is asked for
        with contextlib.suppress(InvalidStateError):
            outcome.set_exception(error)
    else:
        with contextlib.suppress(InvalidStateError):
            outcome.set_result(result)
