"""Sets of small numbers as integers with one bit for each number, for chunks and for peers.

A machine instruction handles 64 numbers of such a set at once, so a plan with thousands of nodes stays quick.
"""

from __future__ import annotations

from collections.abc import Iterator


def ascending(numbers: int) -> Iterator[int]:
    """Yield the numbers of a set, lowest first."""
    while numbers:
        low = numbers & -numbers
        yield low.bit_length() - 1
        numbers ^= low


def descending(numbers: int) -> Iterator[int]:
    """Yield the numbers of a set, highest first. In large sets this is quicker than `ascending`."""
    while numbers:
        high = numbers.bit_length() - 1
        yield high
        numbers ^= 1 << high


def next_below(numbers: int, start: int) -> int:
    """Return the highest number below `start`, or the highest of all if there is none.

    Args:
        numbers: A set that is not empty.
        start: The number that was chosen last; the caller goes round the set by passing each answer in again.
    """
    return (numbers & (1 << start) - 1 or numbers).bit_length() - 1


def without(numbers: int, removed: int) -> int:
    """Return a set without the one number whose bit is given.

    The test comes first because `numbers & ~removed` makes two large integers even if there is nothing to remove.

    Args:
        numbers: The set.
        removed: A set of exactly one number.
    """
    return numbers ^ removed if numbers & removed else numbers
