"""Keeps blocks of models that this process has read, up to a number of bytes, for readers of ranges."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

from hubdist.model.manifest import Digest


class BlockKey(NamedTuple):
    """Which block.

    Attributes:
        model: The model's digest.
        entry_index: The number of the file's entry in the manifest.
        number: The block's place in its file, from 0.
    """

    model: Digest
    entry_index: int
    number: int


class BlockCache:
    """Blocks in memory; those that were not used for longest go first. Safe for several threads.

    Args:
        max_bytes: Most bytes of all blocks together; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._guard = threading.Lock()
        self._blocks: OrderedDict[BlockKey, bytes] = OrderedDict()
        self._bytes = 0

    @property
    def total_bytes(self) -> int:
        """Bytes of all blocks that are kept now."""
        return self._bytes

    def __contains__(self, key: BlockKey) -> bool:
        return key in self._blocks

    def get(self, key: BlockKey) -> bytes | None:
        """The bytes of a block; None if they are not kept."""
        with self._guard:
            data = self._blocks.get(key)
            if data is not None:
                self._blocks.move_to_end(key)
            return data

    def keep(self, key: BlockKey, data: bytes) -> None:
        """Keep a block, and let go of others if there are too many.

        Args:
            key: Which block.
            data: Its bytes, checked.
        """
        with self._guard:
            self._bytes += len(data) - len(self._blocks.pop(key, b""))
            self._blocks[key] = data
            while self._bytes > self._max_bytes:
                _, dropped = self._blocks.popitem(last=False)
                self._bytes -= len(dropped)
