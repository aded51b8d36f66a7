"""Verification finds every kind of damage, and a repair mends it where it lies, or moves it aside."""

from __future__ import annotations

import os
import random
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hubdist.care.inspection import Pace, StoppedError
from hubdist.care.store_blocks import StoreBlocks
from hubdist.care.verification import Verified, verify
from hubdist.errors import TransferTimeoutError
from hubdist.model.chunks import Piece
from hubdist.model.manifest import BLOCK_BYTES, Digest, Manifest
from hubdist.store.store import Store
from hubdist.system.directories import remove_tree
from tests.support.store_models import content, home, publish

MODEL = {
    "saved_model.pb": b"graph" * 500,
    "variables/weights": random.Random(1).randbytes(3 * BLOCK_BYTES + 12345),
    "assets/even": random.Random(2).randbytes(2 * BLOCK_BYTES),
    "empty": b"",
}


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[Store, Store]]:
    """A store and its peer, with the same model."""
    pair = Store(tmp_path / "store"), Store(tmp_path / "peer")
    for store in pair:
        publish(store, MODEL).release()
    yield pair
    remove_tree(tmp_path)


@pytest.fixture
def digest(stores: tuple[Store, Store]) -> Digest:
    return stores[0].digests()[0]


def flip(file: Path, at: int) -> None:
    mode = stat.S_IMODE(file.stat().st_mode)
    file.chmod(0o600)
    with file.open("r+b") as opened:
        opened.seek(at)
        byte = opened.read(1)[0]
        opened.seek(at)
        opened.write(bytes([byte ^ 0x10]))
    file.chmod(mode)


def opened(folder: Path) -> Path:
    """A folder of a snapshot, which everybody may write to."""
    for each in (folder, *folder.rglob("*")):
        each.chmod(0o700 if each.is_dir() else 0o600)
    return folder


class CountingBlocks(StoreBlocks):
    """A peer that counts what it gives."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.given: list[Piece] = []

    def read(self, manifest: Manifest, piece: Piece) -> bytes:
        self.given.append(piece)
        return super().read(manifest, piece)


class DeadBlocks(StoreBlocks):
    """A peer that is gone."""

    def read(self, manifest: Manifest, piece: Piece) -> bytes:
        raise TransferTimeoutError("no answer")


def repaired(store: Store, digest: Digest, *sources: StoreBlocks) -> Verified:
    found = verify(store, digest, lambda *_: sources)
    assert found is not None
    return found


def test_a_whole_snapshot_is_whole(stores: tuple[Store, Store], digest: Digest) -> None:
    found = verify(stores[0], digest)
    assert found == Verified(digest, sum(map(len, MODEL.values())))


def test_an_absent_snapshot_gives_nothing(stores: tuple[Store, Store]) -> None:
    assert verify(stores[0], Digest("0" * 64)) is None


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a flipped bit": lambda path: flip(path / "files/variables/weights", 2 * BLOCK_BYTES + 7),
    "a flip in the last block": lambda path: flip(path / "files/variables/weights", 3 * BLOCK_BYTES + 12344),
    "a short file": lambda path: os.truncate(opened(path) / "files/assets/even", BLOCK_BYTES + 1),
    "a long file": lambda path: os.truncate(opened(path) / "files/assets/even", 2 * BLOCK_BYTES + 1),
    "a file that is gone": lambda path: (opened(path) / "files/variables/weights").unlink(),
    "a folder that is gone": lambda path: shutil.rmtree(opened(path) / "files/variables"),
    "all files gone": lambda path: shutil.rmtree(opened(path) / "files"),
    "a file that does not belong": lambda path: (opened(path) / "files/other").write_bytes(b"x"),
    "a link in place of a file": lambda path: (
        (opened(path) / "files/empty").unlink(),
        (path / "files/empty").symlink_to("/etc/passwd"),
    ),
    "a folder in place of a file": lambda path: (
        (opened(path) / "files/empty").unlink(),
        (path / "files/empty").mkdir(),
    ),
    "a manifest that is no manifest": lambda path: flip(path / "manifest.json", 0),
    "no manifest": lambda path: (opened(path) / "manifest.json").unlink(),
    "no marker of use": lambda path: (path / "in-use").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_found_and_mended_from_a_peer(
    stores: tuple[Store, Store], digest: Digest, damage: Callable[[Path], object]
) -> None:
    store, peer = stores
    damage(home(store, digest))
    found = repaired(store, digest, StoreBlocks(peer))
    assert not found.damaged
    assert not found.quarantined
    assert verify(store, digest) == Verified(digest, sum(map(len, MODEL.values())))
    snapshot = store.find(digest)
    assert snapshot is not None
    assert content(snapshot.path) == MODEL
    modes = {stat.S_IMODE(each.lstat().st_mode) for each in snapshot.path.rglob("*")}
    assert modes == {0o444, 0o555}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_without_a_change(stores: tuple[Store, Store], digest: Digest, name: str) -> None:
    path = home(stores[0], digest)
    DAMAGE[name](path)
    before = {each: each.lstat().st_mtime_ns for each in path.rglob("*")}
    found = verify(stores[0], digest)
    assert found is not None
    assert found.damaged
    assert not found.quarantined
    assert {each: each.lstat().st_mtime_ns for each in path.rglob("*")} == before


def test_every_flip_in_a_manifest_is_found_and_mended_without_anybody(
    stores: tuple[Store, Store], digest: Digest
) -> None:
    store, chance = stores[0], random.Random(3)
    file = home(store, digest) / "manifest.json"
    whole = file.read_bytes()
    for at in chance.sample(range(len(whole)), 60):
        flip(file, at)
        found = repaired(store, digest)
        assert found.repaired, at
        assert found.repaired_from == ()
        assert file.read_bytes() == whole


def test_only_the_wrong_blocks_are_asked_for(stores: tuple[Store, Store], digest: Digest) -> None:
    store, peer = stores
    flip(home(store, digest) / "files/variables/weights", BLOCK_BYTES)
    source = CountingBlocks(peer)
    found = repaired(store, digest, source)
    assert found.blocks == 1
    assert [(piece.start, piece.end) for piece in source.given] == [(BLOCK_BYTES, 2 * BLOCK_BYTES)]
    assert found.repaired_from == (str(peer.root),)


def test_two_damaged_peers_mend_each_other(stores: tuple[Store, Store], digest: Digest) -> None:
    store, peer = stores
    flip(home(store, digest) / "files/variables/weights", 5)
    flip(home(peer, digest) / "files/variables/weights", 2 * BLOCK_BYTES)
    assert repaired(store, digest, StoreBlocks(peer)).repaired
    assert repaired(peer, digest, StoreBlocks(store)).repaired


def test_blocks_come_from_several_peers_where_no_one_has_all(
    stores: tuple[Store, Store], digest: Digest, tmp_path: Path
) -> None:
    store, peer = stores
    third = Store(tmp_path / "third")
    publish(third, MODEL).release()
    for at in (5, BLOCK_BYTES):
        flip(home(store, digest) / "files/variables/weights", at)
    flip(home(peer, digest) / "files/variables/weights", 5)
    flip(home(third, digest) / "files/variables/weights", BLOCK_BYTES)
    found = repaired(store, digest, DeadBlocks(peer), StoreBlocks(peer), StoreBlocks(third))
    assert found.repaired
    assert found.repaired_from == (str(peer.root), str(third.root))


def test_a_block_that_is_wrong_everywhere_moves_the_snapshot_aside(stores: tuple[Store, Store], digest: Digest) -> None:
    store, peer = stores
    for each in stores:
        flip(home(each, digest) / "files/variables/weights", 5)
    found = repaired(store, digest, StoreBlocks(peer))
    assert found.damaged
    assert found.quarantined
    assert store.find(digest) is None
    assert len(list((store.root / "quarantine").iterdir())) == 1


def test_a_snapshot_in_use_is_mended_where_it_lies(stores: tuple[Store, Store], digest: Digest) -> None:
    store, peer = stores
    snapshot = store.find(digest)
    assert snapshot is not None
    with snapshot, (snapshot.path / "variables/weights").open("rb", buffering=0) as file:
        flip(snapshot.path / "variables/weights", 5)
        assert file.read(100) != MODEL["variables/weights"][:100]
        assert repaired(store, digest, StoreBlocks(peer)).repaired
        file.seek(0)
        assert file.read(100) == MODEL["variables/weights"][:100]


def test_a_verification_is_no_use_and_keeps_from_eviction(stores: tuple[Store, Store], digest: Digest) -> None:
    store = stores[0]
    marker = home(store, digest) / "in-use"
    os.utime(marker, (1000, 1000))
    evicted = []

    def wait(_: float) -> bool:
        evicted.append(store.evict(digest))
        return False

    assert verify(store, digest, pace=Pace(wait=wait)) is not None
    assert evicted
    assert not any(evicted)
    assert marker.stat().st_mtime == 1000


def test_a_pace_bounds_the_rate_and_can_end_the_work(stores: tuple[Store, Store], digest: Digest) -> None:
    now, waited = 0.0, 0.0

    def wait(seconds: float) -> bool:
        nonlocal now, waited
        now, waited = now + seconds, waited + seconds
        return False

    verify(stores[0], digest, pace=Pace(1 << 20, wait, lambda: now))
    assert waited == pytest.approx(sum(map(len, MODEL.values())) / (1 << 20))
    with pytest.raises(StoppedError):
        verify(stores[0], digest, pace=Pace(1 << 20, lambda _: True))
    assert stores[0].evict(digest)  # nothing holds it any more
