"""Run a step of an HTTP read again until it succeeds, its failures are used up, or time is."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type

from hubdist.errors import OriginError, TransferTimeoutError
from hubdist.origins.http.rules import HttpRules, retry_wait_s

_LOG = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class InterruptedReadError(Exception):
    """A try failed in a way that another one may not; never leaves the origins.

    Attributes:
        words: What happened, without a URL.
        retry_after_s: Seconds that the origin asks to wait, or None.
    """

    def __init__(self, words: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(words)
        self.words = words
        self.retry_after_s = retry_after_s


class Retries:
    """Runs a step until it succeeds, its failures are used up, or the deadline would pass while waiting.

    Args:
        redacted: The URL for messages, secrets removed.
        rules: Numbers of retries and waits.
        deadline: When all is over, on `clock`.
        clock: Seconds, growing.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        redacted: str,
        rules: HttpRules,
        deadline: float,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._shown = redacted
        self._rules = rules
        self._deadline = deadline
        self._clock = clock
        self._sleep = sleep

    def run(self, step: Callable[[], _Result]) -> _Result:
        """The step's result. Every call counts its failures anew: what the call before returned was progress.

        Raises:
            OriginError: It was interrupted more than `max_retries` times.
            TransferTimeoutError: The next wait would end after the deadline.
        """
        retrying = Retrying(
            retry=retry_if_exception_type(InterruptedReadError),
            wait=self._wait_s,
            stop=self._is_over,
            sleep=self._sleep,
            before_sleep=self._log,
            reraise=True,
        )
        try:
            return retrying(step)
        except InterruptedReadError as error:
            words = error.words
        tries = retrying.statistics["attempt_number"]
        if tries <= self._rules.max_retries:
            raise TransferTimeoutError(
                f"{self._shown} was not read within {self._rules.total_timeout_s:g} s; last failure: {words}"
            )
        raise OriginError(f"{self._shown} failed {tries} times in a row; last failure: {words}")

    def _wait_s(self, state: RetryCallState) -> float:
        jitter = random.random()  # noqa: S311  # spreads retries, guards nothing
        asked_s = _failure(state).retry_after_s
        return retry_wait_s(state.attempt_number, self._rules, retry_after_s=asked_s, jitter=jitter)

    def _is_over(self, state: RetryCallState) -> bool:
        out_of_time = self._clock() + state.upcoming_sleep >= self._deadline
        return out_of_time or state.attempt_number > self._rules.max_retries

    def _log(self, state: RetryCallState) -> None:
        _LOG.warning(
            "%s: %s; retry %d of %d in %.1f s",
            self._shown,
            _failure(state).words,
            state.attempt_number,
            self._rules.max_retries,
            state.upcoming_sleep,
        )


def _failure(state: RetryCallState) -> InterruptedReadError:
    error = state.outcome.exception() if state.outcome is not None else None
    assert isinstance(error, InterruptedReadError)
    return error
