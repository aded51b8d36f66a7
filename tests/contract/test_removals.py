"""What leaves a shared cache: never what somebody is about to read, on each kind of storage."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest

from hubdist.care.place import Answers
from hubdist.care.shared_place import SharedPlace
from hubdist.errors import OriginError
from hubdist.model.manifest import Digest
from hubdist.remote import open_tree
from hubdist.shared_cache.cache import SharedCache
from hubdist.shared_cache.removals import Removals
from hubdist.store.store import Store
from tests.support.gcs import FakeGcs
from tests.support.places import GcsPlace, MountedPlace, Place
from tests.support.shared_cache_filler_process import HANDLE
from tests.support.shared_cache_fillers import DEADLINES, IN_FLIGHT, publish, read_back
from tests.support.store_models import model

BUCKET = "removals"


class Filled:
    """A cache with models of 1, 2 and 3 kB, and what takes care of it."""

    def __init__(self, place: Place, root: Path, grace_s: float) -> None:
        self.place = place
        self.store = Store(root)
        self.cache = SharedCache(place.url, DEADLINES, in_flight_bytes=IN_FLIGHT, grace_s=grace_s)
        self.care = SharedPlace(self.cache, DEADLINES, self.store)
        self.digests = [publish(root, model(number, 1000 * number)) for number in (1, 2, 3)]
        for digest in self.digests:
            self.fill(digest)

    def fill(self, digest: Digest) -> None:
        snapshot = self.store.find(digest)
        assert snapshot is not None
        with snapshot:
            self.cache.fill(snapshot, HANDLE)

    def left(self) -> list[Digest]:
        return [digest for digest in self.digests if self.cache.find(digest) is not None]

    def collect(self, **limits: float | None) -> list[tuple[Digest, bool]]:
        asked = {"max_bytes": None, "max_age_s": None, "dry_run": False} | limits
        answers: Answers = self.care.collect(**asked)  # type: ignore[arg-type, type-arg]
        assert not answers.failures
        return [(one.digest, one.removed) for several in answers.by_store.values() for one in several]


@pytest.fixture
def filled(place: Place, tmp_path: Path) -> Filled:
    return Filled(place, tmp_path / "store", 0.2)


def test_a_snapshot_goes_in_two_steps(filled: Filled) -> None:
    first, *others = filled.digests
    assert filled.collect(max_bytes=5000) == [(first, False)]
    assert filled.left() == filled.digests
    assert filled.collect(max_bytes=5000) == [(first, False)]  # the grace time is not over
    time.sleep(0.3)
    assert filled.collect(max_bytes=5000) == [(first, True)]
    assert filled.left() == others
    assert not [path for path in filled.place.files() if first.value in path and not path.startswith("handles/")]
    assert not [path for path in filled.place.files() if path.startswith(("removals/", "leases/"))]


def test_who_is_about_to_read_a_marked_snapshot_keeps_it(filled: Filled) -> None:
    filled.collect(max_bytes=0)
    assert filled.cache.admit(filled.digests[1])
    time.sleep(0.3)
    removed = dict(filled.collect())
    assert [removed[digest] for digest in filled.digests] == [True, False, True]
    assert filled.left() == [filled.digests[1]]
    found = filled.cache.find(filled.digests[1])
    assert found is not None
    assert read_back(found) == model(2, 2000)
    assert not [path for path in filled.place.files() if path.startswith("removals/")]


def test_a_fill_keeps_a_marked_snapshot(filled: Filled) -> None:
    filled.collect(max_bytes=0)
    filled.fill(filled.digests[0])
    time.sleep(0.3)
    filled.collect()
    assert filled.left() == [filled.digests[0]]


def test_of_reader_and_collector_exactly_one_decides(filled: Filled) -> None:
    digest = filled.digests[0]
    with filled.cache.opened() as (_, removals):
        for reader_first in (True, False):
            removals.mark(digest)
            (token,) = removals.marks(digest)
            deciding = [lambda: removals.admit(digest), lambda t=token: removals._decide(digest, t, "remove")]
            for decide in deciding if reader_first else deciding[::-1]:
                decide()
            assert removals._decision(digest, token) == ("keep" if reader_first else "remove")
            assert removals.admit(digest) is reader_first
            removals._forget(digest, token)


def test_a_snapshot_whose_removal_is_decided_is_neither_read_nor_filled(filled: Filled) -> None:
    digest = filled.digests[0]
    slow = SharedCache(filled.place.url, DEADLINES, in_flight_bytes=IN_FLIGHT, grace_s=3600)
    with slow.opened() as (_, removals):
        removals.mark(digest)
        removals._decide(digest, removals.marks(digest)[0], "remove")
    assert not slow.admit(digest)
    snapshot = filled.store.find(digest)
    assert snapshot is not None
    with snapshot, pytest.raises(OriginError, match="is being removed"):
        slow.fill(snapshot)


def test_a_removal_whose_collector_died_is_ended_by_the_next_who_fills(filled: Filled) -> None:
    digest = filled.digests[0]
    with filled.cache.opened() as (tree, removals):
        removals.mark(digest)
        removals._decide(digest, removals.marks(digest)[0], "remove")
        tree.delete(f"snapshots/{digest.value}.json")
    time.sleep(0.3)
    filled.fill(digest)
    found = filled.cache.find(digest)
    assert found is not None
    assert read_back(found) == model(1, 1000)


@pytest.mark.parametrize("dies_after", range(6))
def test_a_collector_that_dies_anywhere_is_followed_by_another(
    filled: Filled, monkeypatch: pytest.MonkeyPatch, dies_after: int
) -> None:
    digest = filled.digests[0]
    filled.collect(max_bytes=5000)
    time.sleep(0.3)
    calls = itertools.count()

    def guarded(name: str) -> None:
        plain = getattr(type_of_tree, name)

        def call(tree: object, *args: object) -> object:
            if next(calls) >= dies_after:
                raise KeyboardInterrupt
            return plain(tree, *args)

        monkeypatch.setattr(type_of_tree, name, call)

    with filled.cache.opened() as (tree, removals):
        type_of_tree = type(tree)
        guarded("delete")
        guarded("create")
        (token,) = removals.marks(digest)
        with pytest.raises(KeyboardInterrupt):
            removals.settle(digest, token, stays=False)
    monkeypatch.undo()
    time.sleep(0.3)
    filled.collect(max_bytes=5000)
    assert filled.left() == filled.digests[1:]
    assert not [path for path in filled.place.files() if path.startswith("removals/") and "decided" not in path]


def test_a_kept_snapshot_is_not_marked_and_a_marked_one_can_be_kept(filled: Filled) -> None:
    first, second, third = filled.digests
    assert filled.care.keep([first]).by_store[filled.cache.redacted] == [first]
    assert dict(filled.collect(max_bytes=0)) == {first: False, second: False, third: False}
    filled.care.keep([second])
    time.sleep(0.3)
    filled.collect()
    assert filled.left() == [first, second]
    filled.care.release([first, second])
    filled.collect(max_bytes=0)
    time.sleep(0.3)
    filled.collect()
    assert filled.left() == []


def test_a_dry_run_writes_no_mark(filled: Filled) -> None:
    before = {path for path in filled.place.files() if not path.startswith("uses/")}
    assert len(filled.collect(max_bytes=0, dry_run=True)) == 3
    assert {path for path in filled.place.files() if not path.startswith("uses/")} == before


def test_age_counts_from_the_last_use(filled: Filled) -> None:
    with open_tree(filled.place.url, DEADLINES) as tree:
        old = Removals(tree, 0.2, clock=lambda: time.time() - 10_000)
        tree.delete(f"uses/{filled.digests[0].value}.json")
        old.note_use(filled.digests[0])
    assert filled.collect(max_age_s=5000) == [(filled.digests[0], False)]
    assert filled.collect(max_age_s=20_000) == [(filled.digests[0], False)]  # marked it stays until somebody uses it


def test_a_read_only_reader_does_not_read_what_is_marked(filled: Filled) -> None:
    reader = SharedCache(filled.place.url, DEADLINES, in_flight_bytes=IN_FLIGHT, read_only=True, grace_s=0.2)
    before = filled.place.files()
    assert reader.admit(filled.digests[0])
    assert filled.place.files() == before
    filled.collect(max_bytes=0)
    before = filled.place.files()
    assert not reader.admit(filled.digests[0])
    assert filled.place.files() == before


def test_a_listing_names_handle_size_and_use(filled: Filled) -> None:
    models = filled.care.list_models().by_store[filled.cache.redacted]
    assert {each.digest: each.size for each in models} == dict(zip(filled.digests, (1000, 2000, 3000), strict=True))
    assert {each.digest: each.handles for each in models}[filled.digests[2]] == (HANDLE.redacted,)
    assert all(abs(each.used_at - time.time()) < 60 for each in models)


def test_a_damaged_snapshot_is_found_and_filled_again(filled: Filled) -> None:
    first, second, _ = filled.digests
    filled.place.put(f"snapshots/{first.value}/saved_model.pb", b"y" * 1000)
    filled.place.put(f"snapshots/{second.value}/other", b"y")
    (found,) = filled.care.verify(None, repair=False).by_store.values()
    assert {each.digest for each in found if each.damaged} == {first, second}
    (mended,) = filled.care.verify(None, repair=True).by_store.values()
    assert {each.digest for each in mended if each.repaired} == {first, second}
    assert filled.left() == filled.digests


def test_a_delete_of_a_version_names_its_generation(server: FakeGcs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulator deletes any generation, so what is looked at is the request, and what becomes of a refusal."""
    import gcsfs

    place = GcsPlace(server, BUCKET, "versions")
    place.put("file", b"old")
    asked: list[dict[str, object]] = []
    plain = gcsfs.GCSFileSystem._request

    async def request(files: object, method: str, *args: object, **options: object) -> object:
        if method == "DELETE":
            asked.append(options)
            if len(asked) == 1:
                raise FileExistsError("412")  # gcsfs's word for a precondition that does not hold
        return await plain(files, method, *args, **options)

    monkeypatch.setattr(gcsfs.GCSFileSystem, "_request", request)
    with open_tree(place.url, DEADLINES) as tree:
        version = tree.listing()["file"].version
        tree.delete("file", version)
        assert place.files() == {"file": b"old"}
        tree.delete("file", version)
    assert place.files() == {}
    assert [options["ifGenerationMatch"] for options in asked] == [version, version]


def test_a_delete_of_a_version_on_a_mount_lets_another_one_stay(tmp_path: Path) -> None:
    place = MountedPlace(tmp_path / "mount")
    place.put("file", b"old")
    with open_tree(place.url, DEADLINES) as tree:
        old = tree.listing()["file"].version
        place.put("file", b"new")
        tree.delete("file", old)
        assert place.files() == {"file": b"new"}
        tree.delete("file", tree.listing()["file"].version)
    assert place.files() == {}
