"""One deadline that is handed down, so that the parts of a work cannot take longer than the whole may."""

from __future__ import annotations

import time
from collections.abc import Callable

from hubdist.errors import TransferTimeoutError

_LEAST_S = 0.001


class Deadline:
    """When a work has to be done; for several threads.

    Args:
        timeout_s: Seconds from now.
        clock: Seconds, growing.
    """

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.timeout_s = timeout_s
        self._clock = clock
        self._end = clock() + timeout_s

    def remaining_s(self) -> float:
        """Seconds that are left; 0 when it is over."""
        return max(0.0, self._end - self._clock())

    def within(self, timeout_s: float) -> float:
        """The shorter one of a time and of what is left; never 0, which some libraries take for no limit."""
        return max(_LEAST_S, min(timeout_s, self.remaining_s()))

    def check(self, redacted: str) -> None:
        """Raise if it is over.

        Args:
            redacted: What is read, for the error.

        Raises:
            TransferTimeoutError: It is over.
        """
        if self.remaining_s() <= 0:
            raise TransferTimeoutError(
                f"{redacted} was not read within {self.timeout_s:g} s", advice="Raise timeout_s if the origin is slow."
            )
