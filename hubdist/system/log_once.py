"""One warning per reason, for parts that go another way when something fails, perhaps thousands of times."""

from __future__ import annotations

import logging
import threading
from collections.abc import Hashable


class LogOnce:
    """Logs one line for each reason, and drops later lines for the same reason. Safe for several threads.

    Args:
        logger: The logger of the module that writes the lines.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._guard = threading.Lock()
        self._logged: set[Hashable] = set()

    def log(self, reason: Hashable, text: str, *values: object, level: int = logging.WARNING) -> None:
        """Log a line, unless a line was logged for this reason before.

        Args:
            reason: What counts as the same reason. This object keeps it for as long as it lives.
            text: The line, with a `%s` for each value.
            *values: What the line's places are filled with.
            level: A level of `logging`.
        """
        with self._guard:
            if reason in self._logged:
                return
            self._logged.add(reason)
        self._logger.log(level, text, *values, stacklevel=2)
