"""Work in threads of its own, for calls that give no deadline."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_T = TypeVar("_T")


def start_thread(work: Callable[[], _T], name: str) -> tuple[threading.Thread, Future[_T]]:
    """Begin work in a thread that does not keep the process from ending.

    Returns:
        The thread, and what will hold the work's result or error.
    """
    outcome: Future[_T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is raised again where the result is asked for
            outcome.set_exception(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread, outcome


def run_within(work: Callable[[], _T], name: str, timeout_s: float) -> _T:
    """Do work in a thread and wait for it; one that is late cannot be stopped and is left behind.

    Raises:
        TimeoutError: It was not done in `timeout_s` seconds.
    """
    thread, outcome = start_thread(work, name)
    result = outcome.result(timeout_s)
    thread.join(timeout_s)
    return result
