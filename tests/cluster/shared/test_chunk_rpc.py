"""Bytes from agent to agent: any size, checked where they arrive, without Ray's object stores; and who is to blame."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray._private.internal_api import node_stats

from hubdist.cluster.agent.chunk_rpc import PART_BYTES, Sender, pickle_agent, split_into_results
from hubdist.cluster.agent.messages import DeliveryTerms
from hubdist.cluster.calls import stop_actor
from hubdist.cluster.connection import make_agent
from hubdist.cluster.nodes import alive_nodes
from hubdist.config.schema import Config
from hubdist.errors import HubdistError, IntegrityError, PeerError, SenderLostError
from hubdist.model.chunks import Chunk, Piece, chunk_of
from hubdist.model.manifest import BLOCK_BYTES, Manifest
from hubdist.store.store import Store
from hubdist.testing.cluster import RayCluster
from tests.support.chunks import one_block

pytestmark = pytest.mark.cluster

SIZES = (2 * PART_BYTES + BLOCK_BYTES + 5, 100, 0, 3 * BLOCK_BYTES)


class Pair:
    """Two agents; the first holds a snapshot, the second lacks it."""

    def __init__(self, cluster: RayCluster) -> None:
        config = Config(store=cluster.store, chunk_timeout_s=30)
        giving, reading, _ = alive_nodes()
        self.store = Store(config.store_root(giving.id))
        self.read_store = Store(config.store_root(reading.id))
        self.files = {f"part{number}": os.urandom(size) for number, size in enumerate(SIZES)}
        with self.store.stage() as stage:
            for path, data in self.files.items():
                with stage.open_file(path) as file:
                    file.write(data)
            with self.store.publish(stage) as snapshot:
                self.manifest: Manifest = snapshot.manifest
                self.path = snapshot.path
        self.giver, self.reader = make_agent(config, giving), make_agent(config, reading)
        self.terms = DeliveryTerms(b"s" * 32, ordinals=tuple(range(len(SIZES))))
        self.call(self.giver.hold, "d", self.terms.secret, self.manifest.digest, self.terms.ordinals, [self.whole])
        assert self.call(self.reader.begin, "d", self.manifest, self.terms, None).has_model is False
        self.sender = Sender(pickle_agent(self.giver))

    @property
    def whole(self) -> Chunk:
        """All bytes as one chunk."""
        return chunk_of(self.manifest, tuple(Piece(at, 0, size) for at, size in enumerate(SIZES) if size))

    def call(self, method: Any, *arguments: Any) -> Any:
        try:
            return ray.get(method.remote(*arguments), timeout=60)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error

    def close(self) -> None:
        stop_actor(self.giver)
        stop_actor(self.reader)


@pytest.fixture
def pair(cluster: RayCluster) -> Iterator[Pair]:
    pair = Pair(cluster)
    yield pair
    pair.close()


def created_objects() -> int:
    """How many objects were ever made in the object stores of all nodes; Ray has no public way to tell."""
    stats = [node_stats(info["NodeManagerAddress"], info["NodeManagerPort"]) for info in ray.nodes() if info["Alive"]]
    return sum(each.store_stats.cumulative_created_objects for each in stats)


def test_a_chunk_of_many_files_and_parts_arrives_without_the_object_stores(pair: Pair) -> None:
    before = created_objects()
    seconds = pair.call(pair.reader.fetch, "d", pair.whole, pair.sender)
    assert 0 < seconds.seconds < 30
    pair.call(pair.reader.publish, "d", pair.manifest, pair.terms)
    found = pair.read_store.find(pair.manifest.digest)
    assert found is not None
    with found:
        assert {path.name: path.read_bytes() for path in found.path.iterdir()} == pair.files
    assert created_objects() == before
    kept = ray.put(bytes(1 << 20))
    assert created_objects() == before + 1  # the counter counts
    del kept


def test_one_who_receives_can_give_at_once(pair: Pair) -> None:
    small = chunk_of(pair.manifest, (Piece(1, 0, SIZES[1]),))
    pair.call(pair.reader.fetch, "d", small, pair.sender)
    results = ray.get(pair.reader.send.options(num_returns=2).remote("d", small), timeout=60)
    assert b"".join(results) == pair.files["part1"]


def test_damaged_bytes_are_found_where_they_arrive(pair: Pair) -> None:
    damaged = pair.path / "part3"
    damaged.chmod(0o600)
    with damaged.open("r+b") as file:
        file.seek(BLOCK_BYTES)
        file.write(b"other")
    with pytest.raises(IntegrityError, match="block 1 of file 3"):
        pair.call(pair.reader.fetch, "d", pair.whole, pair.sender)
    pair.path.chmod(0o700)
    damaged.unlink()
    with pytest.raises(IntegrityError, match="is gone"):
        pair.call(pair.reader.fetch, "d", pair.whole, pair.sender)


def test_a_sender_that_takes_no_part_or_cannot_read_is_no_failure_of_the_reader(pair: Pair) -> None:
    unknown = Chunk(7, pair.whole.pieces, pair.whole.block_digests)
    with pytest.raises(IntegrityError, match="does not have chunk 7"):
        pair.call(pair.reader.fetch, "d", unknown, pair.sender)
    pair.call(pair.giver.forget, "d")
    with pytest.raises(PeerError, match="takes no part"):
        pair.call(pair.reader.fetch, "d", pair.whole, pair.sender)


def test_a_sender_that_is_gone_is_named_as_such_and_soon(pair: Pair) -> None:
    stop_actor(pair.giver)
    begin = time.monotonic()
    with pytest.raises(SenderLostError, match="gone") as raised:
        pair.call(pair.reader.fetch, "d", pair.whole, pair.sender)
    assert time.monotonic() - begin < 15
    assert isinstance(raised.value, HubdistError)


@pytest.mark.parametrize("size", [0, 1, 96 << 10, (96 << 10) + 1, 1 << 20])
def test_results_are_at_least_two_and_small(size: int) -> None:
    data = os.urandom(size)
    results = split_into_results(memoryview(data))
    assert b"".join(results) == data
    assert len(results) >= 2
    assert max(map(len, results)) < 100 << 10


def test_a_chunk_is_cut_at_blocks_and_each_part_proves_itself() -> None:
    files = [os.urandom(size) for size in (BLOCK_BYTES + 7, 5, 3 * BLOCK_BYTES, 9)]
    data = b"".join(files)
    pieces, blocks = [], b""
    for number, content in enumerate(files):
        pieces.append(Piece(number, 0, len(content)))
        for start in range(0, len(content), BLOCK_BYTES):
            blocks += one_block(number, content[start : start + BLOCK_BYTES], start=start).block_digests
    whole = Chunk(3, tuple(pieces), blocks)
    whole.check(memoryview(data))
    assert whole.split(len(data) + BLOCK_BYTES) == [whole]
    for most in (BLOCK_BYTES, 2 * BLOCK_BYTES, 3 * BLOCK_BYTES):
        parts = whole.split(most)
        at = 0
        for part in parts:
            assert part.size <= most
            part.check(memoryview(data)[at : at + part.size])
            at += part.size
        assert at == len(data)
        assert len(parts) > 1
