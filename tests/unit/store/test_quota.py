"""The marks of a store: above the high one it evicts down to the low one, and never a large model for the low one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubdist.store.store import Store
from hubdist.system.directories import remove_tree
from tests.support.store_models import home, model, publish


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "store"
    remove_tree(tmp_path / "store")


def sizes_after(root: Path, sizes: list[int], *, max_bytes: int, low_percent: int) -> list[int]:
    """The sizes of the models that are left after all were published, in this order."""
    store = Store(root, max_bytes=max_bytes, low_percent=low_percent)
    known = {}
    for number, size in enumerate(sizes):
        with publish(store, model(number, size)) as snapshot:
            digest = snapshot.manifest.digest
            known[digest] = size
        os.utime(home(store, digest) / "in-use", (number, number))
    return [known[digest] for digest in store.digests()]


def test_a_full_store_of_small_models_is_cleared_down_to_the_low_mark(root: Path) -> None:
    assert len(sizes_after(root, [100] * 11, max_bytes=1000, low_percent=70)) == 7


def test_a_store_below_the_high_mark_evicts_nothing(root: Path) -> None:
    assert len(sizes_after(root, [100] * 10, max_bytes=1000, low_percent=10)) == 10


def test_a_large_model_does_not_go_for_the_low_mark(root: Path) -> None:
    assert sizes_after(root, [400, 300, 300, 300], max_bytes=1000, low_percent=70) == [300, 300, 300]


def test_without_a_low_mark_no_more_goes_than_has_to(root: Path) -> None:
    assert len(sizes_after(root, [100] * 11, max_bytes=1000, low_percent=100)) == 10


def test_room_is_made_down_to_the_low_mark_before_a_model_comes(root: Path) -> None:
    from hubdist.model.manifest import EntryDigester, Manifest

    sizes_after(root, [100] * 10, max_bytes=1000, low_percent=70)
    digester = EntryDigester("saved_model.pb")
    digester.update(b"x" * 200)
    store = Store(root, max_bytes=1000, low_percent=70)
    with store.stage_chunks(Manifest.of([digester.entry()])):
        assert len(store.digests()) == 5
