"""What leaves a store: never what is in use, pinned by a job or kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubdist.care import collection
from hubdist.care.listing import list_models
from hubdist.errors import StoreFullError
from hubdist.model.handle import parse_handle
from hubdist.model.manifest import Digest
from hubdist.store.claims import Claims
from hubdist.store.eviction import EvictionResult
from hubdist.store.pins import Pins, last_pins
from hubdist.store.store import Store
from hubdist.system.directories import remove_tree
from tests.support.store_models import home, model, publish


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    yield Store(tmp_path / "store")
    remove_tree(tmp_path / "store")


def filled(store: Store, count: int, size: int = 1000) -> list[Digest]:
    """Models, the first of which was used longest ago, at second 1, the next at second 2, and so on."""
    digests = []
    for number in range(count):
        with publish(store, model(number, size)) as snapshot:
            digests.append(snapshot.manifest.digest)
        os.utime(home(store, digests[-1]) / "in-use", (number + 1, number + 1))
    return digests


def test_a_listing_tells_size_use_handles_and_why_a_model_stays(store: Store) -> None:
    first, second, third = filled(store, 3)
    collection.keep(store, [second])
    os.utime(home(store, second) / "in-use", (2, 2))
    handle = parse_handle("https://user:secret@example.com/model.tgz")
    Pins(last_pins(store.root)).keep(handle, third)
    claims = Claims(store.root)
    claims.keep(first)
    found = list_models(store)
    claims.close()
    assert [(each.digest, each.size, each.files, each.used_at) for each in found] == [
        (third, 1000, 1, 3.0),
        (second, 1000, 1, 2.0),
        (first, 1000, 1, 1.0),
    ]
    assert [each.kept for each in found] == [False, True, False]
    assert [each.in_use for each in found] == [False, False, True]
    assert found[0].handles == (handle.label,)
    assert "secret" not in str(found)


def test_a_listing_shows_a_damaged_snapshot_and_leaves_it(store: Store) -> None:
    (digest,) = filled(store, 1)
    (home(store, digest) / "manifest.json").unlink()
    assert [each.digest for each in list_models(store)] == [digest]
    assert home(store, digest).is_dir()


def test_a_model_that_is_kept_is_never_evicted(store: Store, tmp_path: Path) -> None:
    first, second = filled(store, 2)
    assert collection.keep(store, [first]) == [first]
    again = Store(store.root, max_bytes=2500)
    assert again.try_evict(first) is EvictionResult.KEPT
    publish(again, model(9, 1500)).release()
    assert again.find(first) is not None
    assert again.find(second) is None
    with pytest.raises(StoreFullError):
        publish(Store(store.root, max_bytes=100), model(10, 2000))


def test_a_model_that_is_released_can_be_evicted(store: Store) -> None:
    (digest,) = filled(store, 1)
    collection.keep(store, [digest])
    assert collection.release(store, [digest]) == [digest]
    assert collection.release(store, [digest]) == []
    assert store.evict(digest)


def test_what_is_not_there_cannot_be_kept(store: Store) -> None:
    assert collection.keep(store, [Digest("0" * 64)]) == []
    assert not (store.root / "kept").exists()


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_removal_says_why_a_model_stays(store: Store, dry_run: bool) -> None:
    free, used, claimed, kept = filled(store, 4)
    collection.keep(store, [kept])
    claims = Claims(store.root)
    claims.keep(claimed)
    snapshot = store.find(used)
    assert snapshot is not None
    removals = collection.remove(store, [free, used, claimed, kept, Digest("0" * 64)], dry_run=dry_run)
    snapshot.release()
    claims.close()
    assert [each.removed for each in removals] == [True, False, False, False, False]
    assert "uses it" in removals[1].why
    assert "kept" in removals[3].why
    assert "not there" in removals[4].why
    assert len(list_models(store)) == (4 if dry_run else 3)


def test_collection_takes_the_least_recently_used_down_to_the_limit(store: Store) -> None:
    first, second, third, fourth = filled(store, 4)
    removals = collection.collect(store, max_bytes=2000, max_age_s=None)
    assert [each.digest for each in removals if each.removed] == [first, second]
    assert {each.digest for each in list_models(store)} == {third, fourth}


def test_collection_takes_what_is_too_old(store: Store) -> None:
    first, second, third = filled(store, 3)
    removals = collection.collect(store, max_bytes=None, max_age_s=1.5, now=4.0)
    assert [each.digest for each in removals] == [first, second]
    assert [each.digest for each in list_models(store)] == [third]


def test_collection_goes_on_where_a_model_has_to_stay(store: Store) -> None:
    first, second, third = filled(store, 3)
    collection.keep(store, [first])
    os.utime(home(store, first) / "in-use", (1, 1))
    removals = collection.collect(store, max_bytes=2000, max_age_s=None)
    assert [(each.digest, each.removed) for each in removals] == [(first, False), (second, True)]
    assert {each.digest for each in list_models(store)} == {first, third}


def test_a_dry_run_deletes_nothing(store: Store) -> None:
    digests = filled(store, 3)
    removals = collection.collect(store, max_bytes=0, max_age_s=None, dry_run=True)
    assert [each.digest for each in removals if each.removed] == digests
    assert len(list_models(store)) == 3


def test_the_store_says_that_it_is_a_cache(store: Store) -> None:
    text = (store.root / "CACHEDIR.TAG").read_text()
    assert text.startswith("Signature: 8a477f597d28d172789f06886806bc55\n")
