"""The clocks of nodes, against the driver's: how far they are off, and how sure that is."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hubdist.health.finding import Finding, Level

_WARN_S = 3.0
_FAIL_S = 300.0
_UNSEEN_S = 0.1
_MEND = "Let NTP set its clock (chronyd, or `timedatectl set-ntp true`)."
_DRIVERS = "the driver's machine"


@dataclass(frozen=True, slots=True)
class Offset:
    """How far a clock is ahead of the driver's.

    Attributes:
        seconds: Negative if it is behind.
        doubt_s: The true offset differs by at most so much.
    """

    seconds: float
    doubt_s: float


def measure_offset(exchanges: Iterable[tuple[float, float, float]]) -> Offset:
    """The offset that the quickest exchange shows.

    Args:
        exchanges: For each question to the node, the driver's time when it was sent, the node's time, and the driver's
            time when the answer had come; at least one.
    """
    sent, answered, received = min(exchanges, key=lambda each: each[2] - each[0])
    return Offset(answered - (sent + received) / 2, (received - sent) / 2)


def judge_clocks(offsets: Mapping[str, Offset], *, warn_s: float = _WARN_S, fail_s: float = _FAIL_S) -> list[Finding]:
    """Judge clocks. If most nodes agree with each other and not with the driver, the driver's clock is the wrong one.

    Args:
        offsets: Node -> offset of its clock.
        warn_s: A larger offset is a warning.
        fail_s: A larger offset is a failure: certificates and tokens are not valid then.
    """
    middle = statistics.median([0.0, *(offset.seconds for offset in offsets.values())])
    common = middle if abs(middle) > warn_s else 0.0
    findings = []
    if common:
        findings.append(_judge(_DRIVERS, Offset(-common, 0.0), "the nodes", warn_s, fail_s))
    findings += [
        _judge(
            node,
            Offset(offset.seconds - common, offset.doubt_s),
            "the other nodes" if common else "the driver",
            warn_s,
            fail_s,
        )
        for node, offset in offsets.items()
    ]
    return findings


def _judge(node: str, offset: Offset, whose: str, warn_s: float, fail_s: float) -> Finding:
    least = abs(offset.seconds) - offset.doubt_s
    if least > warn_s:
        level = Level.FAIL if least > fail_s else Level.WARN
        direction = "ahead of" if offset.seconds > 0 else "behind"
        why = "; certificates and tokens are refused then" if level is Level.FAIL else ""
        found = f"its clock is {duration_words(abs(offset.seconds))} {direction} the clock of {whose}{why}"
        return Finding("clock", level, node, found, _MEND)
    shown = max(_UNSEEN_S, abs(offset.seconds), offset.doubt_s)  # less concerns nobody
    return Finding("clock", Level.OK, node, f"its clock agrees with {whose}'s within {duration_words(shown)}")


def duration_words(seconds: float) -> str:
    """A time for people: `4 ms`, `2.5 s`, `61 min`."""
    if seconds < 1:
        return f"{max(1, round(seconds * 1000))} ms"
    return f"{seconds:.1f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
