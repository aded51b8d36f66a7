"""Sizes and times as people write and read them on a command line: `1.5GB`, `30d`, `3 days ago`."""

from __future__ import annotations

import re

import click

_SIZES = {"": 1, "B": 1} | {
    f"{prefix}{kind}B": base**power
    for kind, base in (("", 1000), ("I", 1024))
    for power, prefix in enumerate("KMGT", 1)
}
_TIMES = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0, "y": 365 * 86400.0}
_WORDS = (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0), ("second", 1.0))


def parse_size(text: str) -> int:
    """Bytes of a size such as `500MB`, `20GiB` or `1000`.

    Raises:
        click.BadParameter: The text is no size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if found is None or found[2].upper() not in _SIZES:
        raise click.BadParameter(f"{text!r} is not a size; write 500MB, 20GiB or a number of bytes")
    return int(float(found[1]) * _SIZES[found[2].upper()])


def parse_age(text: str) -> float:
    """Seconds of a time such as `30d`, `12h`, `90m`, `45s`, `2w` or `1y`.

    Raises:
        click.BadParameter: The text is no time.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdwy])", text.strip())
    if found is None:
        raise click.BadParameter(f"{text!r} is not a time; write 30d, 12h, 90m, 45s, 2w or 1y")
    return float(found[1]) * _TIMES[found[2]]


def show_age(seconds: float) -> str:
    """How long ago something was, for people: `3 days ago`."""
    for word, length in _WORDS:
        count = int(seconds // length)
        if count >= 1:
            return f"{count} {word}{'' if count == 1 else 's'} ago"
    return "now"
