"""What is there and fits its pin is used, whatever note beside it cannot be written."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hubdist.config.schema import Config
from hubdist.errors import HubdistError, StoreError, StoreFullError
from hubdist.resolver.resolver import Resolver
from hubdist.resolver.values import Pinned
from hubdist.store.store import Store
from hubdist.system import disk
from hubdist.testing.hub import LoopbackHub

FILES = {"saved_model.pb": b"model", "variables/data": b"1.0" * 100}
REFUSALS = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO]


def resolve(root: Path, handle: str, **settings: Any) -> Pinned:
    """As a new job does it."""
    resolver = Resolver(Config(origin_retries=0, **settings), Store(root / "store"), root)
    found = resolver.find_or_read(resolver.parse(handle))
    snapshot = Store(root / "store").find(found.digest)
    assert snapshot is not None
    with snapshot:
        assert {path: (snapshot.path / path).read_bytes() for path in FILES} == FILES
    return found


def refuse_to(monkeypatch: pytest.MonkeyPatch, what: str, number: int, below: Path) -> list[str]:
    """Let the disk refuse to create, replace, make or touch anything below a directory, reading aside."""
    refused: list[str] = []

    def refuse(path: object) -> None:
        if Path(os.fsdecode(path)).is_relative_to(below):  # type: ignore[arg-type]
            refused.append(str(path))
            raise OSError(number, os.strerror(number), str(path))

    def wrapped(name: str, is_write: Callable[..., bool] = lambda *_, **__: True) -> None:
        real = getattr(os, name)

        def call(path: object, *args: Any, **options: Any) -> Any:
            if not isinstance(path, int) and is_write(*args, **options):
                refuse(path)
            return real(path, *args, **options)

        monkeypatch.setattr(os, name, call)

    if what == "create":
        wrapped("open", lambda flags, *_, **__: bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)))
    elif what == "replace":
        wrapped("rename")
        wrapped("replace")
    elif what == "sync":
        real = os.fsync

        def sync(handle: int) -> None:
            refuse(Path(f"/proc/self/fd/{handle}").readlink())
            real(handle)

        monkeypatch.setattr(os, "fsync", sync)
    else:
        wrapped("mkdir")
        wrapped("utime")
        wrapped("chmod")
    return refused


@pytest.mark.parametrize("number", REFUSALS, ids=lambda number: errno.errorcode[number])
@pytest.mark.parametrize("what", ["create", "replace", "sync", "touch"])
@pytest.mark.parametrize("kind", ["hub", "pinned path"])
def test_a_hit_needs_no_note(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, what: str, number: int
) -> None:
    handle, settings = hub.add_model("google/words/1", FILES), {}
    if kind != "hub":
        handle = str(tmp_path / "model")
        for path, data in FILES.items():
            (tmp_path / "model" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "model" / path).write_bytes(data)
        settings = {"lock_file": str(tmp_path / "hubdist.lock")}
    first = resolve(tmp_path, handle, **settings)
    refused = refuse_to(monkeypatch, what, number, tmp_path)
    again = resolve(tmp_path, handle, **settings)
    assert (again.digest, again.source) == (first.digest, "store")
    assert refused


@pytest.mark.parametrize("number", REFUSALS, ids=lambda number: errno.errorcode[number])
@pytest.mark.parametrize("what", ["create", "replace", "sync", "touch"])
def test_what_the_shared_cache_has_is_used_although_nothing_can_be_noted_there(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, number: int
) -> None:
    settings = {"shared_cache": str(tmp_path / "cache")}
    first = resolve(tmp_path, hub.add_model("google/words/1", FILES), **settings)
    assert first.shared is not None
    other = hub.add_model("google/words/2", FILES)
    resolve(tmp_path, other)  # in the store, and noted there, but not in the cache
    refuse_to(monkeypatch, what, number, tmp_path / "cache")
    again = resolve(tmp_path, other, **settings)
    assert again.source == "store"
    assert again.shared == first.shared


@pytest.mark.parametrize("number", REFUSALS, ids=lambda number: errno.errorcode[number])
def test_a_store_that_lacks_a_folder_serves_what_it_has(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Such as one of an image, filled by another version, or one whose disk is full."""
    handle = hub.add_model("google/words/1", FILES)
    first = resolve(tmp_path, handle)
    for folder in ("locks", "staging", "quarantine"):
        for left in (tmp_path / "store" / folder).iterdir():
            left.unlink()
        (tmp_path / "store" / folder).rmdir()
    refuse_to(monkeypatch, "touch", number, tmp_path / "store")
    assert resolve(tmp_path, handle).digest == first.digest
    with pytest.raises(StoreFullError if number in (errno.ENOSPC, errno.EDQUOT) else StoreError):
        resolve(tmp_path, hub.add_model("google/words/2", {"saved_model.pb": b"other"}))


def test_a_stale_cache_of_tensorflow_hub_is_passed_by(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    from hubdist.remote.mounted_tree import MountedTree

    handle = hub.add_model("google/words/1", FILES)
    folder = tmp_path / "tfhub" / hashlib.sha1(handle.encode(), usedforsecurity=False).hexdigest()
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"cut short")
    fetch = MountedTree.fetch

    def grow(self: MountedTree, path: str, start: int, end: int) -> bytes:
        (folder / "saved_model.pb").write_bytes(b"written to")
        return fetch(self, path, start, end)

    monkeypatch.setattr(MountedTree, "fetch", grow)
    found = resolve(tmp_path, handle, tfhub_cache_dir=str(tmp_path / "tfhub"))
    assert found.source == "origin"


@pytest.mark.parametrize("number", REFUSALS, ids=lambda number: errno.errorcode[number])
def test_a_lock_file_that_cannot_be_written_is_an_error(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """It is a promise for later jobs, and no note."""
    handle = hub.add_model("google/words/1", FILES)
    resolve(tmp_path, handle)
    (tmp_path / "lock").mkdir()
    refuse_to(monkeypatch, "create", number, tmp_path / "lock")
    with pytest.raises(HubdistError, match="lock"):
        resolve(tmp_path, handle, lock_file=str(tmp_path / "lock" / "hubdist.lock"))


def test_a_note_that_is_not_written_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with disk.optional_note(tmp_path / "note"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert f"{tmp_path / 'note'} is not written" in caplog.text
