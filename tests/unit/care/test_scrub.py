"""The slow reading of a store: it goes on where it stopped, one process at a time, and mends what it finds."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubdist.care.inspection import Pace
from hubdist.care.scrub import Scrub
from hubdist.care.store_blocks import StoreBlocks
from hubdist.model.manifest import BLOCK_BYTES, Digest
from hubdist.store.store import Store
from hubdist.system.directories import remove_tree
from tests.support.store_models import home, publish

MODELS = [{"saved_model.pb": random.Random(number).randbytes(4 * BLOCK_BYTES + number)} for number in range(3)]


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[Store, Store]]:
    pair = Store(tmp_path / "store"), Store(tmp_path / "peer")
    for store in pair:
        for model in MODELS:
            publish(store, model).release()
    yield pair
    remove_tree(tmp_path)


class Steps:
    """A pace that ends after so many blocks, and counts what was read."""

    def __init__(self, blocks: int) -> None:
        self.left = blocks
        self.read = 0
        self.pace = Pace(wait=self._wait)

    def _wait(self, _: float) -> bool:
        self.left -= 1
        self.read += 1
        return self.left <= 0


def damage(store: Store, digest: Digest) -> None:
    file = home(store, digest) / "files" / "saved_model.pb"
    file.chmod(0o600)
    with file.open("r+b") as opened:
        opened.seek(3 * BLOCK_BYTES)
        opened.write(b"wrong")
    file.chmod(0o444)


def test_a_scrub_in_small_steps_reads_everything_once(stores: tuple[Store, Store]) -> None:
    read = []
    for _ in range(30):
        steps = Steps(4)
        assert Scrub(stores[0], lambda *_: ()).run(steps.pace) == []
        read.append(steps.read)
    assert sum(read) == 5 * 3 - 1  # the model whose bytes are whole blocks has one block less
    assert read[-1] == 0


def test_what_was_read_long_ago_is_read_again(stores: tuple[Store, Store]) -> None:
    for _ in range(2):
        steps = Steps(1000)
        Scrub(stores[0], lambda *_: (), again_s=1000).run(steps.pace)
    assert steps.read == 0
    steps = Steps(30)
    Scrub(stores[0], lambda *_: (), again_s=0).run(steps.pace)
    assert steps.read == 30


@pytest.mark.parametrize("blocks", [1, 3, 1000])
def test_damage_is_found_and_mended_from_a_peer(stores: tuple[Store, Store], blocks: int) -> None:
    store, peer = stores
    digest = store.digests()[1]
    damage(store, digest)
    found = [one for _ in range(20) for one in Scrub(store, lambda *_: [StoreBlocks(peer)]).run(Steps(blocks).pace)]
    assert [(one.digest, one.repaired) for one in found] == [(digest, True)]
    store.verify(digest)


def test_what_nobody_can_mend_is_moved_aside(stores: tuple[Store, Store]) -> None:
    store = stores[0]
    digest = store.digests()[1]
    damage(store, digest)
    (found,) = Scrub(store, lambda *_: ()).run(Steps(1000).pace)
    assert found.quarantined
    assert store.find(digest) is None
    assert len(store.digests()) == 2


def test_one_process_of_a_node_reads_at_a_time(stores: tuple[Store, Store]) -> None:
    inner = Steps(1000)

    def wait(_: float) -> bool:
        Scrub(Store(stores[0].root), lambda *_: ()).run(inner.pace)
        return True

    Scrub(stores[0], lambda *_: ()).run(Pace(wait=wait))
    assert inner.read == 0


def test_notes_of_models_that_are_gone_are_removed(stores: tuple[Store, Store]) -> None:
    store = stores[0]
    Scrub(store, lambda *_: ()).run(Steps(1000).pace)
    gone = store.digests()[0]
    assert store.evict(gone)
    Scrub(store, lambda *_: ()).run(Steps(1000).pace)
    assert {path.name for path in (store.root / "scrubbed").iterdir()} == {each.value for each in store.digests()}
