"""A finding: what a check has found on a node, how bad it is, and what to do."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from hubdist.errors import HubdistError


class Level(enum.StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    """It works, but slowly, in a roundabout way, or not for long."""
    FAIL = "fail"
    """Some load fails, or bytes go another way than the settings say."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of what `hubdist doctor` prints.

    Attributes:
        check: What was checked: a subject, such as `store`, or a part of one, such as `store-speed`.
        level: How bad it is.
        node: Name of the node; "" if no single node is concerned.
        found: What was found, without secrets.
        mend: What to do, in whole sentences; None where nothing is to be done.
    """

    check: str
    level: Level
    node: str
    found: str
    mend: str | None = None

    @property
    def subject(self) -> str:
        """The subject that the check belongs to."""
        return self.check.partition("-")[0]


Plain = tuple[str, str, str, str | None]
"""A finding as it travels between processes of different versions: check, level, what was found, mend."""


def of_error(check: str, error: HubdistError, level: Level, mend: str) -> Plain:
    """The finding that an error is.

    Args:
        check: What was checked.
        error: What it raised.
        level: How bad that is.
        mend: What to do if the error itself gives no advice.
    """
    return check, level.value, error.what, error.advice or mend


def named(node: str, plain: Sequence[Plain]) -> list[Finding]:
    """The findings of a node.

    Args:
        node: The node's name.
        plain: What the process on the node has returned.
    """
    return [Finding(check, Level(level), node, found, mend) for check, level, found, mend in plain]


def size_words(size: int) -> str:
    """A number of bytes for people: `32 MiB`, `1.5 GiB`."""
    for unit, name in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB")):
        if size >= unit:
            return f"{size / unit:.0f} {name}" if size >= 100 * unit or unit == 1 << 20 else f"{size / unit:.1f} {name}"
    return f"{size} bytes"
