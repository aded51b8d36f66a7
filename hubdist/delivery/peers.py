"""What a delivery knows of each node, and how much may be under way to and from it."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

_SLOW_S = 5.0
"""Chunks that take so long are too many at the same time: they wait for each other, and should stay far from the time
after which they are asked for again."""

_SPARE = 2
"""Chunks that may be under way besides, if they matter more than others."""


@dataclass(slots=True)
class Window:
    """How many chunks may be under way at the same time.

    Attributes:
        most: Never more.
        bound: Never more, also of those that matter more than others.
        size: As many at the moment.
        used: As many are.
    """

    most: int
    bound: int
    size: int = field(init=False)
    used: int = 0

    def __post_init__(self) -> None:
        self.size = self.most

    @property
    def has_room(self) -> bool:
        """True if another chunk may be under way."""
        return self.used < self.size

    @property
    def has_spare_room(self) -> bool:
        """True if one that matters more may be under way too."""
        return self.used < min(self.bound, self.size + _SPARE)

    def learn(self, seconds: float) -> None:
        """A chunk took as long as this."""
        if seconds > _SLOW_S:
            self.size = max(1, self.size - 1)
        elif self.size < self.most:
            self.size += 1


class Role(enum.Enum):
    """What a member does."""

    RECEIVING = enum.auto()
    PUBLISHING = enum.auto()
    HOLDING = enum.auto()
    """It has the snapshot, and only sends."""


@dataclass(slots=True, eq=False)
class Peer:
    """One node, or the source. Sets of chunks and of nodes are integers with a bit for each.

    Attributes:
        name: The node's.
        bit: Its bit in sets of nodes.
        role: What it does.
        down: Chunks that it fetches.
        up: Fetches from it.
        lacks: Chunks that it has not and does not fetch.
        holds: Chunks that others may fetch from it.
        reads: Chunk -> who it is fetched from.
        only_source: Chunks that failed from peers again and again.
        sent: Fetches from it so far.
        tries: Chunk -> failed fetches.
        accused: Peers whose bytes it found wrong.
        barred: It sent wrong bytes and is not asked again.
        silent: It gives no answer; nobody counts on it until it does.
        resting: Chunks that others may fetch from it when it is not silent any more.
    """

    name: str
    bit: int
    role: Role
    down: Window
    up: Window
    lacks: int = 0
    holds: int = 0
    reads: dict[int, Peer] = field(default_factory=dict)
    only_source: int = 0
    sent: int = 0
    tries: Counter[int] = field(default_factory=Counter)
    accused: set[str] = field(default_factory=set)
    barred: bool = False
    silent: bool = False
    resting: int = 0


def ascending(mask: int) -> Iterator[int]:
    """The numbers in a set, lowest first."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def descending(mask: int) -> Iterator[int]:
    """The numbers in a set, highest first; the quicker way for large sets."""
    while mask:
        high = mask.bit_length() - 1
        yield high
        mask ^= 1 << high


def turned(mask: int, start: int) -> int:
    """The highest number in a set that is below `start`, else the highest of all. The set is not empty."""
    return (mask & (1 << start) - 1 or mask).bit_length() - 1


def without(mask: int, bit: int) -> int:
    """A set without one of its numbers, or of others; several times as quick as `& ~bit`."""
    return mask ^ bit if mask & bit else mask
