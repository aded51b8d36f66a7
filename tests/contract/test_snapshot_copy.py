"""Parallel, verified copies from storage: right bytes, or a typed error that names the object and both digests."""

from __future__ import annotations

import hashlib
import os
import pickle
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hubdist import errors
from hubdist.model.chunks import Chunk, Piece
from hubdist.model.manifest import BLOCK_BYTES, EntryDigester, Manifest, digest_block
from hubdist.remote import StoredFile
from hubdist.remote.copy_reader import copy_remote
from hubdist.remote.snapshot_copy import RemoteCopy, check_copy, list_copy, probe
from hubdist.store.store import Store
from hubdist.system.deadline import Deadlines
from tests.support.gcs import FakeGcs, gcs_environment
from tests.support.gcs_proxy import GcsProxy
from tests.support.places import GcsPlace, Place, put_all

BUCKET = "copies"
DEADLINES = Deadlines(stall_s=20, retries=0)
IN_FLIGHT = 4 << 20
FILES = {
    "saved_model.pb": os.urandom(3_000_000),
    "extra/data-00000": os.urandom(9_000_000),
    "assets/empty": b"",
    **{f"assets/{number}.txt": os.urandom(100 + number) for number in range(30)},
}


def manifest_of(files: Mapping[str, bytes]) -> Manifest:
    entries = []
    for path, data in files.items():
        digester = EntryDigester(path)
        digester.update(data)
        entries.append(digester.entry())
    return Manifest.of(entries)


MANIFEST = manifest_of(FILES)


def copied(
    copy: RemoteCopy,
    manifest: Manifest,
    store: Path,
    deadlines: Deadlines = DEADLINES,
    in_flight_bytes: int = IN_FLIGHT,
) -> dict[str, bytes]:
    """The files as a node's store has them after a copy."""
    made = Store(store)
    with made.stage_chunks(manifest) as stage:
        assert (
            copy_remote(copy, manifest, stage.write_chunk, deadlines, in_flight_bytes=in_flight_bytes)
            == manifest.total_bytes
        )
        with made.publish(stage) as snapshot:
            return {entry.path: (snapshot.path / entry.path).read_bytes() for entry in manifest.entries}


def refused(copy: RemoteCopy, store: Path, manifest: Manifest = MANIFEST) -> errors.IntegrityError:
    """The error of a copy that must not succeed, and leaves nothing."""
    with pytest.raises(errors.IntegrityError) as caught:
        copied(copy, manifest, store)
    assert list((store / "staging").iterdir()) == []
    assert Store(store).digests() == []
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), errors.IntegrityError)
    return caught.value


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def block_digest_of(data: bytes) -> str:
    return f"blake3:{digest_block(data).hex()}"


@pytest.mark.parametrize("in_flight", [4 << 20, 64 << 20, 256 << 20])
def test_a_copy_has_the_right_bytes(place: Place, tmp_path: Path, in_flight: int) -> None:
    put_all(place, "model", FILES)
    copy = list_copy(f"{place.url}/model", DEADLINES)
    assert {path: file.size for path, file in copy.files.items()} == {path: len(data) for path, data in FILES.items()}
    assert copied(pickle.loads(pickle.dumps(copy)), MANIFEST, tmp_path / "store", in_flight_bytes=in_flight) == FILES


def test_ordered_chunks_come_in_order_from_the_calling_thread(place: Place) -> None:
    put_all(place, "model", FILES)
    came: list[tuple[int, int]] = []
    total = bytearray()

    def take(chunk: Chunk, data: memoryview) -> None:
        assert threading.current_thread() is threading.main_thread()
        came.extend((piece.entry_index, piece.start) for piece in chunk.pieces)
        total.extend(data)

    copy_remote(
        list_copy(f"{place.url}/model", DEADLINES), MANIFEST, take, DEADLINES, in_flight_bytes=IN_FLIGHT, ordered=True
    )
    assert came == sorted(came)
    assert len(came) > 2
    assert bytes(total) == b"".join(FILES[entry.path] for entry in MANIFEST.entries)


@pytest.mark.parametrize("ordered", [True, False])
def test_only_the_pieces_that_somebody_asks_for_are_read(place: Place, ordered: bool) -> None:
    put_all(place, "model", FILES)
    big = [entry.path for entry in MANIFEST.entries].index("extra/data-00000")
    pieces = [Piece(big, BLOCK_BYTES, 3 * BLOCK_BYTES), Piece(big, 8 * BLOCK_BYTES, 9_000_000)]
    came: dict[int, bytes] = {}

    def take(chunk: Chunk, data: memoryview) -> None:
        chunk.check(data)
        came[chunk.pieces[0].start] = bytes(data)

    copy = list_copy(f"{place.url}/model", DEADLINES)
    for wanted in (pieces, []):
        came.clear()
        read = copy_remote(copy, MANIFEST, take, DEADLINES, in_flight_bytes=IN_FLIGHT, ordered=ordered, pieces=wanted)
        data = FILES["extra/data-00000"]
        assert b"".join(came[at] for at in sorted(came)) == b"".join(data[one.start : one.end] for one in wanted)
        assert read == sum(piece.size for piece in wanted)


def test_a_model_of_empty_files_is_copied(place: Place, tmp_path: Path) -> None:
    files = {"saved_model.pb": b"", "empty": b""}
    put_all(place, "model", files)
    copy = list_copy(f"{place.url}/model", DEADLINES)
    assert copied(copy, manifest_of(files), tmp_path / "store") == files


def test_no_more_memory_is_taken_than_allowed(server: FakeGcs, monkeypatch: pytest.MonkeyPatch) -> None:
    from hubdist.remote import parallel_ranges

    taken: list[int] = []

    def noted(size: int) -> bytearray:
        taken.append(size)
        return bytearray(size)

    monkeypatch.setattr(parallel_ranges, "bytearray", noted, raising=False)
    place = GcsPlace(server, BUCKET, "memory")
    put_all(place, "model", FILES)
    for ordered in (False, True):
        taken.clear()
        copy = list_copy(f"{place.url}/model", DEADLINES)
        copy_remote(copy, MANIFEST, lambda *_: None, DEADLINES, in_flight_bytes=5 << 20, ordered=ordered)
        assert 0 < sum(taken) <= 5 << 20


def test_replaced_content_is_refused_with_name_and_both_digests(place: Place, tmp_path: Path) -> None:
    put_all(place, "model", FILES)
    old = FILES["saved_model.pb"]
    place.put("model/saved_model.pb", old[:-1] + bytes([old[-1] ^ 1]))
    error = refused(list_copy(f"{place.url}/model", DEADLINES), tmp_path / "store")
    assert isinstance(error, errors.DigestMismatchError)
    assert f"{place.url}/model/saved_model.pb" in str(error)
    last = old[2 << 20 :]
    assert error.expected == block_digest_of(last)
    assert error.actual == block_digest_of(last[:-1] + bytes([last[-1] ^ 1]))
    assert error.expected in str(error)
    assert error.actual in str(error)


def test_swapped_objects_are_refused_with_name_and_both_digests(place: Place, tmp_path: Path) -> None:
    files = {"saved_model.pb": b"a" * 1000, "variables/b": b"b" * 1000}
    put_all(place, "model", {"saved_model.pb": b"b" * 1000, "variables/b": b"a" * 1000})
    error = refused(list_copy(f"{place.url}/model", DEADLINES), tmp_path / "store", manifest_of(files))
    assert isinstance(error, errors.DigestMismatchError)
    digests = (block_digest_of(b"a" * 1000), block_digest_of(b"b" * 1000))
    if f"{place.url}/model/saved_model.pb" in str(error):  # whichever came first
        assert (error.expected, error.actual) == digests
    else:
        assert f"{place.url}/model/variables/b" in str(error)
        assert (error.actual, error.expected) == digests


def test_truncated_objects_are_refused_with_name_and_both_digests(place: Place, tmp_path: Path) -> None:
    put_all(place, "model", FILES)
    cut = FILES["saved_model.pb"][:-1]
    place.put("model/saved_model.pb", cut)
    error = refused(list_copy(f"{place.url}/model", DEADLINES), tmp_path / "store")
    assert isinstance(error, errors.DigestMismatchError)
    assert f"{place.url}/model/saved_model.pb has 2999999 bytes instead of 3000000" in str(error)
    assert (error.expected, error.actual) == (digest_of(FILES["saved_model.pb"]), digest_of(cut))


@pytest.mark.parametrize("change", ["longer", "shorter", "other", "older"])
def test_objects_that_are_replaced_after_the_listing_are_refused(server: FakeGcs, tmp_path: Path, change: str) -> None:
    place = GcsPlace(server, BUCKET, f"replaced-{change}")
    put_all(place, "model", FILES)
    copy = list_copy(f"{place.url}/model", DEADLINES)
    path = "extra/data-00000"
    right = FILES[path]
    new = {"longer": right + b"x", "shorter": right[:-1], "other": right[::-1], "older": right}[change]
    place.put(f"model/{path}", new)
    error = refused(copy, tmp_path / "store")
    assert f"{place.url}/model/{path}" in str(error)
    assert copy.files[path].version in str(error)
    assert digest_of(right) in str(error)
    assert digest_of(new) in str(error)


def test_an_object_that_is_deleted_after_the_listing_is_refused(server: FakeGcs, tmp_path: Path) -> None:
    place = GcsPlace(server, BUCKET, "deleted")
    put_all(place, "model", FILES)
    copy = list_copy(f"{place.url}/model", DEADLINES)
    place.remove("model/assets/7.txt")
    error = refused(copy, tmp_path / "store")
    assert f"{place.url}/model/assets/7.txt" in str(error)
    assert digest_of(FILES["assets/7.txt"]) in str(error)


def test_an_object_that_is_replaced_during_the_copy_is_refused(server: FakeGcs, tmp_path: Path) -> None:
    place = GcsPlace(server, BUCKET, "during")
    files = {"saved_model.pb": b"graph", "extra/data": os.urandom(8 << 20) * 4}
    put_all(place, "model", files)
    copy = list_copy(f"{place.url}/model", DEADLINES)
    replaced: list[str] = []

    def replace(number: int, when: str, request: str) -> None:
        if "data" in request and when == "after" and not replaced:
            replaced.append(request)
            place.put("model/extra/data", files["extra/data"][::-1])

    manifest = manifest_of(files)
    refusal = pytest.raises(errors.IntegrityError, match="gs://copies/during/model/extra/data")
    with GcsProxy(server.url, replace) as proxy, gcs_environment(proxy.url), refusal:
        copied(copy, manifest, tmp_path / "store")  # with memory for two requests at once
    assert replaced


@pytest.mark.parametrize("change", ["surplus", "missing"])
def test_other_names_than_the_manifests_are_refused_before_anything_is_read(
    place: Place, tmp_path: Path, change: str
) -> None:
    put_all(place, "model", FILES)
    if change == "surplus":
        place.put("model/assets/surplus", b"x")
    else:
        place.remove("model/assets/3.txt")
    error = refused(list_copy(f"{place.url}/model", DEADLINES), tmp_path / "store")
    name = "assets/surplus" if change == "surplus" else "assets/3.txt"
    assert f"{place.url}/model/{name}" in str(error)
    assert str(MANIFEST.digest) in str(error)


def test_a_chunk_that_fails_is_read_again(server: FakeGcs, tmp_path: Path) -> None:
    place = GcsPlace(server, BUCKET, "again")
    put_all(place, "model", FILES)
    copy = list_copy(f"{place.url}/model", DEADLINES)

    def fail_often(number: int, when: str, request: str) -> None:
        if number % 5 == 1:
            raise ConnectionResetError

    deadlines = replace(DEADLINES, retries=4)
    with GcsProxy(server.url, fail_often) as proxy, gcs_environment(proxy.url):
        assert copied(copy, MANIFEST, tmp_path / "store", deadlines, 64 << 20) == FILES


def test_a_copy_ends_at_its_deadline(server: FakeGcs) -> None:
    place = GcsPlace(server, BUCKET, "deadline")
    put_all(place, "model", FILES)
    copy = list_copy(f"{place.url}/model", DEADLINES)
    go_on = threading.Event()
    with GcsProxy(server.url, lambda *_: go_on.wait(20)) as proxy, gcs_environment(proxy.url):
        for ordered in (False, True):
            begin = time.monotonic()
            with pytest.raises(errors.TransferTimeoutError, match="gs://copies/deadline/model"):
                deadlines = replace(DEADLINES, total_s=0.5, retries=5)
                copy_remote(copy, MANIFEST, lambda *_: None, deadlines, in_flight_bytes=IN_FLIGHT, ordered=ordered)
            assert time.monotonic() - begin < 5
        go_on.set()


def test_what_the_callers_disk_raises_is_raised(place: Place) -> None:
    put_all(place, "model", FILES)
    full = errors.StoreFullError("full", need_bytes=1, free_bytes=0)

    def refuse(*_: Any) -> None:
        raise full

    for ordered in (False, True):
        with pytest.raises(errors.StoreFullError):
            copy = list_copy(f"{place.url}/model", DEADLINES)
            copy_remote(copy, MANIFEST, refuse, DEADLINES, in_flight_bytes=IN_FLIGHT, ordered=ordered)


@pytest.mark.parametrize("change", ["replace", "remove", "add"])
def test_check_copy_names_what_changed(place: Place, change: str) -> None:
    put_all(place, "model", {"saved_model.pb": b"one", "b": b"two"})
    copy = list_copy(f"{place.url}/model", DEADLINES)
    check_copy(copy, DEADLINES)
    name = {"replace": "b", "remove": "b", "add": "c"}[change]
    place.remove("model/b") if change == "remove" else place.put(f"model/{name}", b"six")
    with pytest.raises(errors.IntegrityError, match=f"{place.url}/model/{name} was"):
        check_copy(copy, DEADLINES)


def test_a_directory_without_files_is_not_found(place: Place) -> None:
    with pytest.raises(errors.ModelNotFoundError, match=place.url):
        list_copy(f"{place.url}/nothing", DEADLINES)


def test_a_probe_reads_a_little(place: Place) -> None:
    put_all(place, "model", FILES)
    probe(f"{place.url}/model", DEADLINES, timeout_s=10)
    probe(list_copy(f"{place.url}/model", DEADLINES), DEADLINES, timeout_s=10)


def test_a_probe_of_nothing_says_so(place: Place) -> None:
    with pytest.raises(errors.ModelNotFoundError):
        probe(f"{place.url}/nothing", DEADLINES, timeout_s=10)
    with pytest.raises(errors.HubdistError):
        probe(RemoteCopy(f"{place.url}/nothing", {"a": StoredFile(3, "17")}), DEADLINES, timeout_s=10)


def test_a_probe_ends_in_time(server: FakeGcs) -> None:
    go_on = threading.Event()
    with GcsProxy(server.url, lambda *_: go_on.wait(20)) as proxy, gcs_environment(proxy.url):
        begin = time.monotonic()
        with pytest.raises(errors.TransferTimeoutError):
            probe(f"gs://{BUCKET}/model", DEADLINES, timeout_s=0.5)
        assert time.monotonic() - begin < 5
        go_on.set()
    for thread in threading.enumerate():
        if thread.name == "hubdist-probe":
            thread.join(10)


def test_errors_hide_secrets(tmp_path: Path) -> None:
    copy = RemoteCopy("gs://user:secret@bucket/model", {})
    assert "secret" not in copy.redacted


def test_large_objects_are_not_read_for_an_error(place: Place) -> None:
    put_all(place, "model", FILES)
    place.put("model/saved_model.pb", b"x" * 2000)
    copy = list_copy(f"{place.url}/model", DEADLINES)
    with pytest.raises(errors.IntegrityError, match="2000 bytes"):
        copy_remote(copy, MANIFEST, lambda *_: None, DEADLINES, in_flight_bytes=IN_FLIGHT, max_digest_bytes=1000)
