"""The retry engine for storage and HTTP: one rule for waits, one for giving up.

The callers bring what differs between them: which failures may pass, how a server asks for a longer wait, and which
error is raised in the end.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import tenacity

from hubdist.system.deadline import Deadline, Deadlines

_T = TypeVar("_T")
_MAX_RETRY_AFTER_S = 60.0
_MAX_DOUBLINGS = 30
_FAILED: Any = object()
"""Stands for the result when no further try is made."""


def retry_wait_s(failures: int, deadlines: Deadlines, *, retry_after_s: float | None, jitter: float) -> float:
    """Seconds to wait before the next try.

    Args:
        failures: Tries that failed in a row, at least 1.
        deadlines: The limits of the waits.
        retry_after_s: The wait that the server asked for, or None; more than a minute is cut to a minute.
        jitter: A random number from 0 (included) to 1 (excluded), so that many readers do not return at once.
    """
    backoff_s = min(deadlines.max_wait_s, deadlines.first_wait_s * 2.0 ** min(failures - 1, _MAX_DOUBLINGS))
    return max(backoff_s * (0.5 + jitter / 2), min(retry_after_s or 0.0, _MAX_RETRY_AFTER_S))


def retry(
    attempt: Callable[[], _T],
    deadlines: Deadlines,
    deadline: Deadline,
    *,
    may_pass: Callable[[Exception], bool],
    give_up: Callable[[Exception, int], Exception],
    retry_after_s: Callable[[Exception], float | None] = lambda _: None,
    on_retry: Callable[[Exception, int, float], None] = lambda *_: None,
    sleep: Callable[[float], None] = time.sleep,
) -> _T:
    """Call `attempt` until it returns, a failure is final, the retries are used up, or the next wait would be too long.

    Args:
        attempt: Makes one try, which has its own time limit.
        deadlines: How often to try and how long to wait.
        deadline: No wait goes beyond this deadline.
        may_pass: Tells whether another try may succeed after this failure.
        give_up: Makes the error to raise from the last failure and the number of tries. The error is raised outside
            of every `except` block, so that the failure, which may hold secrets, is not in its chain.
        retry_after_s: The wait in seconds that a failure's server asked for, or None.
        on_retry: Is told of a failure, its number and the wait in seconds before each retry.
        sleep: Waits for a number of seconds.

    Returns:
        What `attempt` returned.

    Raises:
        Exception: What `give_up` made of the last failure.
    """
    failures: list[Exception] = []

    def is_failure(state: tenacity.RetryCallState) -> bool:
        error = None if state.outcome is None else state.outcome.exception()
        if isinstance(error, Exception):  # KeyboardInterrupt and the like pass
            failures.append(error)
        return isinstance(error, Exception)

    def wait_s(state: tenacity.RetryCallState) -> float:
        jitter = random.random()  # noqa: S311  # spreads retries, guards nothing
        asked_s = retry_after_s(failures[-1])
        return retry_wait_s(state.attempt_number, deadlines, retry_after_s=asked_s, jitter=jitter)

    def is_over(state: tenacity.RetryCallState) -> bool:
        used_up = state.attempt_number > deadlines.retries or deadline.remaining_s() <= state.upcoming_sleep
        return used_up or not may_pass(failures[-1])

    result = tenacity.Retrying(
        retry=is_failure,
        wait=wait_s,
        stop=is_over,
        sleep=sleep,
        before_sleep=lambda state: on_retry(failures[-1], state.attempt_number, state.upcoming_sleep),
        retry_error_callback=lambda _: _FAILED,
    )(attempt)
    if result is _FAILED:
        raise give_up(failures[-1], len(failures))
    return result
