"""The retry engine: when it stops, what it tells, and that what a library raised is in no chain."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hubdist.errors import OriginError
from hubdist.system.deadline import Deadline, Deadlines
from hubdist.system.retry import retry


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sleeps: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


def run(
    attempt: Callable[[], str], clock: Clock, deadlines: Deadlines, *, asked_s: float | None = None
) -> tuple[str, list[int]]:
    told: list[int] = []
    found = retry(
        attempt,
        deadlines,
        Deadline(deadlines.total_s, clock),
        may_pass=lambda error: isinstance(error, OSError),
        give_up=lambda error, tries: OriginError(f"{type(error).__name__} after {tries}"),
        retry_after_s=lambda _: asked_s,
        on_retry=lambda _error, failures, _wait_s: told.append(failures),
        sleep=clock.sleep,
    )
    return found, told


def failing(times: int, error: Exception) -> Callable[[], str]:
    left = [error] * times

    def attempt() -> str:
        if left:
            raise left.pop()
        return "read"

    return attempt


def test_failures_that_pass_are_retried_and_told() -> None:
    clock = Clock()
    assert run(failing(3, OSError("secret")), clock, Deadlines(retries=3)) == ("read", [1, 2, 3])
    assert len(clock.sleeps) == 3


def test_the_retries_end_and_the_failure_is_in_no_chain() -> None:
    clock = Clock()
    with pytest.raises(OriginError, match="OSError after 3") as caught:
        run(failing(9, OSError("secret")), clock, Deadlines(retries=2))
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert len(clock.sleeps) == 2


def test_a_final_failure_is_not_retried() -> None:
    clock = Clock()
    with pytest.raises(OriginError, match="ValueError after 1"):
        run(failing(1, ValueError("secret")), clock, Deadlines(retries=9))
    assert clock.sleeps == []


def test_no_wait_goes_beyond_the_deadline() -> None:
    clock = Clock()
    with pytest.raises(OriginError, match="OSError after 3"):
        run(failing(99, OSError()), clock, Deadlines(total_s=50, retries=99), asked_s=20)
    assert clock.sleeps == [20, 20]


def test_what_is_not_an_error_passes_at_once() -> None:
    def attempt() -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(attempt, Clock(), Deadlines())
