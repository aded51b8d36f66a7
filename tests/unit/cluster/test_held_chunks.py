"""A new version of a model that the driver's node has is delivered when its manifest is known; without Ray."""

from __future__ import annotations

import functools
import random
from pathlib import Path

import pytest

from hubdist.cluster.coordinator.held_chunks import FIRST_BYTES, HeldChunks
from hubdist.model.chunks import Chunk, cut_chunks
from hubdist.model.digest_sink import DigestSink
from hubdist.model.manifest import BLOCK_BYTES
from hubdist.report.delivery import OWN_STORE
from hubdist.store.older_blocks import known_digests
from tests.support.fake_agents import DRIVER, FakeNodes, fake_nodes, run
from tests.unit.cluster.test_origin_feed import SIZE, Job


def chunks_of(count: int) -> tuple[Chunk, ...]:
    sink = DigestSink()
    with sink.open_file("a") as file:
        file.write(random.Random(1).randbytes(count * BLOCK_BYTES))
    return cut_chunks(sink.finish(), BLOCK_BYTES)


CHUNKS = chunks_of(12)


def delivered(known: str, *, first_bytes: int = FIRST_BYTES) -> tuple[list[int], list[int] | None]:
    """How many chunks are delivered after each one, and at the end.

    Args:
        known: `k` for each chunk that an older snapshot has, `n` for each that is new.
        first_bytes: As in `HeldChunks`.
    """
    digests = {chunk.block_digests for chunk, kind in zip(CHUNKS, known, strict=False) if kind == "k"}
    held = HeldChunks(lambda: digests, first_bytes=first_bytes)
    counts, order = [], []
    for chunk, _ in zip(CHUNKS, known, strict=False):
        ready = held.add(chunk, ["a"])
        counts.append(len(ready))
        order += [one.index for one, paths in ready if paths == ("a",)]
    left = held.end()
    order += [one.index for one, _ in left or ()]
    assert order == list(range(len(order)))
    return counts, None if left is None else [one.index for one, _ in left]


@pytest.mark.parametrize(
    ("known", "counts", "left"),
    [
        ("nnnnnn", [1, 1, 1, 1, 1, 1], []),  # nothing is known: nothing waits
        ("knnnnn", [0, 0, 0, 4, 1, 1], []),
        ("kkkknnnnnn", [0, 0, 0, 0, 0, 0, 0, 0, 9, 1], []),  # the graph is the same, the weights are not
        ("nkkkkkkk", [0] * 8, None),
        ("kkkk", [0] * 4, None),
        ("kkk", [0] * 3, [0, 1, 2]),  # too small to wait for
        ("kknnkkkk", [0] * 8, None),
    ],
)
def test_chunks_wait_while_most_of_them_are_known(known: str, counts: list[int], left: list[int] | None) -> None:
    assert delivered(known) == (counts, left)


def test_the_store_is_asked_once_and_only_when_something_is_read() -> None:
    asked = []
    held = HeldChunks(lambda: asked.append(1) or frozenset())  # type: ignore[func-returns-value]  # counts
    assert held.end() == []
    assert asked == []
    for chunk in CHUNKS:
        held.add(chunk, ["a"])
    assert asked == [1]


class NewVersion(Job):
    """A job that reads a model whose older version is in the stores of all nodes."""

    def __init__(self, nodes: FakeNodes, folder: Path, *, changed: int) -> None:
        super().__init__(nodes, folder)
        old = bytearray((folder / "model" / "saved_model.pb").read_bytes())
        for block in range(changed):
            old[block * BLOCK_BYTES] ^= 1
        for name in nodes.stores:
            nodes.publish(name, {"saved_model.pb": bytes(old)})
        self.feeds._find_known = functools.partial(known_digests, nodes.stores[DRIVER])


def test_a_new_version_waits_for_its_manifest_and_only_what_changed_travels(tmp_path: Path) -> None:
    with fake_nodes(tmp_path / "stores", "a", "b") as nodes:
        job = NewVersion(nodes, tmp_path, changed=2)

        async def work() -> None:
            feed = job.feeds.make(job.handle.redacted)
            for name in ("a", "b"):
                feed.add(nodes.nodes[name])
            await job.read_into(feed)
            feed.settle()
            assert not await feed.begins()
            for name in ("a", "b"):
                report = await job.ask(name)
                assert report.error is None
                assert report.bytes_received == 2 * BLOCK_BYTES
                assert dict(report.sources)[OWN_STORE] == SIZE - 2 * BLOCK_BYTES
                assert "from this node's store" in str(report)
            assert job.runner.reports.log.count == 2

        run(work)
        assert job.has("a")
        assert job.has("b")


def test_another_model_is_delivered_while_it_is_read(tmp_path: Path) -> None:
    with fake_nodes(tmp_path / "stores", "a") as nodes:
        job = NewVersion(nodes, tmp_path, changed=9)

        async def work() -> None:
            (await job.read("a")).settle()
            (report,) = await job.reported(1)
            assert report.reason == "it came while the origin was being read"
            assert report.bytes_received == SIZE

        run(work)
