"""Processes that get between the steps of others in one store: at each gate, what was looked at is not what is there.

Hooks run what another process would do at the worst moment; processes are stopped and killed where it takes real ones.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from hubdist.errors import IntegrityError, StoreError
from hubdist.model.handle import parse_handle
from hubdist.store import eviction, finder, holds, stage_directory
from hubdist.store.claims import Claims
from hubdist.store.holds import HeldDirectory
from hubdist.store.nonces import Nonces
from hubdist.store.pins import Pins
from hubdist.store.snapshot import Snapshot, SnapshotDirectory
from hubdist.store.store import Store
from hubdist.store.turns import STALLED_AFTER_S, take_turn
from hubdist.system.directories import remove_tree
from tests.support import store_stress
from tests.support.examples import examples
from tests.support.store_models import FILES, content, home, model, publish, staged


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "store"
    remove_tree(tmp_path / "store")


@pytest.fixture
def store(root: Path) -> Store:
    return Store(root)


def quarantined(store: Store) -> list[Path]:
    return list((store.root / "quarantine").iterdir())


def once(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, first: Callable[..., object]) -> list[bool]:
    """Run `first` before a function is called for the first time; what is returned tells whether it was."""
    plain = getattr(place, name)
    done: list[bool] = []

    def hooked(*args: Any, **keywords: Any) -> Any:
        if not done:
            done.append(True)
            first(*args)
        return plain(*args, **keywords)

    monkeypatch.setattr(place, name, hooked)
    return done


def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)


# Find, beside those who evict and publish


@pytest.mark.parametrize("step", ["before it is held", "while it is checked"])
def test_a_snapshot_that_is_replaced_while_it_is_looked_at_is_found_and_not_quarantined(
    store: Store, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    with publish(store) as snapshot:
        digest = snapshot.manifest.digest
    new: list[Snapshot] = []

    def replace(*_: object) -> None:
        with SnapshotDirectory(home(store, digest)) as old:
            old.begin_eviction()
            old.clear(None)
        new.append(publish(store))

    place, name = (SnapshotDirectory, "hold") if "before" in step else (finder, "check_snapshot")
    assert once(monkeypatch, place, name, replace) == []
    with store.find(digest) as found:  # type: ignore[union-attr]
        assert found.path.samefile(new[0].path)
        assert content(found.path) == FILES
    assert quarantined(store) == []


def test_a_snapshot_that_is_evicted_while_it_is_looked_at_is_just_not_there(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with publish(store) as snapshot:
        digest = snapshot.manifest.digest
    once(monkeypatch, SnapshotDirectory, "hold", lambda *_: Store(store.root).evict(digest))
    assert store.find(digest) is None
    assert quarantined(store) == []
    assert "damaged" not in caplog.text


def test_of_two_who_find_a_snapshot_damaged_the_slower_leaves_the_new_one_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without locks, too: what is put aside is the directory that was looked at, whatever its path leads to by now."""
    no_locks(monkeypatch)
    with publish(store) as snapshot:
        digest = snapshot.manifest.digest
        (snapshot.path.parent / "manifest.json").write_bytes(b"")
    new: list[Snapshot] = []

    def mend(*_: object) -> None:
        assert Store(store.root).find(digest) is None
        new.append(publish(store))

    done = once(monkeypatch, eviction.Evictor, "_new_quarantine", mend)
    assert store.find(digest) is None
    assert done
    assert content(new[0].path) == FILES
    assert store.find(digest) is not None


def test_what_is_damaged_goes_to_the_quarantine_once(store: Store) -> None:
    with publish(store) as snapshot:
        digest = snapshot.manifest.digest
    (home(store, digest) / "in-use").unlink()
    assert store.find(digest) is None
    assert store.find(digest) is None
    (aside,) = quarantined(store)
    assert {path.name for path in aside.iterdir()} == {"files", "manifest.json"}


def test_a_quarantined_snapshot_is_kept_while_it_is_in_use(store: Store) -> None:
    used = publish(store)
    shutil.copy(used.path / "saved_model.pb", store.root / "copy")
    (used.path / "saved_model.pb").unlink()
    assert store.find(used.manifest.digest) is None
    for number in range(2):
        with publish(store, model(number)) as snapshot:
            (snapshot.path.parent / "in-use").unlink()
        store.find(snapshot.manifest.digest)
    store.sweep()
    assert sum((aside / "in-use").exists() for aside in quarantined(store)) == 1
    used.release()
    store.sweep()
    assert len(quarantined(store)) == 1


# Evict


def test_an_evictor_that_was_stopped_before_it_deletes_never_touches_what_was_published_meanwhile(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with publish(store) as snapshot:
        digest = snapshot.manifest.digest
    new: list[Snapshot] = []
    once(monkeypatch, eviction.Evictor, "_evict", lambda *_: new.append(publish(Store(store.root))))
    store.evict(digest)
    assert content(new[0].path) == FILES
    assert store.find(digest) is not None
    assert staged(store) == []


@pytest.mark.parametrize("after", ["find", "sweep", "publish", "evict"])
def test_an_eviction_that_was_broken_off_is_finished_by_whoever_comes(store: Store, after: str) -> None:
    with publish(store) as snapshot:
        digest = snapshot.manifest.digest
    with SnapshotDirectory(home(store, digest)) as opened:
        assert opened.begin_eviction()  # and dies
    if after == "publish":
        assert content(publish(store).path) == FILES
        assert not list(home(store, digest).glob("evicted"))
    else:
        {"find": lambda: store.find(digest), "sweep": store.sweep, "evict": lambda: store.evict(digest)}[after]()
        assert not home(store, digest).exists()
    assert quarantined(store) == []
    assert staged(store) == []


def as_nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    store_stress.simulate("nfs")
    nfs = fcntl.flock
    store_stress.simulate("kernel")
    monkeypatch.setattr(fcntl, "flock", nfs)


def test_on_nfs_a_snapshot_in_use_is_not_evicted_and_an_unused_one_is(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_nfs(monkeypatch)
    published = publish(store)
    digest = published.manifest.digest
    found = store.find(digest)
    assert found is not None
    assert not Store(store.root).evict(digest)
    published.release()
    assert not Store(store.root).evict(digest)
    found.release()
    assert Store(store.root).evict(digest)


def test_a_lock_that_is_refused_for_how_the_file_is_open_is_no_sign_that_there_are_none(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with publish(store) as snapshot:
        digest = snapshot.manifest.digest

    def refuse(_: int, operation: int) -> None:
        if operation & fcntl.LOCK_EX:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert not store.evict(digest)


def test_a_snapshot_that_cannot_be_evicted_keeps_no_other_model_from_being_loaded(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(Store(root), model(1)).release()

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(SnapshotDirectory, "begin_eviction", fail)
    with publish(Store(root, max_bytes=1500), model(2)) as snapshot:
        assert content(snapshot.path) == model(2)


# Publish


def test_what_was_published_is_held_from_the_moment_in_which_it_appears(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sync of the directory comes right after the rename: nobody can evict it then."""
    store = Store(root)
    evicted: list[bool] = []
    plain = stage_directory.sync_directory

    def sync(folder: Path) -> None:
        if folder.name == "snapshots":
            evicted.extend(Store(root).evict(digest) for digest in store.digests())
        plain(folder)

    monkeypatch.setattr(stage_directory, "sync_directory", sync)
    with publish(store) as snapshot:
        assert evicted == [False]
        assert not Store(root).evict(snapshot.manifest.digest)
        assert content(snapshot.path) == FILES


def test_who_lost_to_one_that_is_evicted_at_once_publishes_its_own(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with publish(store) as winner:
        digest = winner.manifest.digest
    done = once(monkeypatch, Store, "find", lambda *_: Store(store.root).evict(digest))
    with publish(store) as snapshot:
        assert done
        assert content(snapshot.path) == FILES


@pytest.mark.parametrize("locks", store_stress.LOCKS)
def test_publish_find_and_evict_under_a_tight_limit(root: Path, locks: str) -> None:
    operations = examples(2000)
    said = store_stress.stress(root, processes=16, operations=operations, locks=locks)
    assert store_stress.wrong(said) == {}
    assert said["published"] > operations // 5
    assert said["found"] > operations // 20
    if locks in ("none", "refused"):
        assert said["evicted"] == 0


# Stages


def test_a_stage_that_was_swept_before_it_was_held_is_made_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    done = once(monkeypatch, holds.Hold, "take", lambda *_: Store(store.root).sweep())
    with store.stage() as stage:
        assert done
        assert stage.path.exists()
        assert len(staged(store)) == 1


def test_a_stage_that_was_swept_before_it_was_locked_is_made_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = holds.try_proven_lock
    swept: list[Path] = []

    def sweep_first(descriptor: int, kind: int, name: Path, **keywords: Any) -> Any:
        if kind == fcntl.LOCK_SH and not swept:
            swept.extend(staged(store))
            Store(store.root).sweep()
        return plain(descriptor, kind, name, **keywords)

    monkeypatch.setattr(holds, "try_proven_lock", sweep_first)
    with store.stage() as stage:
        assert [path.exists() for path in swept] == [False]
        assert stage.path.exists()


def test_a_stage_whose_files_a_cleaner_removed_is_not_published(store: Store) -> None:
    def load() -> None:
        with store.stage() as stage:
            with stage.open_file("a") as writer:
                writer.write(b"x")
            remove_tree(stage.path)
            with stage.open_file("b") as writer:
                writer.write(b"y")
            store.publish(stage)

    with pytest.raises(StoreError):
        load()
    assert store.digests() == []
    assert staged(store) == []
    with publish(store) as snapshot:
        assert content(snapshot.path) == FILES


def test_a_stage_that_a_cleaner_cut_is_not_published(store: Store) -> None:
    def load() -> None:
        with store.stage() as stage:
            for path in ("a", "b"):
                with stage.open_file(path) as writer:
                    writer.write(b"x")
            (stage.files / "a").unlink()
            store.publish(stage)

    with pytest.raises((StoreError, IntegrityError)):
        load()
    assert store.digests() == []


def _run(script: str, *arguments: object, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [*before, sys.executable, "-c", _PRELUDE + script, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


_PRELUDE = """
import os, signal, sys, time
from pathlib import Path
from hubdist.store.store import Store
from hubdist.store.turns import STALLED_AFTER_S, take_turn

store = Store(Path(sys.argv[1]))
"""

_STAGE = """
stage = store.stage()
print("ready", flush=True)
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.root
def test_stages_of_another_container_are_told_living_from_dead(store: Store) -> None:
    another = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    if os.geteuid() != 0 or subprocess.run([*another, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs root and namespaces of processes")
    process = _run(_STAGE, store.root, before=another)
    store.sweep()
    assert len(staged(store)) == 1
    process.communicate("\n", timeout=30)
    store.sweep()
    assert staged(store) == []


_FORK = """
with store.stage() as stage:
    with stage.open_file("a") as writer:
        writer.write(b"x")
    child = os.fork()
    if child == 0:
        stage.discard()  # as when a child leaves the block that its parent is in
        print("ready", flush=True)
    time.sleep(1000)
"""


def test_a_forked_child_neither_keeps_nor_removes_its_parents_stage(store: Store) -> None:
    process = _run(_FORK, store.root)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    try:
        store.sweep()
        assert len(staged(store)) == 1
        process.kill()
        process.wait(30)
        store.sweep()
        assert staged(store) == []
    finally:
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        process.communicate(timeout=30)


def test_a_held_directory_ends_with_its_block(tmp_path: Path) -> None:
    with HeldDirectory(tmp_path, "inside") as held:
        assert not holds.remove_unheld(held.path)
        assert (held.path / "inside").is_dir()
    assert list(tmp_path.iterdir()) == []


# The lock that saves double work

_HOLD = """
with store.lock("name", 10):
    print("ready", flush=True)
    sys.stdin.readline()
"""


def test_a_stopped_holder_of_the_lock_delays_others_by_seconds(store: Store) -> None:
    assert 2 * STALLED_AFTER_S < 15  # also if those who went on are stopped

    def turn(timeout_s: float) -> AbstractContextManager[None]:
        return take_turn(store.root / "locks", "name", timeout_s, stalled_after_s=1.6)

    process = _run(_HOLD, store.root)
    process.send_signal(signal.SIGSTOP)
    waited: list[float] = []

    def wait() -> None:
        begin = time.monotonic()
        with turn(4):
            waited.append(time.monotonic() - begin)

    try:
        begin = time.monotonic()
        with turn(3600):
            assert time.monotonic() - begin < 5
            thread = threading.Thread(target=wait)
            thread.start()
            thread.join(30)
        assert waited[0] >= 4  # those who went on take turns again
    finally:
        process.kill()
        process.communicate(timeout=30)


def test_a_living_holder_of_the_lock_is_waited_for(store: Store) -> None:
    process = _run(_HOLD, store.root)
    assert process.stdin is not None
    released = threading.Timer(4, lambda: (process.stdin.write("\n"), process.stdin.flush()))  # type: ignore[union-attr]
    released.start()
    begin = time.monotonic()
    with take_turn(store.root / "locks", "name", 60, stalled_after_s=2.0):
        assert time.monotonic() - begin > 3.5
    released.join()
    process.communicate(timeout=30)


def test_a_child_that_was_forked_meanwhile_does_not_keep_the_lock(store: Store) -> None:
    process = _run(
        """
with store.lock("name", 10):
    child = os.fork()
    if child == 0:
        time.sleep(1000)
print("ready", flush=True)
sys.stdin.readline()
os.kill(child, signal.SIGKILL)
""",
        store.root,
    )
    begin = time.monotonic()
    with store.lock("name", 60):
        assert time.monotonic() - begin < 2
    process.communicate("\n", timeout=30)


# A cleaner at work


@pytest.mark.parametrize("gone", ["snapshots", "staging", "quarantine", "locks", "pins", "nonces", "."])
def test_a_store_whose_folders_were_removed_makes_them_again(store: Store, gone: str) -> None:
    handle = parse_handle("https://hub.example/acme/model/1")
    nonces = Nonces(store)
    nonces.hide(nonces.show() or "")
    with publish(store) as snapshot:
        digest = snapshot.manifest.digest
    remove_tree(store.root / gone)
    found = store.find(digest)
    if gone in ("snapshots", "."):
        assert found is None
    with store.lock("name", 1), publish(store) as again:
        assert content(again.path) == FILES
    Pins(store.root / "pins" / "last").keep(handle, digest)
    assert Pins(store.root / "pins" / "last").find(handle) == digest
    nonce = nonces.show()
    assert nonce is not None
    assert nonces.find([nonce]) == nonce
    (home(store, digest) / "in-use").unlink()
    assert store.find(digest) is None
    assert len(quarantined(store)) == 1
    folders = [store.root, *(path for path in store.root.iterdir() if path.is_dir())]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}


@pytest.mark.parametrize("first", ["pins", "nonces", "lock"])
def test_a_store_that_was_removed_is_private_whoever_makes_it_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    digest = publish(store).manifest.digest
    remove_tree(store.root)
    before = os.umask(0o002)
    try:
        if first == "pins":
            Pins(store.root / "pins" / "last").keep(parse_handle("https://hub.example/acme/model/1"), digest)
        elif first == "nonces":
            assert Nonces(store).show() is not None
        else:
            with store.lock("name", 1):
                pass
    finally:
        os.umask(before)
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o700
    with publish(Store(store.root)) as snapshot:
        assert content(snapshot.path) == FILES


@pytest.mark.parametrize("gone", ["snapshots", "quarantine"])
def test_folders_that_are_removed_while_a_model_is_staged_are_made_again(store: Store, gone: str) -> None:
    with store.stage() as stage:
        with stage.open_file("saved_model.pb") as writer:
            writer.write(b"x")
        remove_tree(store.root / gone)
        with store.publish(stage) as snapshot:
            assert content(snapshot.path) == {"saved_model.pb": b"x"}


# Layers of an image

_OVERLAY = """
import logging
logging.disable(logging.CRITICAL)
def publish(store, text):
    with store.stage() as stage:
        with stage.open_file("saved_model.pb") as file:
            file.write(text)
        with store.publish(stage) as snapshot:
            return snapshot.manifest.digest

import subprocess
base = Path(sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(base)], check=True)
for name in ("lower", "upper", "work", "root"):
    (base / name).mkdir(mode=0o700)
baked = publish(Store(base / "lower" / "store"), b"baked".ljust(1000))
layers = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work"
subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, str(base / "root")], check=True)
place = base / "root" / "store"
print("ready", flush=True)
limited = Store(place, max_bytes=1500)
one, two = publish(limited, b"one".ljust(1000)), publish(limited, b"two".ljust(1000))
print(limited.evict(baked), set(limited.digests()) == {baked, two}, limited.find(baked) is not None)
(place / "snapshots" / baked.value / "manifest.json").write_bytes(b"")
print(limited.find(baked), publish(Store(place), b"baked".ljust(1000)) == baked, os.listdir(place / "staging"))
print(Store(place).evict(baked))
"""


@pytest.mark.root
def test_a_store_in_a_layer_of_an_image_can_be_used_and_mended(tmp_path: Path) -> None:
    private = ("unshare", "--mount", "--propagation", "private")
    if os.geteuid() != 0 or subprocess.run([*private, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs root and mount namespaces")
    (tmp_path / "base").mkdir()
    process = _run(_OVERLAY, tmp_path / "store", tmp_path / "base", before=private)
    said, _ = process.communicate(timeout=60)
    assert said.splitlines() == ["False True True", "None True []", "True"]


# What others may write to


@pytest.mark.parametrize("part", [".", "files", "files/saved_model.pb", "files/assets", "manifest.json"])
def test_a_snapshot_that_others_may_write_to_is_no_hit(store: Store, part: str) -> None:
    with publish(store) as snapshot:
        digest = snapshot.manifest.digest
    path = home(store, digest) / part
    path.chmod(path.stat().st_mode | 0o020)
    assert store.find(digest) is None
    with publish(store) as again:
        assert content(again.path) == FILES


def test_folders_of_pins_that_others_may_write_to_are_refused(store: Store) -> None:
    (store.root / "pins" / "last").mkdir()
    (store.root / "pins" / "last").chmod(0o770)
    with pytest.raises(StoreError, match=f"chmod -R go-w {store.root}"):
        Store(store.root)


def test_the_name_of_a_given_up_snapshot_is_none_of_the_models(store: Store) -> None:
    with publish(store, {"evicted": b"x", "in-use": b"y"}) as snapshot:
        assert content(snapshot.path) == {"evicted": b"x", "in-use": b"y"}
        assert store.find(snapshot.manifest.digest) is not None


def test_a_claimed_snapshot_is_not_taken_for_one_that_is_being_evicted(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = Claims(store.root)
    with publish(store) as snapshot:
        digest, inode = snapshot.manifest.digest, snapshot.path.stat().st_ino
        assert claims.keep(digest)
    others: list[threading.Thread] = []
    plain, calls = eviction.is_claimed, iter(("before the lock", "with the lock"))

    def is_claimed(*args: Any) -> bool:
        call = next(calls, None)
        if call == "with the lock":
            others.append(publish_beside(store))
        return call != "before the lock" and plain(*args)  # as if the claim were made a moment after the first look

    monkeypatch.setattr(eviction, "is_claimed", is_claimed)
    assert not store.evict(digest)
    others[0].join(20)
    with store.find(digest) as found:  # type: ignore[union-attr]
        assert found.path.stat().st_ino == inode
    claims.close()
    assert store.evict(digest)


def publish_beside(store: Store) -> threading.Thread:
    """Let another publish the same model; it has met the evictor's lock when this returns, and goes on trying."""
    tried = threading.Event()
    plain = eviction.Evictor.finish_eviction

    def try_to_finish(self: eviction.Evictor, path: Path) -> None:
        plain(self, path)
        tried.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eviction.Evictor, "finish_eviction", try_to_finish)
        thread = threading.Thread(target=lambda: publish(store).release())
        thread.start()
        assert tried.wait(20)
    return thread
