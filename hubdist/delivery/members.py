"""What a delivery knows of each node, and how much may be under way to and from it."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

_SLOW_S = 5.0
"""Ray asks again for an object that takes over ten seconds, and sends it twice; so chunks that take half as long are
too many at the same time."""

_SPARE = 2


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
        elif seconds < _SLOW_S / 2:
            self.size = min(self.most, self.size + 1)


class Role(enum.Enum):
    """What a member does."""

    RECEIVING = enum.auto()
    PUBLISHING = enum.auto()
    HOLDING = enum.auto()
    """It has the snapshot, and only sends."""


@dataclass(slots=True, eq=False)
class Member:
    """One node, or the source. Sets of chunks and of nodes are integers with a bit for each.

    Attributes:
        name: The node's.
        bit: Its bit in sets of nodes.
        role: What it does.
        down: Chunks that it fetches.
        up: Fetches from it.
        most_offers: Chunks that it may have on offer at the same time.
        lacks: Chunks that it has not and does not fetch.
        holds: Chunks on its disk.
        offers: Chunks that it has on offer for further readers.
        offering: Chunks that it was told to offer.
        readers: Chunk -> nodes that fetch it from here; also of offers that take no further readers.
        reads: Chunk -> who it is fetched from.
        keeps: Those of them that it will offer.
        only_source: Chunks that failed from peers again and again.
        sent: Fetches from it so far.
        tries: Chunk -> failed fetches.
        accused: Peers whose bytes it found wrong.
        barred: It sent wrong bytes and is not asked again.
    """

    name: str
    bit: int
    role: Role
    down: Window
    up: Window
    most_offers: int
    lacks: int = 0
    holds: int = 0
    offers: int = 0
    offering: int = 0
    readers: dict[int, int] = field(default_factory=dict)
    reads: dict[int, Member] = field(default_factory=dict)
    keeps: int = 0
    only_source: int = 0
    sent: int = 0
    tries: Counter[int] = field(default_factory=Counter)
    accused: set[str] = field(default_factory=set)
    barred: bool = False

    @property
    def may_offer(self) -> bool:
        """True if there is room for one more offer, if need be in the place of one that nobody reads."""
        busy = len(self.readers) + (self.keeps | self.offering).bit_count()
        return busy < self.most_offers and not self.barred

    def idle_offer(self) -> int | None:
        """The oldest offer that nobody reads, if all room is taken; else None."""
        closing = sum(1 for chunk in self.readers if not self.offers >> chunk & 1)
        taken = (self.offers | self.keeps | self.offering).bit_count() + closing
        if taken < self.most_offers:
            return None
        return next((chunk for chunk in bits(self.offers) if chunk not in self.readers), None)


def bits(mask: int) -> Iterator[int]:
    """The numbers in a set, lowest first."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def turned(mask: int, start: int) -> int:
    """The lowest number in a set that is at least `start`, else the lowest of all. The set is not empty."""
    rest = mask >> start
    if rest:
        return start + (rest & -rest).bit_length() - 1
    return (mask & -mask).bit_length() - 1
