"""Retries of one step of an HTTP read: which failures may pass, what is logged, and the error in the end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from hubdist.errors import OriginError, TransferTimeoutError
from hubdist.system.deadline import Deadline, Deadlines
from hubdist.system.retry import retry

_LOG = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class InterruptedReadError(Exception):
    """A try failed in a way that another try may not; never leaves the origins.

    Attributes:
        words: What happened, without a URL.
        retry_after_s: Seconds that the origin asks to wait, or None.
    """

    def __init__(self, words: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(words)
        self.words = words
        self.retry_after_s = retry_after_s


def retry_step(
    step: Callable[[], _Result],
    redacted: str,
    deadlines: Deadlines,
    deadline: Deadline,
    sleep: Callable[[float], None],
) -> _Result:
    """Run one step of an HTTP read until it succeeds, its retries are used up, or the deadline is too near to wait.

    Each call counts failures from zero, because an earlier step that returned was progress.

    Args:
        step: Makes one try; raises `InterruptedReadError` if another try may succeed.
        redacted: The URL without secrets, for messages.
        deadlines: How often to try and how long to wait.
        deadline: When the whole read must be done.
        sleep: Waits for a number of seconds.

    Returns:
        What `step` returned.

    Raises:
        OriginError: The step was interrupted more than `deadlines.retries` times in a row.
        TransferTimeoutError: The next wait would end after the deadline.
        Exception: Any other error of `step`, at once.
    """

    def give_up(error: Exception, tries: int) -> Exception:
        if not isinstance(error, InterruptedReadError):
            return error
        if tries <= deadlines.retries:
            return TransferTimeoutError(
                f"{redacted} was not read within {deadline.timeout_s:g} s; last failure: {error.words}"
            )
        if tries == 1:
            return OriginError(f"{redacted} failed: {error.words}")
        return OriginError(f"{redacted} failed {tries} times in a row; last failure: {error.words}")

    def log(error: Exception, failures: int, wait_s: float) -> None:
        _LOG.warning("%s: %s; retry %d of %d in %.1f s", redacted, error, failures, deadlines.retries, wait_s)

    return retry(
        step,
        deadlines,
        deadline,
        may_pass=lambda error: isinstance(error, InterruptedReadError),
        give_up=give_up,
        retry_after_s=lambda error: error.retry_after_s if isinstance(error, InterruptedReadError) else None,
        on_retry=log,
        sleep=sleep,
    )
