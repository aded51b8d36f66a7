"""Amounts as people write them: rates of links such as `25Gbit/s` or `1GiB/s`, and sizes such as `2GiB`."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping, Sequence

from pydantic import ByteSize, TypeAdapter, ValidationError

from hubdist.errors import ConfigError

_RATE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kKMGT]i?)?([bB][iI][tT]|b|B)\s*(?:/\s*s|ps)\s*")
_POWERS = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4}
_ADVICE = "Write a number and its unit, such as 25Gbit/s, 100 Mbit/s or 1GiB/s: `B` is a byte, `b` and `bit` are a bit."

LinkText = str | float
"""A rate as people write it; a number is bytes per second."""


def parse_link(value: object) -> float:
    """Return bytes per second.

    Args:
        value: The rate with its unit; a number is bytes per second.

    Raises:
        ConfigError: This is not a rate, or nothing flows at it.
    """
    rate = math.nan
    if isinstance(value, str) and (found := _RATE.fullmatch(value)) is not None:
        number, prefix, unit = found[1], found[2] or "", found[3]
        base = 1024 if prefix.endswith("i") else 1000
        rate = float(number) * base ** _POWERS[prefix.removesuffix("i")] / (1 if unit == "B" else 8)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        rate = float(value)
    if not 0 < rate < math.inf:  # also not a number
        raise ConfigError(f"{value!r} is not the rate of a link", advice=_ADVICE)
    return rate


def parse_links(value: LinkText | Sequence[LinkText] | Mapping[LinkText, int], nodes: int) -> tuple[float, ...]:
    """Return bytes per second of the link of each node.

    Args:
        value: One rate for all nodes, a list with a rate for each, or a mapping of rates to how many nodes have them.
        nodes: How many nodes there are.

    Raises:
        ConfigError: A rate is wrong, or the rates are not those of so many nodes.
    """
    if isinstance(value, Mapping):
        for rate, count in value.items():
            if not isinstance(count, int) or isinstance(count, bool) or count < 0:
                raise ConfigError(f"{count!r} is not a number of nodes with links of {rate}")
        rates = [parse_link(rate) for rate, count in value.items() for _ in range(count)]
    elif isinstance(value, Sequence) and not isinstance(value, str):
        rates = [parse_link(rate) for rate in value]
    else:
        rates = [parse_link(value)] * nodes
    if len(rates) != nodes:
        raise ConfigError(f"there are links of {len(rates)} nodes for {nodes} nodes", advice="Name one for each node.")
    return tuple(rates)


def parse_size(value: str | int) -> int:
    """Return bytes.

    Args:
        value: A size with its unit, such as `500MB` or `2GiB`; a number is bytes.

    Raises:
        ConfigError: This is not a size.
    """
    size = 0
    with contextlib.suppress(ValidationError):  # refused below
        size = int(TypeAdapter(ByteSize).validate_python(value))
    if size <= 0:
        raise ConfigError(f"{value!r} is not a size", advice="Write bytes, or a number and its unit, such as 2GiB.")
    return size


def link_text(rate: float) -> str:
    """A rate as people read it, such as `25 Gbit/s`.

    Args:
        rate: Bytes per second.
    """
    bits = rate * 8
    for unit, size in (("Gbit/s", 1e9), ("Mbit/s", 1e6)):
        if bits >= size:
            return f"{bits / size:.3g} {unit}"
    return f"{bits / 1e3:.3g} kbit/s"
