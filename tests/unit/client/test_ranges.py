"""Which blocks a reader of ranges asks for, and what it does with wrong ones; the driver's node is played here."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hubdist.client.block_cache import BlockCache
from hubdist.client.ranges import ModelRanges
from hubdist.config.schema import Config
from hubdist.delivery.routes import Route
from hubdist.errors import IntegrityError
from hubdist.model.chunks import Chunk
from hubdist.model.manifest import BLOCK_BYTES, EntryDigester, Manifest
from hubdist.remote.snapshot_copy import list_copy
from hubdist.resolver.values import LoaderPin, ReadSources

DATA = os.urandom(10 * BLOCK_BYTES + 77)


def manifest_of(data: bytes) -> Manifest:
    digester = EntryDigester("weights.bin")
    digester.update(data)
    return Manifest.of([digester.entry()])


class DriversNode:
    """Answers as a backend of a node without the model, and notes which bytes it was asked for."""

    def __init__(self, sources: ReadSources, data: bytes = DATA) -> None:
        self._sources = sources
        self._data = data
        self.asked: list[tuple[int, int]] = []
        self.received: list[int] = []

    def find(self, digest: Any) -> None:
        return None

    def access(self, pin: LoaderPin) -> ReadSources:
        return self._sources

    def read(self, manifest: Manifest, chunk: Chunk) -> bytearray:
        (piece,) = chunk.pieces
        self.asked.append((piece.start // BLOCK_BYTES, -(-piece.end // BLOCK_BYTES)))
        return bytearray(self._data[piece.start : piece.end])


def ranges_of(node: DriversNode, *, cache_blocks: int = 64) -> ModelRanges:
    manifest = node._sources.manifest
    backend: Any = SimpleNamespace(find=node.find, access=node.access, read=node.read)
    blocks = BlockCache(cache_blocks * BLOCK_BYTES)
    pin = LoaderPin("a model", manifest.digest)
    return ModelRanges(backend, Config(), pin, blocks, note_received=node.received.append)


def driver_only(manifest: Manifest) -> ReadSources:
    return ReadSources(manifest, ((Route.DRIVER, None),))


def test_only_blocks_that_are_missing_are_asked_for_and_few_at_a_time() -> None:
    node = DriversNode(driver_only(manifest_of(DATA)))
    ranges = ranges_of(node)
    start = 2 * BLOCK_BYTES + 1
    assert ranges.read("weights.bin", start, start + 5) == DATA[start : start + 5]
    assert node.asked == [(2, 3)]
    assert ranges.read("weights.bin", 0, len(DATA) + 1000) == DATA
    assert node.asked[1:] == [(0, 2), (3, 7), (7, 11)]
    assert sum(node.received) == len(DATA)
    assert ranges.read("weights.bin", start, start + 5) == DATA[start : start + 5]
    assert ranges.read("weights.bin", len(DATA), len(DATA) + 5) == b""
    assert len(node.asked) == 4


def test_memory_is_bounded_and_what_was_dropped_is_asked_for_again() -> None:
    node = DriversNode(driver_only(manifest_of(DATA)))
    ranges = ranges_of(node, cache_blocks=2)
    assert ranges.read("weights.bin", 0, len(DATA)) == DATA
    assert ranges._blocks.total_bytes <= 2 * BLOCK_BYTES
    asked = len(node.asked)
    assert ranges.read("weights.bin", 0, 10) == DATA[:10]
    assert node.asked[asked:] == [(0, 1)]


def test_wrong_bytes_are_refused_wherever_they_come_from() -> None:
    wrong = DriversNode(driver_only(manifest_of(DATA)), DATA[:BLOCK_BYTES] + bytes(len(DATA) - BLOCK_BYTES))
    ranges = ranges_of(wrong)
    assert ranges.read("weights.bin", 0, BLOCK_BYTES) == DATA[:BLOCK_BYTES]
    with pytest.raises(IntegrityError, match="damaged"):
        ranges.read("weights.bin", BLOCK_BYTES, BLOCK_BYTES + 1)


def test_a_copy_is_left_for_good_once_it_gave_wrong_bytes(tmp_path: Path) -> None:
    manifest = manifest_of(DATA)
    (tmp_path / "weights.bin").write_bytes(DATA[:BLOCK_BYTES] + bytes(len(DATA) - BLOCK_BYTES))
    copy = list_copy(str(tmp_path), Config().deadlines)
    node = DriversNode(ReadSources(manifest, ((Route.SHARED, copy), (Route.DRIVER, None))))
    ranges = ranges_of(node, cache_blocks=0)
    assert ranges.read("weights.bin", 0, 10) == DATA[:10]
    assert node.asked == []
    assert ranges.read("weights.bin", BLOCK_BYTES, BLOCK_BYTES + 5) == DATA[BLOCK_BYTES : BLOCK_BYTES + 5]
    assert ranges.read("weights.bin", 0, 10) == DATA[:10]
    assert node.asked == [(1, 2), (0, 1)]


def test_a_copy_is_not_read_by_block_digests_that_nobody_has_proven(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(DATA)
    copy = list_copy(str(tmp_path), Config().deadlines)
    sources = ReadSources(manifest_of(DATA).unproven(), ((Route.SHARED, copy), (Route.DRIVER, None)))
    node = DriversNode(sources)
    assert ranges_of(node).read("weights.bin", 0, 10) == DATA[:10]
    assert node.asked == [(0, 1)]
