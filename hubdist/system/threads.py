"""Calls in threads of their own, with a deadline, for libraries whose calls have none.

Nobody can stop a call that is late: its thread is left behind, and ends when the call returns. The number of such
threads in a process is bounded.
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
_JOIN_S = 5.0
MAX_LEFT_BEHIND = 64
"""Most threads that may be left behind and still run. While there are that many, further calls fail at once."""


class _LeftBehind:
    """Counts the threads that were left behind and still run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def check(self) -> None:
        with self._lock:
            if self._count >= MAX_LEFT_BEHIND:
                raise TimeoutError(f"{self._count} earlier calls have not come back yet")

    def add(self, ended: Future[Any]) -> None:
        with self._lock:
            self._count += 1
        ended.add_done_callback(self._drop)

    def _drop(self, _: Future[Any]) -> None:
        with self._lock:
            self._count -= 1


_left_behind = _LeftBehind()


def start_thread(work: Callable[[], _T], name: str) -> tuple[threading.Thread, Future[_T]]:
    """Call a function in a new thread that does not keep the process from ending.

    Args:
        work: The function.
        name: The thread's name, for debuggers.

    Returns:
        The thread, and a future that will hold the function's result or error.
    """
    outcome: Future[_T] = Future()

    def run() -> None:
        _settle(outcome, work)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread, outcome


def run_within(work: Callable[[], _T], name: str, timeout_s: float) -> _T:
    """Call a function in a new thread and wait for it. A call that is late is left behind in its thread.

    Args:
        work: The function.
        name: The thread's name, for debuggers.
        timeout_s: Longest wait in seconds.

    Returns:
        What the function returned.

    Raises:
        TimeoutError: The call did not return within `timeout_s` seconds, or too many earlier calls still hang.
    """
    _left_behind.check()
    thread, outcome = start_thread(work, name)
    try:
        return outcome.result(timeout_s)
    finally:
        if outcome.done():
            thread.join(_JOIN_S)
        else:
            leave_behind(outcome)


def leave_behind(outcome: Future[Any]) -> None:
    """Count a thread that nobody waits for any more, until its future is done."""
    _left_behind.add(outcome)


class Worker:
    """A thread that makes one call after another, for objects that may be used in one thread only.

    Only one thread may use a worker, but `abandon` may be called by another one.

    Args:
        name: The thread's name, for debuggers.

    Attributes:
        lost: True if a call was late, and the thread was left behind.
    """

    def __init__(self, name: str) -> None:
        self.lost = False
        self._name = name
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._waiting: Future[Any] | None = None

    def call(self, work: Callable[[], _T], timeout_s: float) -> _T:
        """Call a function in the worker's thread and wait for it.

        Args:
            work: The function.
            timeout_s: Longest wait in seconds.

        Returns:
            What the function returned.

        Raises:
            TimeoutError: The call did not return within `timeout_s` seconds, an earlier call of this worker did not, or
                too many calls in the process still hang.
        """
        if self.lost:
            raise TimeoutError("an earlier call has not come back")
        _left_behind.check()
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
        """End a `call` that waits in another thread with TimeoutError; the worker's thread is left behind."""
        waiting = self._waiting
        if waiting is not None:
            self.lost = True
            with contextlib.suppress(InvalidStateError):
                waiting.set_exception(TimeoutError("the call was given up"))
        self._calls.put(None)

    def close(self) -> None:
        """End the thread. A thread that was left behind ends when its call returns."""
        self._calls.put(None)
        if self._thread is not None and not self.lost:
            self._thread.join(_JOIN_S)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


class Workers:
    """Workers for calls that several threads make at a time. The owner must call `close`.

    Args:
        name: The name of the threads, for debuggers.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._idle: list[Worker] = []
        self._busy: set[Worker] = set()
        self._closed = False

    def call(self, work: Callable[[], _T], timeout_s: float) -> _T:
        """Call a function in the thread of an idle worker, or of a new one, and wait for it.

        Args:
            work: The function.
            timeout_s: Longest wait in seconds.

        Returns:
            What the function returned.

        Raises:
            TimeoutError: The call did not return within `timeout_s` seconds, `close` was called, or too many calls in
                the process still hang.
        """
        with self._lock:
            if self._closed:
                raise TimeoutError("the call was given up")
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
        """End the threads. Calls that still wait end with TimeoutError."""
        with self._lock:
            self._closed = True
            idle, busy = list(self._idle), list(self._busy)
            self._idle.clear()
        for worker in busy:
            worker.abandon()
        for worker in idle:
            worker.close()


def _settle(outcome: Future[_T], work: Callable[[], _T]) -> None:
    """Call a function and keep its result or error, unless somebody has given the call up."""
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - `outcome.result` raises it again
        with contextlib.suppress(InvalidStateError):
            outcome.set_exception(error)
    else:
        with contextlib.suppress(InvalidStateError):
            outcome.set_result(result)
