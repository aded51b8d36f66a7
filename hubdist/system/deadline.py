"""How long work may take: the limits of reads (`Deadlines`), and one running deadline that all parts of a task share.

A `Deadline` is handed down, so that the parts of a task together cannot take longer than the task may.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from hubdist.errors import TransferTimeoutError

_MIN_S = 0.001


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How patiently an origin or a storage is read.

    Attributes:
        connect_s: Longest time in seconds to open a connection.
        stall_s: Longest time in seconds without a byte.
        total_s: Longest time in seconds for one read as a whole, waits between tries included.
        retries: How many tries may follow the first one when tries fail in a row; progress resets the count.
        first_wait_s: Longest wait in seconds before the first retry. The limit doubles with each further retry.
        max_wait_s: Longest wait in seconds before any retry, unless the server asks for a longer one.
    """

    connect_s: float = 10.0
    stall_s: float = 30.0
    total_s: float = 3600.0
    retries: int = 5
    first_wait_s: float = 0.5
    max_wait_s: float = 20.0


class Deadline:
    """The moment when a task must be done. Safe for several threads.

    Args:
        timeout_s: Seconds from now.
        clock: Returns growing seconds; tests pass their own.
    """

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.timeout_s = timeout_s
        self._clock = clock
        self._end = clock() + timeout_s

    def remaining_s(self) -> float:
        """Seconds that are left; 0 after the deadline."""
        return max(0.0, self._end - self._clock())

    def within(self, timeout_s: float) -> float:
        """The shorter one of a time and the time that is left; never 0, which some libraries read as "no limit"."""
        return max(_MIN_S, min(timeout_s, self.remaining_s()))

    def check(self, redacted: str) -> None:
        """Raise an error after the deadline.

        Args:
            redacted: What is being read, for the error.

        Raises:
            TransferTimeoutError: The deadline has passed.
        """
        if self.remaining_s() <= 0:
            raise TransferTimeoutError(
                f"{redacted} was not read within {self.timeout_s:g} s", advice="Raise timeout_s if the origin is slow."
            )
