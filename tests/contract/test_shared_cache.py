"""The shared cache: whole snapshots or none, whoever fills it, dies, or changes objects behind its back."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hubdist import errors
from hubdist.model.handle import parse_handle
from hubdist.model.manifest import Digest
from hubdist.remote import mounted_tree
from hubdist.remote.mounted_tree import MountedTree
from hubdist.remote.snapshot_copy import ProvenCopies
from hubdist.shared_cache.best_effort import BestEffortCache
from hubdist.shared_cache.cache import SharedCache, SharedSnapshot
from hubdist.shared_cache.lease import LeaseTimes, hold_lease
from hubdist.store.store import Store
from hubdist.system.deadline import Deadline, Deadlines
from tests.support.gcs import FakeGcs, gcs_environment
from tests.support.gcs_proxy import GcsProxy
from tests.support.places import GcsPlace, MountedPlace, Place, put_all
from tests.support.shared_cache_filler_process import HANDLE
from tests.support.shared_cache_fillers import DEADLINES, IN_FLIGHT, cache_at, check_filled, filler, publish, read_back

BUCKET = "shared"
FILES = {"saved_model.pb": os.urandom(70_000), "assets/words.txt": b"one\ntwo\n", "assets/empty": b""}
MANY = FILES | {f"assets/{number:02d}.txt": os.urandom(50 + number) for number in range(50)}


@pytest.fixture
def digest(tmp_path: Path) -> Digest:
    return publish(tmp_path / "store", FILES)


def fill(place: Place, store: Path, digest: Digest) -> SharedSnapshot:
    snapshot = Store(store).find(digest)
    assert snapshot is not None
    with snapshot:
        return cache_at(place).fill(snapshot, HANDLE)


def object_of(digest: Digest, path: str) -> str:
    return f"snapshots/{digest.value}/{path}"


def test_an_empty_cache_has_nothing(place: Place, digest: Digest) -> None:
    cache = cache_at(place)
    assert cache.find(digest) is None
    assert cache.find_handle(HANDLE) is None
    assert cache.find_tfhub(HANDLE) is None


def test_what_is_filled_is_found(place: Place, tmp_path: Path, digest: Digest) -> None:
    filled = fill(place, tmp_path / "store", digest)
    assert filled.copy.url == f"{place.url}/snapshots/{digest.value}"
    assert pickle.loads(pickle.dumps(filled)) == filled
    check_filled(place, digest, FILES)


def test_filling_again_changes_nothing(place: Place, tmp_path: Path, digest: Digest) -> None:
    first = fill(place, tmp_path / "store", digest)
    assert fill(place, tmp_path / "store", digest) == first


def test_a_store_on_a_mount_leaves_no_temporary_files(tmp_path: Path, digest: Digest) -> None:
    place = MountedPlace(tmp_path / "mount")
    fill(place, tmp_path / "store", digest)
    assert not [path for path in place.files() if path.startswith("staging")]


def test_a_snapshot_without_a_record_does_not_exist(place: Place, tmp_path: Path, digest: Digest) -> None:
    fill(place, tmp_path / "store", digest)
    place.remove(f"snapshots/{digest.value}.json")
    assert cache_at(place).find(digest) is None


BREAK: dict[str, Callable[[Place, Digest], None]] = {
    "replaced": lambda place, digest: place.put(object_of(digest, "saved_model.pb"), FILES["saved_model.pb"][::-1]),
    "written again": lambda place, digest: place.put(object_of(digest, "saved_model.pb"), FILES["saved_model.pb"]),
    "truncated": lambda place, digest: place.put(object_of(digest, "saved_model.pb"), FILES["saved_model.pb"][:-1]),
    "removed": lambda place, digest: place.remove(object_of(digest, "assets/empty")),
    "added": lambda place, digest: place.put(object_of(digest, "assets/added"), b"x"),
    "no record": lambda place, digest: place.remove(f"snapshots/{digest.value}.json"),
    "torn record": lambda place, digest: place.put(f"snapshots/{digest.value}.json", b'{"hubdist_record": 1, '),
    "empty record": lambda place, digest: place.put(f"snapshots/{digest.value}.json", b""),
    "list as record": lambda place, digest: place.put(f"snapshots/{digest.value}.json", b"[1]"),
    "nested record": lambda place, digest: place.put(f"snapshots/{digest.value}.json", b"[" * 100_000),
}


@pytest.mark.parametrize("what", BREAK)
def test_a_damaged_snapshot_is_no_hit_and_a_fill_mends_it(
    place: Place, tmp_path: Path, digest: Digest, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    fill(place, tmp_path / "store", digest)
    BREAK[what](place, digest)
    with caplog.at_level(logging.WARNING, "hubdist"):
        assert cache_at(place).find(digest) is None
    assert what == "no record" or digest.value in caplog.text
    fill(place, tmp_path / "store", digest)
    check_filled(place, digest, FILES)


def test_the_record_of_another_model_is_no_hit(place: Place, tmp_path: Path, digest: Digest) -> None:
    other = publish(tmp_path / "store", {"saved_model.pb": b"other"})
    fill(place, tmp_path / "store", other)
    place.put(f"snapshots/{digest.value}.json", place.files()[f"snapshots/{other.value}.json"])
    assert cache_at(place).find(digest) is None


def test_objects_that_are_there_already_are_kept_if_they_are_right(
    place: Place, tmp_path: Path, digest: Digest
) -> None:
    place.put(object_of(digest, "saved_model.pb"), FILES["saved_model.pb"])
    place.put(object_of(digest, "assets/words.txt"), b"planted!")
    with_listing = cache_at(place)
    before = _versions(place, digest)
    fill(place, tmp_path / "store", digest)
    after = _versions(place, digest)
    assert after["saved_model.pb"] == before["saved_model.pb"]
    assert after["assets/words.txt"] != before["assets/words.txt"]
    assert with_listing.find(digest) is not None
    check_filled(place, digest, FILES)


def _versions(place: Place, digest: Digest) -> dict[str, str]:
    from hubdist.remote import open_tree

    with open_tree(place.url, DEADLINES) as tree:
        return {path: file.version for path, file in tree.listing(f"snapshots/{digest.value}").items()}


def test_a_damaged_local_snapshot_does_not_spread(place: Place, tmp_path: Path, digest: Digest) -> None:
    path = tmp_path / "store" / "snapshots" / digest.value / "files" / "assets" / "words.txt"
    path.chmod(0o600)
    path.write_bytes(b"one\nTWO\n")
    with pytest.raises(errors.DigestMismatchError, match=r"words\.txt"):
        fill(place, tmp_path / "store", digest)
    assert cache_at(place).find(digest) is None


def test_a_new_digest_of_a_handle_replaces_the_old_one(place: Place, tmp_path: Path, digest: Digest) -> None:
    fill(place, tmp_path / "store", digest)
    newer = publish(tmp_path / "store", {"saved_model.pb": b"newer"})
    fill(place, tmp_path / "store", newer)
    cache = cache_at(place)
    assert cache.find_handle(HANDLE) == newer
    assert cache.find(digest) is not None


def test_a_damaged_pointer_is_nothing(place: Place, tmp_path: Path, digest: Digest) -> None:
    for data in (b"", b"{}", b"[]", b'{"digest": 7}', b'{"digest": "md5:1"}'):
        place.put(f"handles/{HANDLE.key}.json", data)
        assert cache_at(place).find_handle(HANDLE) is None
    fill(place, tmp_path / "store", digest)
    assert cache_at(place).find_handle(HANDLE) == digest


def test_no_object_holds_a_secret(place: Place, tmp_path: Path, digest: Digest) -> None:
    snapshot = Store(tmp_path / "store").find(digest)
    assert snapshot is not None
    handle = parse_handle("https://user:password@host.example/model.tar.gz?signature=token")
    with snapshot:
        cache_at(place).fill(snapshot, handle)
    for path, data in place.files().items():
        assert b"password" not in data
        assert b"token" not in data
        assert "password" not in path


def test_a_read_only_cache_is_never_written(place: Place, tmp_path: Path, digest: Digest) -> None:
    cache = cache_at(place, read_only=True)
    snapshot = Store(tmp_path / "store").find(digest)
    assert snapshot is not None
    with snapshot:
        with pytest.raises(errors.AccessDeniedError, match="read-only"):
            cache.fill(snapshot, HANDLE)
        proven = ProvenCopies(tmp_path / "proven")
        tolerant = BestEffortCache(place.url, DEADLINES, proven, in_flight_bytes=IN_FLIGHT, read_only=True)
        with tolerant.single_filler("work", lambda: None, Deadline(20)) as found:
            assert found is None
        assert cache.find(digest) is None
    assert place.files() == {}
    fill(place, tmp_path / "store", digest)
    assert cache.find(digest) is not None


def test_a_cache_that_may_not_be_written_is_told(
    tmp_path: Path, digest: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(mounted_tree, "_open_file", refuse)
    with pytest.raises(errors.AccessDeniedError, match="may not be written"):
        fill(MountedPlace(tmp_path / "mount"), tmp_path / "store", digest)


def test_somebody_who_keeps_changing_objects_is_told(
    tmp_path: Path, digest: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = MountedPlace(tmp_path / "mount")
    create = MountedTree.create

    def create_and_change(self: MountedTree, path: str, data: bytes) -> bool:
        place.put(object_of(digest, "saved_model.pb"), os.urandom(8))
        return create(self, path, data)

    monkeypatch.setattr(MountedTree, "create", create_and_change)
    with pytest.raises(errors.OriginError, match="changed by others"):
        fill(place, tmp_path / "store", digest)


def test_many_who_fill_at_once_leave_one_whole_snapshot(place: Place, tmp_path: Path, digest: Digest) -> None:
    start = threading.Barrier(5)

    def work(_: int) -> SharedSnapshot:
        start.wait(20)
        return fill(place, tmp_path / "store", digest)

    with ThreadPoolExecutor(5) as pool:
        filled = list(pool.map(work, range(5)))
    assert {str(one.manifest.digest) for one in filled} == {str(digest)}
    check_filled(place, digest, FILES)
    found = cache_at(place).find(digest)
    assert found is not None
    assert not found.manifest.blocks_proven  # of the cache's own record; those who filled it have their own
    assert all(one.manifest.blocks_proven for one in filled)
    # Not all of them: where the storage has no exclusive create, a file may be written once more after one was done.
    assert found in filled


@pytest.mark.parametrize("exclusive", [True, False])
def test_two_clusters_at_once_read_the_origin_once_or_do_equal_work_twice(
    place: Place, tmp_path: Path, exclusive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hubdist.remote.fsspec_tree import RemoteTree

    if not exclusive:
        for kind in (RemoteTree, MountedTree):
            monkeypatch.setattr(
                kind, "exclusive", property(lambda self: False, lambda self, value: None), raising=False
            )
    reads: list[int] = []
    both = threading.Barrier(2)

    def cluster(number: int) -> SharedSnapshot:
        cache = cache_at(place)

        def done() -> SharedSnapshot | None:
            digest = cache.find_handle(HANDLE)
            return None if digest is None else cache.find(digest)

        both.wait(20)
        with hold_lease(place.url, HANDLE.key, DEADLINES, done, LeaseTimes(poll_s=0.05)) as found:
            if found is not None:
                return found
            reads.append(number)
            if not exclusive:
                both.wait(20)
            snapshot = Store(tmp_path / f"{number}").find(publish(tmp_path / f"{number}", FILES))
            assert snapshot is not None
            with snapshot:
                return cache.fill(snapshot, HANDLE)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(cluster, range(2))
    assert len(reads) == (1 if exclusive else 2)
    assert first.manifest == second.manifest
    check_filled(place, first.manifest.digest, FILES)


class Moments:
    """Looks at a cache, as a reader that starts just then, and counts what it sees."""

    def __init__(self, place: Place, digest: Digest) -> None:
        self._cache = cache_at(place)
        self._digest = digest
        self.nothing = 0
        self.whole = 0
        self.failed: list[BaseException] = []

    def look(self) -> None:
        try:
            found = self._cache.find(self._digest)
            if found is None:
                assert self.whole == 0
                self.nothing += 1
            else:
                assert read_back(found) == MANY
                self.whole += 1
        except BaseException as error:
            self.failed.append(error)
            raise


def test_a_reader_that_starts_at_any_of_a_hundred_moments_finds_all_or_nothing(server: FakeGcs, tmp_path: Path) -> None:
    digest = publish(tmp_path / "store", MANY)
    place = GcsPlace(server, BUCKET, "moments")
    moments = Moments(place, digest)
    with GcsProxy(server.url, lambda *_: moments.look()) as proxy, filler() as process:
        assert process.fill(proxy.url, place, tmp_path / "store", digest, lambda pid: None) == 0
    assert not moments.failed
    assert moments.nothing + moments.whole >= 100
    assert moments.nothing >= 100
    assert moments.whole >= 4
    check_filled(place, digest, MANY)


def test_a_reader_of_a_mount_finds_all_or_nothing_at_any_of_a_hundred_moments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = publish(tmp_path / "store", MANY)
    place = MountedPlace(tmp_path / "mount")
    moments = Moments(place, digest)
    lock, sync = threading.Lock(), os.fsync

    def look_and_sync(handle: int) -> None:
        with lock:
            moments.look()
            sync(handle)
            moments.look()

    monkeypatch.setattr(mounted_tree.os, "fsync", look_and_sync)
    fill(place, tmp_path / "store", digest)
    assert not moments.failed
    assert moments.nothing >= 100
    assert moments.whole >= 2


def test_a_reader_with_an_old_listing_is_refused_after_a_mend(place: Place, tmp_path: Path, digest: Digest) -> None:
    from hubdist.remote.snapshot_copy import check_copy

    old = fill(place, tmp_path / "store", digest)
    place.put(object_of(digest, "saved_model.pb"), b"planted")
    with pytest.raises(errors.IntegrityError, match=r"saved_model\.pb"):
        check_copy(old.copy, DEADLINES)
    with pytest.raises(errors.IntegrityError, match=r"saved_model\.pb") as caught:
        read_back(old)
    assert hashlib.sha256(b"planted").hexdigest() in str(caught.value) or "memory" in place.url
    assert read_back(fill(place, tmp_path / "store", digest)) == FILES


def tensor_index(shards: int) -> bytes:
    """The smallest `variables.index`: its header, in a table of one block."""
    header = bytes([0, 0, 2, 0x08, shards])
    block_index = bytes([0, 0, 2, 0, len(header)])
    handles = bytes([0, 0, len(header), len(block_index)])
    return header + block_index + handles.ljust(40, b"\0") + (0xDB4775248B80FB57).to_bytes(8, "little")


BY_TFHUB = {
    "saved_model.pb": b"graph",
    "variables/variables.index": tensor_index(2),
    "variables/variables.data-00000-of-00002": b"0",
    "variables/variables.data-00001-of-00002": b"1",
}


def sha1(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()


@pytest.mark.parametrize("written", ["", "/"])
def test_a_complete_directory_of_tensorflow_hub_is_used(place: Place, written: str) -> None:
    folder = sha1(HANDLE.text + written)
    put_all(place, folder, BY_TFHUB)
    place.put(f"{folder}.descriptor.txt", b"Module: it")
    found = cache_at(place).find_tfhub(HANDLE)
    assert found is not None
    assert found.url == f"{place.url}/{folder}"
    assert {path: file.size for path, file in found.files.items()} == {p: len(data) for p, data in BY_TFHUB.items()}


@pytest.mark.parametrize(
    "lacks", ["saved_model.pb", "variables/variables.index", "variables/variables.data-00001-of-00002"]
)
def test_an_incomplete_directory_of_tensorflow_hub_is_not_used(place: Place, lacks: str) -> None:
    put_all(place, sha1(HANDLE.text), {path: data for path, data in BY_TFHUB.items() if path != lacks})
    assert cache_at(place).find_tfhub(HANDLE) is None


def test_a_directory_that_tensorflow_hub_is_writing_to_is_not_used(place: Place) -> None:
    put_all(place, sha1(HANDLE.text), BY_TFHUB)
    place.put(f"{sha1(HANDLE.text)}.lock", b"host.1234")
    assert cache_at(place).find_tfhub(HANDLE) is None


def test_a_directory_that_grows_while_it_is_looked_at_is_not_used(place: Place) -> None:
    from hubdist.remote.fsspec_tree import RemoteTree

    folder = sha1(HANDLE.text)
    put_all(place, folder, BY_TFHUB)
    kind: Any = MountedTree if isinstance(place, MountedPlace) else RemoteTree
    load = kind.load

    def load_and_grow(self: Any, path: str) -> bytes | None:
        place.put(f"{folder}/assets/late", b"")
        data: bytes | None = load(self, path)
        return data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "load", load_and_grow)
        assert cache_at(place).find_tfhub(HANDLE) is None
    assert cache_at(place).find_tfhub(HANDLE) is not None


def test_handles_that_tensorflow_hub_does_not_cache_have_no_such_directory(place: Place) -> None:
    handle = parse_handle("gs://bucket/model")
    put_all(place, sha1(handle.text), BY_TFHUB)
    assert cache_at(place).find_tfhub(handle) is None


def test_nobody_at_the_other_end_is_a_typed_error(digest: Digest) -> None:
    with gcs_environment("http://127.0.0.1:9"), pytest.raises(errors.TransferError):
        SharedCache("gs://bucket/cache", Deadlines(stall_s=2, retries=0), in_flight_bytes=IN_FLIGHT).find(digest)


def test_the_record_says_what_it_is(place: Place, tmp_path: Path, digest: Digest) -> None:
    fill(place, tmp_path / "store", digest)
    record = json.loads(place.files()[f"snapshots/{digest.value}.json"])
    assert record["hubdist_record"] == 1
    assert record["versions"].keys() == FILES.keys()
    pointer = json.loads(place.files()[f"handles/{HANDLE.key}.json"])
    assert pointer == {"hubdist_handle": 1, "handle": HANDLE.redacted, "digest": str(digest)}
