"""Reads byte ranges of models that this node need not have, for `hubdist.integrations.fsspec`.

A process asks for the manifest and for whole blocks, checks every block against the manifest, and keeps some in memory.
Nothing is written to a store, and no more of the model travels than the blocks that the ranges touch.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator

from hubdist.client.backend import Backend
from hubdist.client.block_cache import BlockCache, BlockKey
from hubdist.client.current import current_process
from hubdist.client.process import Process
from hubdist.config.schema import Config
from hubdist.errors import IntegrityError, StoreError
from hubdist.model.chunks import Chunk, Piece, chunk_of
from hubdist.model.manifest import BLOCK_BYTES, Digest
from hubdist.model.redact import redact_url
from hubdist.remote.copy_reader import CopyReader
from hubdist.remote.snapshot_copy import FALLBACK_ERRORS, RemoteCopy, probe
from hubdist.resolver.values import CallOptions, LoaderPin, ReadSources
from hubdist.store.snapshot import Snapshot
from hubdist.system.log_once import LogOnce

_LOG = logging.getLogger(__name__)
_MAX_BLOCKS = 4
"""Most blocks of one request: each comes as the answer of a call, and is in memory twice until it is copied."""


class ModelRanges:
    """Reads byte ranges of one model. Safe for several threads.

    The store of this process's node is read if it has the model; else the places that the job's routes name, in their
    order; the driver's node is asked last.

    Args:
        backend: Finds and reads the model.
        config: The settings of this process.
        pin: The model.
        blocks: Keeps blocks in memory.
        note_received: Hears of the bytes of each read from elsewhere than this node's store.

    Attributes:
        manifest: The model's files.

    Raises:
        HubdistError: The coordinator does not know the model.
    """

    def __init__(
        self,
        backend: Backend,
        config: Config,
        pin: LoaderPin,
        blocks: BlockCache,
        *,
        note_received: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._note_received = note_received
        self._backend = backend
        self._config = config
        self._pin = pin
        self._blocks = blocks
        self._guard = threading.Lock()
        self._once = LogOnce(_LOG)
        self._own: Snapshot | None = None
        self._own_is_damaged = False
        self._sources: ReadSources | None = None
        self._readers: dict[str, CopyReader] = {}
        """URL of a copy -> what reads it."""
        self._failed: set[str] = set()
        """URLs of copies that could not be read, or hold other bytes."""
        self._opened = contextlib.ExitStack()
        weakref.finalize(self, self._opened.close)
        self.look_into_store()
        self.manifest = self._find_sources().manifest if self._own is None else self._own.manifest
        self._indices = {entry.path: index for index, entry in enumerate(self.manifest.entries)}

    def look_into_store(self) -> None:
        """Read from this node's store from now on, if it has got the model meanwhile."""
        if self._own is None and not self._own_is_damaged:
            self._own = self._backend.find(self._pin.digest)

    def read(self, path: str, start: int, end: int) -> bytes:
        """The bytes of a range, checked.

        Args:
            path: One of the manifest's files.
            start: Offset of the first byte, not negative.
            end: Offset behind the last byte; what is behind the file's end is left out.

        Raises:
            HubdistError: No place gives the bytes of the model.
        """
        index = self._indices[path]
        end = min(end, self.manifest.entries[index].size)
        found = bytearray(max(0, end - start))
        for at, data in self._blocks_of(index, start, end):
            begin, stop = max(start, at), min(end, at + len(data))
            found[begin - start : stop - start] = data[begin - at : stop - at]
        return bytes(found)

    def _blocks_of(self, index: int, start: int, end: int) -> Iterator[tuple[int, memoryview]]:
        """The blocks that cover a range, each with its offset in the file; several in a row may come as one."""
        number, behind = start // BLOCK_BYTES, -(-end // BLOCK_BYTES)
        while number < behind:
            kept = self._blocks.get(self._key(index, number))
            if kept is None:
                last = number + 1
                while last < min(behind, number + _MAX_BLOCKS) and self._key(index, last) not in self._blocks:
                    last += 1
                data = self._fetch(index, number, last)
            else:
                data = memoryview(kept)
            yield number * BLOCK_BYTES, data
            number += -(-len(data) // BLOCK_BYTES)

    def _key(self, index: int, number: int) -> BlockKey:
        return BlockKey(self._pin.digest, index, number)

    def _fetch(self, index: int, first: int, behind: int) -> memoryview:
        """Read blocks from the best place, and keep them."""
        size = self.manifest.entries[index].size
        piece = Piece(index, first * BLOCK_BYTES, min(behind * BLOCK_BYTES, size))
        data = self._read_chunk(chunk_of(self.manifest, (piece,)))
        for number, at in zip(range(first, behind), range(0, len(data), BLOCK_BYTES), strict=True):
            # A copy: a part of a larger buffer would keep all of it in memory.
            self._blocks.keep(self._key(index, number), bytes(data[at : at + BLOCK_BYTES]))
        return data

    def _read_chunk(self, chunk: Chunk) -> memoryview:
        own = self._own
        if own is not None:
            data = memoryview(bytearray(chunk.size))
            try:
                own.read_chunk(chunk, data)
            except (IntegrityError, StoreError) as error:
                self._own, self._own_is_damaged = None, True
                self._once.log("store", "hubdist: not %s: %s", f"store {own.root}", error)
            else:
                return data
        data = self._read_elsewhere(chunk)
        self._note_received(chunk.size)
        return data

    def _read_elsewhere(self, chunk: Chunk) -> memoryview:
        proven = self.manifest.blocks_proven  # without it no block could be checked, and the driver's node checks
        for route, copy in self._find_sources().candidates:
            if copy is None:
                break
            if not proven or copy.url in self._failed:
                continue
            try:
                return self._read_copy(copy, chunk)
            except FALLBACK_ERRORS as error:
                self._failed.add(copy.url)
                text = f"{route} {redact_url(copy.url)}"
                self._once.log(text, "hubdist: not %s: %s", text, error)
        data = memoryview(self._backend.read(self.manifest, chunk))
        if proven:
            chunk.check(data)
        return data

    def _read_copy(self, copy: RemoteCopy, chunk: Chunk) -> memoryview:
        config = self._config
        with self._guard:
            reader = self._readers.get(copy.url)
            if reader is None:
                limit = config.max_store_bytes
                probe(copy.url, config.deadlines, timeout_s=config.probe_timeout_s, max_bytes=limit)
                reader = CopyReader(copy, self.manifest, config.deadlines, max_bytes=limit)
                self._opened.callback(reader.close)
                self._readers[copy.url] = reader
        data = memoryview(bytearray(chunk.size))
        reader.read(chunk, data)
        chunk.check(data)
        return data

    def _find_sources(self) -> ReadSources:
        if self._sources is None:
            self._sources = self._backend.access(self._pin)
        return self._sources


class RangeReaders:
    """The models whose ranges this process reads: opened once each, and closed when hubdist is shut down.

    Args:
        cache_bytes: Most bytes of blocks that are kept in memory, of all models together.
        max_models: Most models that are kept open; each needs an open file.
    """

    def __init__(self, cache_bytes: int, max_models: int = 16) -> None:
        self.blocks = BlockCache(cache_bytes)
        self._max_models = max_models
        self._guard = threading.Lock()
        self._received_bytes = 0
        self._open: weakref.WeakKeyDictionary[Process, OrderedDict[Digest, ModelRanges]] = weakref.WeakKeyDictionary()

    @property
    def received_bytes(self) -> int:
        """Bytes of blocks that have come to this process from elsewhere than its node's store."""
        return self._received_bytes

    def open(self, handle: str | os.PathLike[str]) -> ModelRanges:
        """The reader of what a handle stands for now; the first call of the job resolves the handle.

        Args:
            handle: As for `hubdist.load`.

        Raises:
            HubdistError: As for `hubdist.load`.
        """
        process = current_process()
        pin = process.pin_of(handle, _options_of(process))
        with self._guard:
            models = self._open.setdefault(process, OrderedDict())
            known = models.get(pin.digest)
        if known is None:
            # Without the settings of the call above, which are about who reads the origin.
            known = ModelRanges(
                process.backend,
                process.config,
                LoaderPin(pin.handle, pin.digest),
                self.blocks,
                note_received=self._note_received,
            )
            with self._guard:
                known = models.setdefault(pin.digest, known)
                while len(models) > self._max_models:
                    models.popitem(last=False)  # closed when no open file needs it any more
        known.look_into_store()
        return known

    def _note_received(self, size: int) -> None:
        with self._guard:
            self._received_bytes += size


@functools.cache
def shared_readers(cache_bytes: int) -> RangeReaders:
    """The readers that all threads of this process share; a forked child has its own.

    Args:
        cache_bytes: As for `RangeReaders`.
    """
    return RangeReaders(cache_bytes)


os.register_at_fork(after_in_child=shared_readers.cache_clear)


def _options_of(process: Process) -> CallOptions:
    """What a reader of ranges asks for when it pins a handle: that this node reads and keeps nothing of the origin.

    By the route `auto` the first node that asks may read a directory in a bucket, all of it. So the driver's node does,
    unless the settings say otherwise.
    """
    elsewhere = process.config.route == "auto" and not process.backend.sees_drivers_disk
    return CallOptions(route="driver" if elsewhere else None, read_mode="memory")
