"""The store: whole snapshots or none, whoever writes, dies, fills the disk or plants files.

Every test runs twice: with locks, and with locks that do nothing, as on some network file systems.
"""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import resource
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import SpawnProcess
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from typing import Any

import pytest

from hubdist.errors import (
    DigestMismatchError,
    IntegrityError,
    StoreError,
    StoreFullError,
    UnsafeArchiveError,
    UnsafeStoreError,
)
from hubdist.model.chunks import cut_chunks
from hubdist.model.manifest import BLOCK_BYTES, Digest, Manifest
from hubdist.store.holds import Hold
from hubdist.store.store import Store
from hubdist.system.directories import remove_tree
from hubdist.system.disk import disk_errors, free_bytes, write_durably
from hubdist.system.ownership import check_private
from tests.support.checkpoints import variables_index
from tests.support.store_models import FILES, content, home, model, publish, staged

_SPAWN = multiprocessing.get_context("spawn")  # a fork of a process with TensorFlow's threads may hang or crash


def _lock_nothing(*_: object) -> None:
    """What `flock` is on a file system whose locks do nothing."""


def _end_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", _lock_nothing)


@pytest.fixture(params=[True, False], ids=["locks", "no-locks"], autouse=True)
def locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the file system's locks do anything."""
    if not request.param:
        _end_locks(monkeypatch)
    return bool(request.param)


@pytest.fixture
def with_locks(locks: bool) -> None:
    """For tests of evictions: where nobody knows who uses a snapshot, none is evicted."""
    if not locks:
        pytest.skip("without locks nobody knows who uses a snapshot")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "store"
    remove_tree(tmp_path / "store")


@pytest.fixture
def store(root: Path) -> Store:
    return Store(root)


def start_child(work: Callable[..., object], *args: object) -> SpawnProcess:
    """A process of its own that calls a function of a module; its locks do as little as those of this process."""
    child = _SPAWN.Process(target=_work_as_child, args=(fcntl.flock is _lock_nothing, work, *args))
    child.start()
    return child


def _work_as_child(no_locks: bool, work: Callable[..., object], *args: object) -> None:
    if no_locks:
        _end_locks(pytest.MonkeyPatch())
    work(*args)


def in_child(work: Callable[..., Any], *args: object) -> Any:
    """What a function of a module returns, or the error that it raises, in a process of its own."""
    queue = _SPAWN.SimpleQueue()
    child = start_child(_put_outcome, queue, work, *args)
    child.join(60)
    assert child.exitcode == 0
    return queue.get()


def _put_outcome(queue: SimpleQueue[Any], work: Callable[..., object], *args: object) -> None:
    try:
        queue.put(work(*args))
    except Exception as error:  # noqa: BLE001 - it is looked at in the parent
        queue.put(error)


# Publish and find


def test_a_published_model_is_found_with_exactly_its_files(store: Store) -> None:
    digest = publish(store).manifest.digest
    found = store.find(digest)
    assert found is not None
    assert content(found.path) == FILES
    assert found.manifest.digest == digest


def test_any_store_of_the_same_root_finds_it(store: Store) -> None:
    digest = publish(store).manifest.digest
    assert in_child(_find_content, store.root, digest) == FILES


def _find_content(root: Path, digest: Digest) -> dict[str, bytes]:
    found = Store(root).find(digest)
    assert found is not None
    return content(found.path)


def test_an_unknown_model_is_not_found(store: Store) -> None:
    assert store.find(Digest("0" * 64)) is None


def test_a_published_model_is_read_only(store: Store) -> None:
    path = publish(store).path
    modes = {stat.S_IMODE(file.stat().st_mode) for file in path.rglob("*") if file.is_file()}
    assert modes == {0o444}
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (path, path / "assets")} == {0o555}


def test_the_manifest_lies_beside_the_model_and_not_in_it(store: Store) -> None:
    snapshot = publish(store)
    assert snapshot.path.name == "files"
    assert Manifest.from_json((snapshot.path.parent / "manifest.json").read_bytes()) == snapshot.manifest


def test_a_single_folder_around_a_model_is_stripped(store: Store) -> None:
    inside = publish(store, {f"folder/{path}": data for path, data in FILES.items()})
    assert inside.manifest.digest == publish(store).manifest.digest


def test_a_single_folder_around_other_files_stays(store: Store) -> None:
    assert content(publish(store, {"folder/weights.bin": b"x"}).path) == {"folder/weights.bin": b"x"}


def test_an_origin_without_files_is_refused(store: Store) -> None:
    with store.stage() as stage, pytest.raises(IntegrityError, match="no files"):
        store.publish(stage)


def test_what_an_origin_leaves_beside_the_model_is_not_published(store: Store) -> None:
    with store.stage() as stage:
        (stage.path / "download").mkdir()
        (stage.path / "download" / "model.tgz").write_bytes(b"x")
        (stage.path / "archive.zip").write_bytes(b"x")
        (stage.path / "link").symlink_to("/")
        with stage.open_file("saved_model.pb") as writer:
            writer.write(b"x")
        published = store.publish(stage)
    assert {path.name for path in published.path.parent.iterdir()} == {"files", "manifest.json", "in-use"}


def test_nothing_stays_in_staging(store: Store) -> None:
    publish(store)
    assert staged(store) == []


def test_a_stage_is_removed_when_its_maker_fails(store: Store) -> None:
    def fail() -> None:
        with store.stage() as stage, stage.open_file("saved_model.pb") as writer:
            writer.write(b"x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert staged(store) == []
    assert store.digests() == []


def test_a_model_without_a_variables_file_that_its_index_names_is_not_published(store: Store) -> None:
    files = {
        "saved_model.pb": b"x",
        "variables/variables.index": variables_index(2),
        "variables/variables.data-00000-of-00002": b"x",
    }
    with pytest.raises(IntegrityError, match="data-00001-of-00002 is missing"):
        publish(store, files)
    assert store.digests() == []


@pytest.mark.parametrize("path", ["../outside", "/etc/x", "a/../b", "a\0b"])
def test_a_stage_refuses_paths_that_leave_it(store: Store, path: str) -> None:
    with store.stage() as stage, pytest.raises(UnsafeArchiveError), stage.open_file(path):
        pass


def test_a_stage_does_not_follow_a_link_that_was_put_into_it(store: Store, tmp_path: Path) -> None:
    with store.stage() as stage:
        (stage.files / "saved_model.pb").symlink_to(tmp_path / "target")
        with pytest.raises(StoreError), stage.open_file("saved_model.pb"):
            pass
    assert not (tmp_path / "target").exists()


# Chunks


def manifest_of(tmp_path: Path, files: dict[str, bytes]) -> Manifest:
    other = Store(tmp_path / "other")
    with publish(other, files) as snapshot:
        manifest = snapshot.manifest
    remove_tree(tmp_path / "other")
    return manifest


BIG = {"a": os.urandom(2 * BLOCK_BYTES + 5), "b": b"", "c/d": b"small", "e": b"e" * BLOCK_BYTES}
DATA = b"".join(data for _, data in sorted(BIG.items()))


def chunk_data(manifest: Manifest) -> list[tuple[Any, memoryview]]:
    found = []
    at = 0
    for chunk in cut_chunks(manifest, BLOCK_BYTES):
        found.append((chunk, memoryview(DATA)[at : at + chunk.size]))
        at += chunk.size
    return found


def test_chunks_in_any_order_give_the_model(store: Store, tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, BIG)
    with store.stage_chunks(manifest) as stage:
        for chunk, data in reversed(chunk_data(manifest)):
            stage.write_chunk(chunk, data)
        published = store.publish(stage)
    assert content(published.path) == BIG
    store.verify(manifest.digest)


def test_a_damaged_chunk_is_refused_and_the_right_one_still_fits(store: Store, tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, BIG)
    with store.stage_chunks(manifest) as stage:
        for chunk, data in chunk_data(manifest):
            damaged = bytearray(data)
            damaged[-1] ^= 1
            with pytest.raises(DigestMismatchError):
                stage.write_chunk(chunk, memoryview(damaged))
            with pytest.raises(IntegrityError, match="instead of"):
                stage.write_chunk(chunk, data[:-1])
            stage.write_chunk(chunk, data)
        assert content(store.publish(stage).path) == BIG


def test_a_model_that_lacks_a_chunk_is_not_published(store: Store, tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, BIG)
    with store.stage_chunks(manifest) as stage:
        for chunk, data in chunk_data(manifest)[:-1]:
            stage.write_chunk(chunk, data)
            stage.write_chunk(chunk, data)
        with pytest.raises(IntegrityError, match="have not arrived"):
            store.publish(stage)
    assert store.digests() == []


def test_a_model_of_empty_files_needs_no_chunk(store: Store, tmp_path: Path) -> None:
    with store.stage_chunks(manifest_of(tmp_path, {"a": b""})) as stage:
        assert content(store.publish(stage).path) == {"a": b""}


# Hits are checked


def _writable(path: Path) -> Path:
    for folder in (path.parent, *path.parent.parents):
        if folder.name == "snapshots":
            break
        folder.chmod(0o700)
    return path


def _replace(path: Path, data: bytes | None) -> None:
    _writable(path).unlink()
    if data is not None:
        path.write_bytes(data)


def _link(path: Path) -> None:
    target = path.parents[2] / "elsewhere"
    _writable(path).chmod(0o700)
    path.rename(target)
    path.symlink_to(target)


def _swap_for_folder(path: Path) -> None:
    _replace(path, None)
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing file": lambda home: _replace(home / "files/saved_model.pb", None),
    "missing empty file": lambda home: _replace(home / "files/empty", None),
    "extra file": lambda home: _writable(home / "files/extra").write_bytes(b""),
    "extra file in a folder": lambda home: _writable(home / "files/assets/extra").write_bytes(b"x"),
    "short file": lambda home: _replace(home / "files/saved_model.pb", b"graph"),
    "long file": lambda home: _replace(home / "files/saved_model.pb", b"graph" * 501),
    "linked file": lambda home: _link(home / "files/saved_model.pb"),
    "linked folder": lambda home: _link(home / "files/assets"),
    "pipe": lambda home: (_replace(home / "files/empty", None), os.mkfifo(home / "files/empty")),
    "folder for a file": lambda home: _swap_for_folder(home / "files/empty"),
    "no files": lambda home: remove_tree(home / "files"),
    "file for the files": lambda home: (remove_tree(home / "files"), (home / "files").write_bytes(b"")),
    "missing manifest": lambda home: (home / "manifest.json").unlink(),
    "empty manifest": lambda home: _replace(home / "manifest.json", b""),
    "damaged manifest": lambda home: _replace(home / "manifest.json", (home / "manifest.json").read_bytes()[:-9]),
    "missing marker": lambda home: (home / "in-use").unlink(),
    "linked marker": lambda home: (_replace(home / "in-use", None), (home / "in-use").symlink_to("/etc/passwd")),
    "file for all": lambda home: (remove_tree(home), home.write_bytes(b"")),
    "dangling link for all": lambda home: (remove_tree(home), home.symlink_to("nowhere")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_snapshot_is_no_hit_and_is_moved_aside(store: Store, damage: str) -> None:
    with publish(store) as snapshot:
        digest = snapshot.manifest.digest
    DAMAGE[damage](home(store, digest))
    assert store.find(digest) is None
    assert not os.path.lexists(home(store, digest))
    assert len(list((store.root / "quarantine").iterdir())) == 1


@pytest.mark.parametrize("damage", DAMAGE)
def test_publishing_over_a_damaged_snapshot_mends_it(store: Store, damage: str) -> None:
    with publish(store) as snapshot:
        digest = snapshot.manifest.digest
    DAMAGE[damage](home(store, digest))
    assert content(publish(store).path) == FILES


def test_the_manifest_of_another_model_is_no_hit(store: Store) -> None:
    with publish(store) as one, publish(store, model(1)) as other:
        wrong, right = one.path.parent / "manifest.json", other.path.parent / "manifest.json"
    wrong.write_bytes(right.read_bytes())
    assert store.find(one.manifest.digest) is None


def test_a_hit_whose_index_names_a_missing_variables_file_is_damaged(store: Store) -> None:
    files = {
        "saved_model.pb": b"x",
        "variables/variables.index": variables_index(1),
        "variables/variables.data-00000-of-00001": b"x",
    }
    with publish(store, files) as snapshot:
        index = _writable(snapshot.path / "variables/variables.index")
    index.chmod(0o600)
    index.write_bytes(variables_index(2))
    assert store.find(snapshot.manifest.digest) is None


def test_an_index_that_points_anywhere_is_damage_and_no_other_error(store: Store) -> None:
    for place in (b"\xff" * 9 + b"\x01", b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x80\x80\x80\x80\x80\x40"):
        footer = (b"\0\0" + place + b"\x05").ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
        with pytest.raises(IntegrityError, match="damaged"):
            publish(store, {"saved_model.pb": b"x", "variables/variables.index": bytes(50) + footer})


def test_the_newest_quarantined_snapshot_is_kept_for_a_look(store: Store) -> None:
    for number in range(3):
        with publish(store, model(number)) as snapshot:
            (snapshot.path.parent / "in-use").unlink()
        store.find(snapshot.manifest.digest)
    store.sweep()
    assert len(list((store.root / "quarantine").iterdir())) == 1


# Verify


def test_verify_accepts_what_is_right(store: Store) -> None:
    store.verify(publish(store).manifest.digest)


def test_verify_finds_bytes_that_changed_under_the_same_size(store: Store) -> None:
    with publish(store) as snapshot:
        file = _writable(snapshot.path / "saved_model.pb")
    file.chmod(0o600)
    file.write_bytes(b"Graph" + b"graph" * 499)
    with pytest.raises(DigestMismatchError, match=r"saved_model\.pb"):
        store.verify(snapshot.manifest.digest)
    assert store.find(snapshot.manifest.digest) is None


def test_verify_wants_a_snapshot(store: Store) -> None:
    with pytest.raises(IntegrityError, match="no complete snapshot"):
        store.verify(Digest("0" * 64))


# Several writers


def test_threads_that_write_one_model_all_get_it(store: Store) -> None:
    gate = threading.Barrier(8)
    found: list[dict[str, bytes]] = []

    def write() -> None:
        with store.stage() as stage:
            for path, data in FILES.items():
                with stage.open_file(path) as writer:
                    writer.write(data)
            gate.wait(timeout=30)
            with store.publish(stage) as snapshot:
                found.append(content(snapshot.path))

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [FILES] * 8
    assert staged(store) == []
    assert len(store.digests()) == 1


def test_processes_that_write_one_model_all_get_it(store: Store) -> None:
    gate = _SPAWN.Barrier(4)
    queue = _SPAWN.SimpleQueue()
    children = [start_child(_write_with_others, store.root, gate, queue) for _ in range(4)]
    for child in children:
        child.join(90)
        assert child.exitcode == 0
    assert [queue.get() for _ in children] == [FILES] * 4
    assert staged(store) == []


def _write_with_others(root: Path, gate: Barrier, queue: SimpleQueue[dict[str, bytes]]) -> None:
    store = Store(root)
    with store.stage() as stage:
        for path, data in FILES.items():
            with stage.open_file(path) as writer:
                writer.write(data)
        gate.wait(timeout=60)
        with store.publish(stage) as snapshot:
            queue.put(content(snapshot.path))


def test_the_second_writer_leaves_the_first_ones_snapshot(store: Store) -> None:
    first = publish(store)
    before = first.path.stat().st_ino
    assert publish(store).path.stat().st_ino == before


# Evict


@pytest.mark.usefixtures("with_locks")
def test_an_evicted_snapshot_is_gone(store: Store) -> None:
    with publish(store) as snapshot:
        digest = snapshot.manifest.digest
    assert store.evict(digest)
    assert store.find(digest) is None
    assert staged(store) == []


def test_evicting_what_is_not_there_does_nothing(store: Store) -> None:
    assert not store.evict(Digest("0" * 64))


@pytest.mark.usefixtures("with_locks")
def test_a_snapshot_in_use_is_not_evicted(store: Store) -> None:
    snapshot = publish(store)
    digest = snapshot.manifest.digest
    assert not store.evict(digest)
    assert in_child(_evict, store.root, digest) is False
    snapshot.release()
    assert store.evict(digest)


def _evict(root: Path, digest: Digest) -> bool:
    return Store(root).evict(digest)


@pytest.mark.usefixtures("with_locks")
def test_a_dead_process_uses_nothing(store: Store) -> None:
    with publish(store) as snapshot:
        digest = snapshot.manifest.digest
    child = start_child(_die_using_it, store.root, digest)
    child.join(60)
    assert child.exitcode == -9
    assert store.evict(digest)


def _die_using_it(root: Path, digest: Digest) -> None:
    used = Store(root).find(digest)
    assert used is not None
    os.kill(os.getpid(), 9)


@pytest.mark.usefixtures("with_locks")
def test_of_many_that_evict_one_does_it(store: Store) -> None:
    for _ in range(20):
        with publish(store) as snapshot:
            digest = snapshot.manifest.digest
        gate = threading.Barrier(4)
        done: list[bool] = []

        def evict(gate: threading.Barrier = gate, digest: Digest = digest, done: list[bool] = done) -> None:
            gate.wait(timeout=30)
            done.append(store.evict(digest))

        threads = [threading.Thread(target=evict) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(done) == [False, False, False, True]


def test_a_process_that_stopped_while_it_evicts_holds_nobody_up(store: Store) -> None:
    with publish(store) as snapshot:
        digest = snapshot.manifest.digest
    evictor = os.open(home(store, digest) / "in-use", os.O_RDONLY)
    try:
        fcntl.flock(evictor, fcntl.LOCK_EX)
        assert content(publish(store).path) == FILES
    finally:
        os.close(evictor)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, None])
def test_without_locks_a_snapshot_can_be_used_and_none_is_evicted(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int | None
) -> None:
    def refuse(*_: object) -> None:
        if number is not None:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    store = Store(root, max_bytes=1500)
    with publish(store, model(1)) as snapshot:
        assert not store.evict(snapshot.manifest.digest)
        publish(store, model(2)).release()
        assert content(snapshot.path) == model(1)
    assert len(store.digests()) == 2
    assert caplog.text.count("max_store_bytes is not kept") == 1


# max_store_bytes


def _publish_in_turn(store: Store, numbers: list[int]) -> list[Digest]:
    """Publish models of 1,000 bytes; each is older, by its time of use, than the next."""
    found = []
    for number in numbers:
        with publish(store, model(number)) as snapshot:
            found.append(snapshot.manifest.digest)
        at = time.time() - 1000 + number
        os.utime(home(store, found[-1]) / "in-use", (at, at))
    return found


def test_snapshots_are_listed_by_last_use(store: Store) -> None:
    one, two, three = _publish_in_turn(store, [1, 2, 3])
    with store.find(one):  # type: ignore[union-attr]
        assert store.digests() == [two, three, one]


@pytest.mark.usefixtures("with_locks")
def test_the_least_recently_used_snapshots_make_room(root: Path) -> None:
    one, two, three = _publish_in_turn(Store(root), [1, 2, 3])
    limited = Store(root, max_bytes=3000)
    limited.find(one).release()  # type: ignore[union-attr]
    with publish(limited, model(4)) as four:
        assert set(limited.digests()) == {three, one, four.manifest.digest}
    assert limited.find(two) is None


@pytest.mark.usefixtures("with_locks")
def test_room_is_made_before_chunks_arrive(root: Path, tmp_path: Path) -> None:
    one, two = _publish_in_turn(Store(root), [1, 2])
    limited = Store(root, max_bytes=2500)
    with limited.stage_chunks(manifest_of(tmp_path, model(3))):
        assert limited.digests() == [two]
    assert limited.find(one) is None


def test_snapshots_in_use_stay_although_there_is_too_little_room(root: Path, locks: bool) -> None:
    if not locks:
        pytest.skip("without locks nobody knows who uses a snapshot")
    store = Store(root, max_bytes=1500)
    used = publish(store, model(1))
    publish(store, model(2)).release()
    assert used.manifest.digest in store.digests()
    assert content(used.path) == model(1)


def test_what_was_just_published_is_not_evicted_for_its_own_sake(root: Path) -> None:
    one, two = _publish_in_turn(Store(root), [1, 2])
    for digest in (one, two):
        os.utime(home(Store(root), digest) / "in-use", (time.time() + 900, time.time() + 900))  # a clock that was wrong
    with publish(Store(root, max_bytes=1500), model(3)) as snapshot:
        assert content(snapshot.path) == model(3)


def test_a_model_larger_than_the_limit_is_refused_and_evicts_nothing(root: Path, tmp_path: Path) -> None:
    digests = _publish_in_turn(Store(root), [1, 2])
    limited = Store(root, max_bytes=2500)
    with pytest.raises(StoreFullError, match="max_store_bytes allows") as caught:
        publish(limited, model(3, 3000))
    assert (caught.value.need_bytes, caught.value.free_bytes) == (3000, 2500)
    with pytest.raises(StoreFullError, match="max_store_bytes allows") as caught:
        limited.stage_chunks(manifest_of(tmp_path, model(3, 3000)))
    assert (caught.value.need_bytes, caught.value.free_bytes) == (3000, 2500)
    assert limited.digests() == digests
    assert staged(limited) == []


@pytest.mark.usefixtures("with_locks")
def test_a_stray_file_among_the_snapshots_harms_nobody(root: Path) -> None:
    store = Store(root, max_bytes=1500)
    (root / "snapshots" / "lost+found").mkdir()
    (root / "snapshots" / ".nfs0001").write_bytes(b"")
    (root / "snapshots" / ("0" * 64)).write_bytes(b"")
    publish(store, model(1)).release()
    with publish(store, model(2)) as snapshot:
        assert store.digests() == [snapshot.manifest.digest]


# Stages of others


def test_the_stage_of_a_dead_process_is_swept(store: Store, locks: bool) -> None:
    child = start_child(_die_staging, store.root)
    child.join(60)
    assert child.exitcode == -9
    (left,) = staged(store)
    if not locks:
        store.sweep()
        assert left.exists()  # without locks, it may be alive
        os.utime(left / "in-use", (time.time() - 4000,) * 2)
    store.stage().discard()
    assert staged(store) == []


def _die_staging(root: Path) -> None:
    _stage = Store(root).stage()
    os.kill(os.getpid(), 9)


def test_the_stage_of_a_living_process_stays(store: Store) -> None:
    gate, made = _SPAWN.Event(), _SPAWN.Event()
    child = start_child(_stage_until, store.root, made, gate)
    assert made.wait(60)
    Store(store.root).sweep()
    assert len(staged(store)) == 1
    gate.set()
    child.join(60)
    assert child.exitcode == 0
    assert staged(store) == []


def _stage_until(root: Path, made: Event, gate: Event) -> None:
    with Store(root).stage():
        made.set()
        assert gate.wait(30)


def test_the_stage_of_a_living_process_stays_however_old_it_is(store: Store, locks: bool) -> None:
    day = time.time() - 90_000
    with store.stage() as stage:
        marker = stage.path / "in-use"
        for path in (stage.path, marker):
            os.utime(path, (day, day))
        until = time.monotonic() + 10
        while not locks and marker.stat().st_mtime < day + 60 and time.monotonic() < until:
            time.sleep(0.05)  # its maker shows signs of life
        Store(store.root).sweep()
        assert stage.path.exists()


def test_what_nobody_can_hold_is_swept_from_the_stages_when_it_is_old(store: Store) -> None:
    foreign = store.root / "staging" / "foreign"
    foreign.mkdir()
    (foreign / "file").write_bytes(b"x")
    store.sweep()
    assert foreign.exists()
    os.utime(foreign, (time.time() - 90_000,) * 2)
    store.sweep()
    assert not foreign.exists()


def _without_descriptors(root: Path, work: Callable[..., object], *args: object) -> object:
    """Call a function with a store that this process opens, when it may open no further file."""
    store = Store(root)
    limit = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit - 1, limit - 1))
    while True:
        try:
            os.dup(0)
        except OSError:
            break
    return work(store, *args)


def test_a_process_without_descriptors_does_not_take_living_ones_for_dead(store: Store) -> None:
    with store.stage() as stage:
        in_child(_without_descriptors, store.root, Store.sweep)
        assert stage.path.exists()


def _publish_another(store: Store, _: Digest) -> object:
    return publish(store, model(1))


def _list_digests(store: Store, _: Digest) -> object:
    return store.digests()


@pytest.mark.parametrize("work", [_publish_another, Store.find, Store.evict, Store.verify, _list_digests])
def test_a_process_without_descriptors_gets_a_typed_error(
    store: Store, work: Callable[[Store, Digest], object]
) -> None:
    with publish(store) as snapshot:
        digest = snapshot.manifest.digest
    error = in_child(_without_descriptors, store.root, work, digest)
    assert isinstance(error, StoreError)
    assert "ulimit -n" in str(error)
    assert store.find(digest) is not None
    assert staged(store) == []


# The lock that saves double work


def test_one_at_a_time_holds_the_lock(store: Store, locks: bool) -> None:
    if not locks:
        pytest.skip("these locks do nothing")
    inside = threading.Event()
    order: list[str] = []

    def second() -> None:
        inside.wait(30)
        with store.lock("name", 30):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with store.lock("name", 30):
        inside.set()
        thread.join(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_who_does_not_get_the_lock_in_time_goes_on_all_the_same(store: Store) -> None:
    with store.lock("name", 1), store.lock("name", 0.01):
        pass


def test_a_lock_that_cannot_be_made_holds_nobody_up(store: Store) -> None:
    (store.root / "locks" / "name.lock").mkdir()
    with store.lock("name", 0.01):
        pass


# Owners and modes


def test_a_store_is_made_for_its_user_alone(tmp_path: Path) -> None:
    Store(tmp_path / "a" / "b" / "store")
    folders = [tmp_path / "a/b/store", *(path for path in (tmp_path / "a/b/store").iterdir() if path.is_dir())]
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_store_that_others_may_write_to_is_refused_with_the_mend(root: Path, mode: int) -> None:
    Store(root)
    root.chmod(mode)
    with pytest.raises(UnsafeStoreError, match=f"chmod -R go-w {root}"):
        Store(root)


def test_a_store_that_others_may_read_is_fine(root: Path) -> None:
    root.mkdir(mode=0o755)
    assert content(publish(Store(root)).path) == FILES


@pytest.mark.root
def test_a_store_in_which_another_user_owns_a_folder_is_refused(root: Path) -> None:
    Store(root)
    try:
        os.chown(root / "snapshots", 12345, -1)
    except PermissionError:
        pytest.skip("only root can give a directory away")
    with pytest.raises(UnsafeStoreError, match="belongs to user 12345"):
        Store(root)


def test_a_store_that_is_a_file_is_refused(root: Path) -> None:
    root.write_bytes(b"")
    with pytest.raises(StoreError, match="is not a directory"):
        Store(root)


def test_a_place_where_no_store_can_be_made_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError):
        Store(tmp_path / "file" / "store")


def test_a_directory_of_root_is_private_enough() -> None:
    check_private(Path("/"))


# Disks that refuse


def _in_namespace(script: str, *args: object) -> str:
    """Run a script in a mount namespace of its own; what it prints."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs root and mount namespaces")
    return _output(["unshare", "--mount", "--propagation", "private"], script, *args)


def _without_privileges(script: str, *args: object) -> str:
    """Run a script as a user whom modes stop; what it prints."""
    drop = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
    if drop and subprocess.run([*drop, "true"], check=False, capture_output=True).returncode:
        pytest.skip("root may write everywhere, and cannot drop that here")
    return _output(drop, script, *args)


def _output(prefix: list[str], script: str, *args: object) -> str:
    command = [*prefix, sys.executable, "-c", _PRELUDE + script, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


_PRELUDE = """
import os, subprocess, sys
from pathlib import Path
from hubdist.errors import HubdistError
from hubdist.model.chunks import cut_chunks
from hubdist.model.manifest import Digest, Manifest
from hubdist.store.store import Store

def mount(*arguments):
    subprocess.run(["mount", *map(str, arguments)], check=True)

def publish(store, files):
    with store.stage() as stage:
        for path, data in files.items():
            with stage.open_file(path) as writer:
                writer.write(data)
        return store.publish(stage)

def attempt(work):
    try:
        work()
    except HubdistError as error:
        free = getattr(error, "free_bytes", None)
        print(type(error).__name__, error, free)
    else:
        print("done")

root = Path(sys.argv[1])
"""

_MOUNT_READ_ONLY = """
mount("--bind", root, root)
mount("-o", "remount,bind,ro", root)
"""

_READ_ONLY = """
store = Store(root)
print(store.read_only, (store.find(Digest(sys.argv[2])).path / "saved_model.pb").read_bytes())
attempt(lambda: store.verify(Digest(sys.argv[2])))
attempt(lambda: publish(store, {"saved_model.pb": b"x"}))
with store.lock("name", 1):
    print("went on")
"""


@pytest.mark.root
def test_a_read_only_store_serves_hits_and_says_why_it_takes_nothing(store: Store) -> None:
    with publish(store, model(65, 3)) as snapshot:
        lines = _in_namespace(_MOUNT_READ_ONLY + _READ_ONLY, store.root, snapshot.manifest.digest.value).splitlines()
    _check_read_only(lines)


def test_a_store_that_its_user_may_not_write_to_serves_hits_too(store: Store) -> None:
    with publish(store, model(65, 3)) as snapshot:
        for folder in (store.root, *store.root.iterdir()):
            folder.chmod(0o500)
        lines = _without_privileges(_READ_ONLY, store.root, snapshot.manifest.digest.value).splitlines()
    _check_read_only(lines)


def _check_read_only(lines: list[str]) -> None:
    assert lines[:2] == ["True b'AAA'", "done"]
    assert lines[2].startswith("StoreError the store")
    assert "read-only" in lines[2]
    assert lines[3] == "went on"


_READ_ONLY_PARENT = """
attempt(lambda: Store(root / "store"))
"""


@pytest.mark.root
def test_a_store_that_cannot_be_made_on_a_read_only_disk_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    assert _in_namespace(_MOUNT_READ_ONLY + _READ_ONLY_PARENT, tmp_path / "disk").startswith(
        "StoreError the file system is read-only"
    )


_SMALL_DISK = """
mount("-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", root)
store = Store(root)
kept = publish(store, {"saved_model.pb": b"kept"})
attempt(lambda: publish(store, {"saved_model.pb": bytes(9 << 20)}))

def overtaken():
    with store.stage() as stage, stage.open_file("saved_model.pb") as writer:
        (root / "ballast").write_bytes(bytes(6 << 20))
        for _ in range(7):
            writer.write(bytes(1 << 20))

attempt(overtaken)
(root / "ballast").unlink()

manifest = Manifest.from_json(Path(sys.argv[2]).read_bytes())

def overtaken_by_chunks():
    with store.stage_chunks(manifest) as stage:
        (root / "ballast").write_bytes(bytes(6 << 20))
        for chunk in cut_chunks(manifest, 1 << 20):
            stage.write_chunk(chunk, memoryview(bytes(chunk.size)))

attempt(overtaken_by_chunks)
attempt(lambda: store.stage_chunks(manifest))
(root / "ballast").unlink()
print(os.listdir(root / "staging"), len(store.digests()))
with store.stage_chunks(manifest) as stage:
    for chunk in cut_chunks(manifest, 1 << 20):
        stage.write_chunk(chunk, memoryview(bytes(chunk.size)))
    print((store.publish(stage).path / "saved_model.pb").stat().st_size)
"""


@pytest.mark.root
def test_a_full_disk_is_a_typed_error_that_leaves_nothing_and_harms_no_other_model(tmp_path: Path, root: Path) -> None:
    manifest = manifest_of(tmp_path, {"saved_model.pb": bytes(5 << 20)})
    (tmp_path / "manifest.json").write_bytes(manifest.to_json())
    root.mkdir(mode=0o700)
    lines = _in_namespace(_SMALL_DISK, root, tmp_path / "manifest.json").splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["StoreFullError"] * 4
    assert "its disk has free" in lines[0]
    assert "the disk is full" in lines[1]
    assert "the disk is full" in lines[2]
    assert f"the model has {5 << 20} bytes" in lines[3]
    assert lines[4:] == ["[] 1", str(5 << 20)]


_SMALL_DISK_GROWING = """
mount("-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", root)
store = Store(root)
manifest = Manifest.from_json(Path(sys.argv[2]).read_bytes())
chunks = cut_chunks(manifest, 1 << 20)

def grow(known, ballast=0):
    with store.stage_chunks(known) as stage:
        (root / "ballast").write_bytes(bytes(ballast))
        for chunk in chunks:
            stage.write_chunk(chunk, memoryview(bytes(chunk.size)))

attempt(lambda: grow(None))
attempt(lambda: grow(manifest))
attempt(lambda: grow(None, 6 << 20))
print(os.listdir(root / "staging"), len(store.digests()))
"""


@pytest.mark.root
def test_a_disk_that_is_too_small_for_what_keeps_coming_is_a_typed_error(tmp_path: Path, root: Path) -> None:
    manifest = manifest_of(tmp_path, {"saved_model.pb": bytes(9 << 20)})
    (tmp_path / "manifest.json").write_bytes(manifest.to_json())
    root.mkdir(mode=0o700)
    lines = _in_namespace(_SMALL_DISK_GROWING, root, tmp_path / "manifest.json").splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["StoreFullError"] * 3
    assert "its disk has free" in lines[0]
    assert f"the model has {9 << 20} bytes" in lines[1]
    assert "the disk is full" in lines[2]
    assert lines[3:] == ["[] 0"]


@pytest.mark.parametrize(
    ("number", "kind", "says"),
    [
        (errno.ENOSPC, StoreFullError, "the disk is full"),
        (errno.EDQUOT, StoreFullError, "quota"),
        (errno.EMFILE, StoreError, "ulimit -n"),
        (errno.ENFILE, StoreError, r"fs\.file-max"),
        (errno.EIO, StoreError, "I/O error"),
        (errno.EROFS, StoreError, "read-only"),
        (errno.EACCES, StoreError, "permission is denied"),
        (errno.ENAMETOOLONG, StoreError, "too long"),
        (errno.ELOOP, StoreError, "symbolic links"),
    ],
)
def test_errors_of_the_disk_have_a_name_and_the_path(
    tmp_path: Path, number: int, kind: type[StoreError], says: str
) -> None:
    with pytest.raises(kind, match=says) as caught, disk_errors(tmp_path / "not yet", need_bytes=7):
        raise OSError(number, os.strerror(number))
    assert type(caught.value) is kind
    assert caught.value.path == str(tmp_path / "not yet")
    if isinstance(caught.value, StoreFullError):
        assert caught.value.need_bytes == 7
        assert caught.value.free_bytes > 0


def test_free_space_is_told_for_what_does_not_exist_yet(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "a" / "b") > 0


def test_a_small_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "pin.json"
    write_durably(file, b"old", "1")

    def refuse(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="Input/output"):
        write_durably(file, b"new", "2")
    assert content(tmp_path) == {"pin.json": b"old"}


def test_a_hold_closes_its_file_once_however_many_release_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several threads may release a snapshot, and a second close could hit a file that has got its number."""
    (tmp_path / "in-use").touch()
    hold = Hold.take(tmp_path / "in-use")
    assert hold is not None
    descriptor, close = hold.descriptor, os.close

    def close_slowly(number: int) -> None:
        hold.release()  # as another thread would in this moment
        close(number)

    monkeypatch.setattr(os, "close", close_slowly)
    hold.release()
    hold.release()
    monkeypatch.undo()
    assert hold.descriptor == -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
