"""What is known of one peer of a delivery (a node, or the source), and sets of peers and chunks as integers.

A set of small numbers is an integer with one bit for each number. A machine instruction handles 64 of them at once, so
a plan with thousands of nodes stays quick.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

_SLOW_S = 5.0
"""A chunk that takes longer than this shows that too many fetches share a link: each of them comes closer to the
deadline after which its chunk is asked for again."""

_URGENT_SLOTS = 2
"""Extra slots for urgent fetches, those of chunks that no node has or fetches."""


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


@dataclass(slots=True)
class Window:
    """The slots of one peer for fetches in one direction; fewer while chunks are slow.

    Attributes:
        max_slots: Slots while chunks come quickly.
        max_urgent_slots: Slots that urgent fetches may use; never exceeded.
        slots: Slots at the moment, from 1 to `max_slots`.
        used: Fetches that take a slot now.
    """

    max_slots: int
    max_urgent_slots: int
    slots: int = field(init=False)
    used: int = 0

    def __post_init__(self) -> None:
        self.slots = self.max_slots

    @property
    def has_slot(self) -> bool:
        """True if another fetch may begin."""
        return self.used < self.slots

    @property
    def has_urgent_slot(self) -> bool:
        """True if another urgent fetch may begin."""
        return self.used < min(self.max_urgent_slots, self.slots + _URGENT_SLOTS)

    def adapt(self, seconds: float) -> None:
        """Take a slot away after a slow chunk, and give one back after a quick one."""
        if seconds > _SLOW_S:
            self.slots = max(1, self.slots - 1)
        elif self.slots < self.max_slots:
            self.slots += 1


class Role(enum.Enum):
    """What a peer does in the delivery."""

    RECEIVING = enum.auto()
    """The node wants or fetches chunks."""

    PUBLISHING = enum.auto()
    """The node has every chunk and turns its stage into a snapshot."""

    HOLDING = enum.auto()
    """The node has the snapshot and only sends."""


@dataclass(slots=True, eq=False)
class Peer:
    """One node, or the source. Sets of chunks are bit sets.

    `PeerSet` changes role, windows, `sent`, `banned` and `silent`; `ChunkMap` changes the sets of chunks;
    `PendingFetches` changes `fetches`; `DeliveryPlan` changes `tries` and `accused`.

    Attributes:
        name: The node's name, or the source's.
        bit: The peer's bit in sets of peers; 0 for the source, which is in no set.
        role: What the peer does.
        fetch_window: Slots for what the peer fetches.
        send_window: Slots for what others fetch from the peer.
        wants: Chunks that the peer needs and does not fetch yet.
        has: Chunks that others may fetch from the peer.
        withheld: Chunks that a silent peer has; others may fetch them once the peer answers again.
        source_only: Chunks that failed from other nodes too often: the peer gets them from the source.
        fetches: Chunk -> the peer that it is being fetched from.
        sent: How many fetches from this peer have begun.
        tries: Chunk -> how many fetches of it have failed.
        accused: Names of peers whose bytes this peer found wrong.
        banned: True once the peer has sent wrong bytes; nobody fetches from it again.
        silent: True while the peer gives no answer; nobody counts on it meanwhile.
    """

    name: str
    bit: int
    role: Role
    fetch_window: Window
    send_window: Window
    wants: int = 0
    has: int = 0
    withheld: int = 0
    source_only: int = 0
    fetches: dict[int, Peer] = field(default_factory=dict)
    sent: int = 0
    tries: Counter[int] = field(default_factory=Counter)
    accused: set[str] = field(default_factory=set)
    banned: bool = False
    silent: bool = False
