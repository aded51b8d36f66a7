"""Volumes as they are handed out, and directories of others: real users and real modes."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from hubdist.errors import StoreError, UnsafeStoreError
from hubdist.store.store import Store
from hubdist.system.ownership import find_root, place_for_store
from tests.support.owners import GROUP, ME, OTHER, base, run_as
from tests.support.store_models import content, model, publish

__all__ = ["base"]  # a fixture


def volume(base: Path, mode: int, group: int = 0) -> Path:
    """A mount point as a kubelet leaves it: root's, and open to all or to a group."""
    folder = base / "volume"
    folder.mkdir()
    if os.geteuid() == 0:
        os.chown(folder, 0, group)
    folder.chmod(mode)
    return folder


# A private directory in an open one


@pytest.mark.root
@pytest.mark.parametrize(("mode", "group"), [(0o777, 0), (0o1777, 0), (0o2775, GROUP), (0o2777, GROUP)])
def test_in_a_volume_that_is_open_to_others_the_store_is_a_private_directory(base: Path, mode: int, group: int) -> None:
    folder = volume(base, mode, group)
    work = "publish(Store(root)).release(); print(hubdist.resolve(sys.argv[2])); print(hubdist.status().store)"
    (base / "model").mkdir()
    (base / "model" / "weights").write_bytes(b"x")
    said = run_as(ME, work, folder, base / "model", HUBDIST_STORE=str(folder), HOME="/")
    private = folder / f"hubdist-{ME}"
    assert said.startswith(f"{private}/snapshots/")
    assert str(private) in said.splitlines()[1]
    status = private.stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode) & 0o777) == (ME, 0o700)
    assert [path.name for path in folder.iterdir()] == [private.name]


@pytest.mark.root
def test_the_log_says_once_where_models_are_kept(base: Path) -> None:
    folder = volume(base, 0o777)
    said = [run_as(ME, "Store(root); Store(root)", folder) for _ in range(2)]
    assert [text.count("so models are kept in") for text in said] == [1, 0]
    assert f"{folder}/hubdist-{ME}, which is private" in said[0]


@pytest.mark.root
def test_each_user_of_a_volume_has_a_store(base: Path) -> None:
    folder = volume(base, 0o777)
    for user in (ME, OTHER):
        assert str(folder / f"hubdist-{user}") in run_as(user, "print(publish(Store(root)).path)", folder)


@pytest.mark.root
def test_a_volume_of_another_user_that_this_one_may_write_to_gets_a_private_directory(base: Path) -> None:
    folder = volume(base, 0o777)
    os.chown(folder, OTHER, 0)
    assert str(folder / f"hubdist-{ME}") in run_as(ME, "print(publish(Store(root)).path)", folder)


def test_an_own_directory_that_others_may_write_to_gets_a_private_directory(base: Path) -> None:
    folder = volume(base, 0o777)
    store = Store(folder)
    assert store.root == folder / f"hubdist-{os.geteuid()}"
    assert store.configured == folder
    with publish(store) as snapshot:
        assert snapshot.path.is_relative_to(store.root)


def test_the_private_directory_stays_the_store_when_the_one_around_it_becomes_private(base: Path) -> None:
    folder = volume(base, 0o777)
    before = Store(folder).root
    folder.chmod(0o755)
    assert Store(folder).root == before


def test_looking_for_the_store_makes_nothing(base: Path) -> None:
    folder = volume(base, 0o777)
    assert find_root(folder) == folder / f"hubdist-{os.geteuid()}"
    assert find_root(base / "missing" / "store") == base / "missing" / "store"
    assert list(folder.iterdir()) == []
    assert not (base / "missing").exists()


@pytest.mark.root
@pytest.mark.parametrize("planted", ["directory", "link", "link to an own one", "open"])
def test_a_private_directory_that_is_not_the_users_own_is_refused_with_advice_that_helps(
    base: Path, planted: str
) -> None:
    folder = volume(base, 0o777)
    private = folder / f"hubdist-{ME}"
    if planted == "directory":
        run_as(OTHER, "Path(sys.argv[2]).mkdir()", folder, private)
    elif planted == "open":
        run_as(ME, "os.umask(0); Path(sys.argv[2]).mkdir(0o777)", folder, private)
    else:
        target = base / "target"
        target.mkdir()
        os.chown(target, ME if "own" in planted else OTHER, 0)
        run_as(OTHER, "Path(sys.argv[2]).symlink_to(sys.argv[3])", folder, private, target)
    said = run_as(ME, "attempt(lambda: Store(root).root)", folder)
    assert said.startswith("UnsafeStoreError")
    assert str(private) in said
    if planted == "open":
        assert f"Run: chmod -R go-w {private}" in said
    else:
        assert f"belongs to user {OTHER}" in said
        assert "set store (HUBDIST_STORE) to a directory that" in said
        assert "chmod" not in said


@pytest.mark.root
@pytest.mark.parametrize(("owner", "mode"), [(OTHER, 0o755), (OTHER, 0o700), (0, 0o2775)])
def test_where_no_private_directory_can_be_made_the_advice_is_another_place(base: Path, owner: int, mode: int) -> None:
    folder = volume(base, mode, GROUP + 1)
    os.chown(folder, owner, GROUP + 1)
    folder.chmod(mode)
    said = run_as(ME, "attempt(lambda: Store(root).root)", folder)
    assert said.startswith(("UnsafeStoreError", "StoreError"))
    assert f"Set store (HUBDIST_STORE) to a directory that user {ME} may write to" in said
    assert "chmod" not in said


@pytest.mark.root
@pytest.mark.parametrize("store", ["/root/.cache/hubdist", "/proc/hubdist", "/etc/passwd/store", "/etc/passwd", "/etc"])
def test_where_no_store_can_be_the_advice_is_another_place(base: Path, store: str) -> None:
    (base / "model").mkdir()
    (base / "model" / "weights").write_bytes(b"x")
    said = run_as(ME, "attempt(lambda: hubdist.resolve(sys.argv[2]))", base, base / "model", HUBDIST_STORE=store)
    assert said.startswith("StoreError")
    assert f"et store (HUBDIST_STORE) to a directory that user {ME} may write to, such as /tmp/hubdist-{ME}" in said
    assert "chmod" not in said


def test_a_file_system_that_keeps_no_modes_is_no_place_for_a_store(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = os.mkdir

    def mkdir_as_on_smb(path: Path, mode: int = 0o777) -> None:
        plain(path, mode)
        Path(path).chmod(0o777)

    monkeypatch.setattr(os, "mkdir", mkdir_as_on_smb)
    for _ in range(2):
        with pytest.raises(UnsafeStoreError, match="ignores modes") as refused:
            Store(base / "store")
        assert "chmod" not in str(refused.value)
    assert not (base / "store").exists()


# An own store that others were let into


def test_an_own_store_that_others_may_write_to_is_refused_and_the_advice_mends_all_of_it(base: Path) -> None:
    store = Store(base / "store")
    publish(store).release()
    for folder, _, _ in os.walk(store.root):
        Path(folder).chmod(0o777)
    with pytest.raises(UnsafeStoreError, match=f"chmod -R go-w {store.root}") as refused:
        Store(store.root)
    assert refused.value.advice is not None
    subprocess.run(refused.value.advice.removeprefix("Run: ").split(), check=True)
    assert Store(store.root).digests() == store.digests()
    open_to_others = [path for path in store.root.rglob("*") if path.stat().st_mode & 0o022]
    assert open_to_others == []


@pytest.mark.parametrize("name", ["snapshots", "staging", "quarantine", "locks", "pins"])
def test_a_folder_of_a_store_that_others_may_write_to_is_refused(base: Path, name: str) -> None:
    root = Store(base / "store").root
    (root / name).chmod(0o770)
    with pytest.raises(UnsafeStoreError, match=f"write to {root / name}. Run: chmod -R go-w {root}"):
        Store(root)


@pytest.mark.root
def test_what_another_user_put_into_a_store_while_it_was_open_is_no_hit(base: Path) -> None:
    store = Store(base / "store")
    with publish(store, model(65, 4)) as snapshot:
        path, digest = snapshot.path, snapshot.manifest.digest
    store.root.chmod(0o755)
    for folder in (store.root / "snapshots", path.parent, path):
        folder.chmod(0o777)
    evil = "os.unlink(root); root.write_bytes(b'EVIL')"
    run_as(OTHER, evil, path / "saved_model.pb")
    subprocess.run(["chmod", "-R", "go-w", str(store.root)], check=True)
    assert Store(store.root).find(digest) is None
    assert not path.exists()


@pytest.mark.root
def test_a_store_that_another_user_replaced_gives_and_takes_nothing(base: Path) -> None:
    base.chmod(0o777)
    store = Store(base / "store")
    with publish(store, model(65, 4)) as snapshot:
        digest, manifest = snapshot.manifest.digest, snapshot.manifest.to_json()
    (base / "manifest").write_bytes(manifest)
    evil = """
os.umask(0o22)
os.rename(root / "store", root / "away")
home = root / "store/snapshots" / sys.argv[2]
(home / "files").mkdir(parents=True)
(root / "store/staging").mkdir()
(home / "manifest.json").write_bytes((root / "manifest").read_bytes())
(home / "in-use").touch()
(home / "files/saved_model.pb").write_text("EVIL")
"""
    run_as(OTHER, evil, base, digest.value)
    assert store.find(digest) is None
    with pytest.raises(UnsafeStoreError, match=f"belongs to user {OTHER}"):
        store.stage()


# Stores that root filled for others


@pytest.mark.root
def test_a_store_that_root_filled_and_lets_others_read_serves_them(base: Path) -> None:
    (base / "store").mkdir()
    (base / "model").mkdir()
    (base / "model" / "weights").write_bytes(b"x")
    if os.geteuid() != 0:
        pytest.skip("needs root, to fill a store for others")
    with publish(Store(base / "store"), model(65, 4)) as snapshot:
        digest = snapshot.manifest.digest
    work = "found = Store(root).find(Digest(sys.argv[2])); print((found.path / 'saved_model.pb').read_bytes())"
    assert run_as(ME, work, base / "store", digest.value).startswith("b'AAAA'")


def test_a_store_that_its_owner_lets_nobody_read_stays_so(base: Path) -> None:
    store = Store(base / "store")
    with publish(store) as snapshot:
        made = [snapshot.path.parent, snapshot.path.parent / "manifest.json", *store.root.iterdir()]
    assert [path for path in made if stat.S_IMODE(path.stat().st_mode) & 0o077] == []
    assert content(snapshot.path)


def test_a_store_whose_parent_is_a_file_is_a_store_error(base: Path) -> None:
    (base / "file").write_bytes(b"")
    with pytest.raises(StoreError):
        find_root(base / "file" / "store")


def test_advice_names_a_place_that_the_user_may_write_to() -> None:
    assert f"such as /tmp/hubdist-{os.geteuid()}" in place_for_store()
