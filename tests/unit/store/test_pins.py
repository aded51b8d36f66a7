"""Pins: which digest a handle stands for, kept for a job and in `hubdist.lock`."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

import pytest

from hubdist.errors import ConfigError, DigestMismatchError, NotPinnedError, StoreError
from hubdist.model.handle import Handle, parse_handle
from hubdist.model.manifest import Digest
from hubdist.store.lock_file import LockedModel, LockFile, check_pin
from hubdist.store.pins import Pins

ONE = Digest("1" * 64)
TWO = Digest("2" * 64)
MODEL = parse_handle("https://tfhub.dev/google/mnist/1")
OTHER = parse_handle("gs://bucket/model")
SECRET = "hunter2"
SECRETIVE = [
    parse_handle(f"https://me:{SECRET}@h/m/1"),
    parse_handle(f"https://h/m.zip?X-Goog-Signature={SECRET}"),
    parse_handle(f"zip://a::https://h/m.zip?{SECRET}"),
]


@pytest.fixture
def pins(tmp_path: Path) -> Pins:
    return Pins(tmp_path / "pins")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hubdist.lock"


def pinned(path: Path) -> dict[str, Digest]:
    return {label: model.digest for label, model in LockFile(path, frozen=True).models().items()}


def texts(folder: Path) -> str:
    return "".join(f"{file.name} {file.read_text()}" for file in folder.rglob("*") if file.is_file())


# Pins


def test_a_handle_without_a_pin_has_none(pins: Pins) -> None:
    assert pins.find(MODEL) is None


def test_a_pin_is_found_again_by_any_process(pins: Pins, tmp_path: Path) -> None:
    pins.keep(MODEL, ONE)
    assert Pins(tmp_path / "pins").find(MODEL) == ONE
    assert pins.find(OTHER) is None


def test_a_pin_can_be_replaced(pins: Pins) -> None:
    pins.keep(MODEL, ONE)
    pins.keep(MODEL, TWO)
    assert pins.find(MODEL) == TWO


def test_pins_are_private_and_leave_no_temporary_files(pins: Pins, tmp_path: Path) -> None:
    pins.keep(MODEL, ONE)
    pins.keep(MODEL, TWO)
    assert stat.S_IMODE((tmp_path / "pins").stat().st_mode) == 0o700
    assert [file.name for file in (tmp_path / "pins").iterdir()] == [f"{MODEL.key}.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"5", b'{"digest": 5}', b'{"digest": "md5:1"}', b"\xff", b"{}"])
def test_a_damaged_pin_is_none(pins: Pins, tmp_path: Path, content: bytes) -> None:
    pins.keep(MODEL, ONE)
    (tmp_path / "pins" / f"{MODEL.key}.json").write_bytes(content)
    assert pins.find(MODEL) is None


@pytest.mark.parametrize("handle", SECRETIVE, ids=lambda handle: handle.redacted)
def test_no_secret_is_written_with_a_pin(pins: Pins, tmp_path: Path, handle: Handle) -> None:
    pins.keep(handle, ONE)
    assert SECRET not in texts(tmp_path)
    assert pins.find(handle) == ONE


def test_a_directory_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError):
        Pins(tmp_path / "file").keep(MODEL, ONE)


# hubdist.lock


def test_the_first_use_is_trusted_and_written(path: Path) -> None:
    lock = LockFile(path, frozen=False)
    assert lock.find(MODEL) is None
    lock.keep(MODEL, ONE)
    assert LockFile(path, frozen=True).find(MODEL) == ONE


def test_the_file_is_sorted_json_for_version_control(path: Path) -> None:
    lock = LockFile(path, frozen=False, clock=lambda: 1_700_000_000.9)
    lock.keep(MODEL, ONE, total_bytes=12)
    lock.keep(OTHER, TWO, origin="gs://bucket/elsewhere")
    assert (
        path.read_text()
        == f"""\
{{
  "gs://bucket/model": {{
    "digest": "{TWO}",
    "origin": "gs://bucket/elsewhere",
    "resolved": "2023-11-14T22:13:20Z"
  }},
  "https://tfhub.dev/google/mnist/1": {{
    "digest": "{ONE}",
    "origin": "https://tfhub.dev/google/mnist/1",
    "bytes": 12,
    "resolved": "2023-11-14T22:13:20Z"
  }}
}}
"""
    )


def test_an_entry_that_is_a_digest_alone_is_read_and_stays(path: Path) -> None:
    path.write_text(json.dumps({MODEL.label: str(ONE)}))
    lock = LockFile(path, frozen=False)
    lock.keep(MODEL, ONE)
    lock.keep(OTHER, TWO)
    assert pinned(path) == {MODEL.label: ONE, OTHER.label: TWO}


def test_models_that_are_put_replace_others_and_those_that_stay_the_same_do_not_change(path: Path) -> None:
    LockFile(path, frozen=False, clock=lambda: 1.0).keep(MODEL, ONE, total_bytes=1)
    LockFile(path, frozen=False, clock=lambda: 1.0).keep(OTHER, ONE, total_bytes=1)
    before = LockFile(path, frozen=True).models()
    lock = LockFile(path, frozen=False, clock=lambda: 100.0)
    lock.put({MODEL.label: LockedModel(ONE, "elsewhere", 1), OTHER.label: LockedModel(TWO, "there", 2)})
    after = lock.models()
    assert after[MODEL.label] == before[MODEL.label]
    assert after[OTHER.label] == LockedModel(TWO, "there", 2, "1970-01-01T00:01:40Z")
    assert list(json.loads(path.read_text())) == sorted(after)


def test_the_same_bytes_again_do_not_touch_the_file(path: Path) -> None:
    lock = LockFile(path, frozen=False)
    lock.keep(MODEL, ONE)
    before = path.stat()
    lock.keep(MODEL, ONE)
    after = path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_other_bytes_are_refused_and_the_pin_stays(path: Path) -> None:
    lock = LockFile(path, frozen=False)
    lock.keep(MODEL, ONE)
    with pytest.raises(DigestMismatchError, match="or remove the pin") as caught:
        lock.keep(MODEL, TWO)
    assert (caught.value.expected, caught.value.actual) == (str(ONE), str(TWO))
    assert caught.value.handle == MODEL.redacted
    assert lock.find(MODEL) == ONE


def test_a_frozen_file_refuses_an_unknown_handle_and_is_not_made(path: Path) -> None:
    with pytest.raises(NotPinnedError) as caught:
        LockFile(path, frozen=True).keep(MODEL, ONE)
    assert caught.value.handle == MODEL.redacted
    assert not path.exists()


def test_a_frozen_file_accepts_what_it_pins(path: Path) -> None:
    LockFile(path, frozen=False).keep(MODEL, ONE)
    LockFile(path, frozen=True).keep(MODEL, ONE)
    with pytest.raises(DigestMismatchError):
        LockFile(path, frozen=True).keep(MODEL, TWO)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b"null",
        b'{"https://h/m": 5}',
        b'{"https://h/m": "md5:1"}',
        b'{"https://h/m": {}}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_is_an_error_and_is_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    lock = LockFile(path, frozen=False)
    with pytest.raises(ConfigError, match="cannot be read"):
        lock.find(MODEL)
    with pytest.raises(ConfigError, match="cannot be read"):
        lock.keep(MODEL, ONE)
    assert path.read_bytes() == content


def test_a_file_that_is_a_directory_is_an_error(path: Path) -> None:
    path.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        LockFile(path, frozen=False).find(MODEL)


@pytest.mark.parametrize("handle", SECRETIVE, ids=lambda handle: handle.redacted)
def test_no_secret_is_written_to_the_file(path: Path, handle: Handle) -> None:
    lock = LockFile(path, frozen=False)
    lock.keep(handle, ONE)
    assert SECRET not in texts(path.parent)
    assert lock.find(handle) == ONE


def test_a_new_password_does_not_lose_the_pin(path: Path) -> None:
    lock = LockFile(path, frozen=False)
    lock.keep(parse_handle("https://me:old@h/m/1"), ONE)
    assert lock.find(parse_handle("https://me:new@h/m/1")) == ONE


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://h/m?version=1", "https://h/m?version=2"),
        ("zip://a::https://h/m.zip?v=1", "zip://a::https://h/m.zip?v=2"),
        ("abfss://one@account.dfs.core.windows.net/m", "abfss://two@account.dfs.core.windows.net/m"),
    ],
)
def test_handles_that_differ_only_in_what_is_hidden_have_pins_of_their_own(path: Path, one: str, other: str) -> None:
    lock = LockFile(path, frozen=False)
    lock.keep(parse_handle(one), ONE)
    assert lock.find(parse_handle(other)) is None
    lock.keep(parse_handle(other), TWO)
    assert (lock.find(parse_handle(one)), lock.find(parse_handle(other))) == (ONE, TWO)


def test_threads_that_pin_at_once_lose_no_pin(path: Path) -> None:
    handles = [parse_handle(f"https://h/m/{number}") for number in range(16)]
    gate = threading.Barrier(len(handles))

    def keep(handle: Handle) -> None:
        lock = LockFile(path, frozen=False)
        gate.wait(timeout=30)
        lock.keep(handle, ONE)

    threads = [threading.Thread(target=keep, args=(handle,)) for handle in handles]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(json.loads(path.read_text())) == {handle.redacted for handle in handles}


_ADD = """
import sys
from pathlib import Path
from hubdist.model.handle import parse_handle
from hubdist.model.manifest import Digest
from hubdist.store.lock_file import LockFile

sys.stdin.readline()
for number in range(int(sys.argv[3])):
    LockFile(Path(sys.argv[1]), frozen=False).keep(parse_handle(f"/{sys.argv[2]}/{number}"), Digest("1" * 64))
"""


def test_processes_that_pin_at_once_lose_no_pin(path: Path) -> None:
    each = 500
    command = [sys.executable, "-c", _ADD, str(path)]
    adding = [subprocess.Popen([*command, who, str(each)], stdin=subprocess.PIPE) for who in ("one", "two")]
    for process in adding:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    assert [process.wait(120) for process in adding] == [0, 0]
    for process in adding:
        assert process.stdin is not None
        process.stdin.close()
    assert set(json.loads(path.read_text())) == {f"/{who}/{number}" for who in ("one", "two") for number in range(each)}
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_who_waits_adds_to_what_the_other_one_wrote(path: Path) -> None:
    LockFile(path, frozen=False).keep(MODEL, ONE)
    third = parse_handle("gs://bucket/third")
    waiting = threading.Thread(target=lambda: LockFile(path, frozen=False).keep(third, TWO))
    with path.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        # as another process replaces the file: what waits has locked one that is no more
        new = path.with_name("new")
        new.write_text(json.dumps({MODEL.label: str(ONE), OTHER.label: str(TWO)}))
        new.rename(path)
    waiting.join(30)
    assert pinned(path) == {MODEL.label: ONE, OTHER.label: TWO, third.label: TWO}


def test_a_file_that_somebody_holds_for_long_is_an_error_and_nothing_is_pinned(path: Path) -> None:
    LockFile(path, frozen=False).keep(MODEL, ONE)
    with path.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        lock = LockFile(path, frozen=False, wait_s=0.1)
        with pytest.raises(StoreError, match=r"another process has held .*hubdist\.lock for 0\.1 s"):
            lock.keep(OTHER, TWO)
        lock.keep(MODEL, ONE)  # what is pinned waits for nobody
    lock.keep(OTHER, TWO)
    assert LockFile(path, frozen=True).find(OTHER) == TWO


def test_a_lock_on_a_file_that_was_replaced_meanwhile_is_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LockFile(path, frozen=False).keep(MODEL, ONE)
    real = fcntl.flock
    others: list[IO[str]] = []

    def replace_first(handle: int, how: int) -> None:
        if not others:  # another process replaces the opened file, and a third one is at work at the new one
            path.with_name("new").write_text("{}")
            path.with_name("new").rename(path)
            others.append(path.open("r+"))
            real(others[0], fcntl.LOCK_EX)
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", replace_first)
    with pytest.raises(StoreError, match="another process has held"):
        LockFile(path, frozen=False, wait_s=0.1).keep(OTHER, TWO)
    assert path.read_text() == "{}"
    others[0].close()


def test_a_file_system_without_locks_is_told(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK), handle, how)

    monkeypatch.setattr(fcntl, "flock", refuse)
    LockFile(path, frozen=False).keep(MODEL, ONE)
    assert LockFile(path, frozen=True).find(MODEL) == ONE
    assert "one process at a time" in caplog.text


def test_a_link_stays_a_link_and_what_it_leads_to_keeps_its_mode(path: Path, tmp_path: Path) -> None:
    shared = tmp_path / "elsewhere" / "shared.lock"
    shared.parent.mkdir()
    shared.write_text("{}\n")
    shared.chmod(0o664)
    path.symlink_to(shared)
    LockFile(path, frozen=False).keep(MODEL, ONE)
    assert path.is_symlink()
    assert LockFile(shared, frozen=True).find(MODEL) == ONE
    assert stat.S_IMODE(shared.stat().st_mode) == 0o664
    assert [file.name for file in shared.parent.iterdir()] == ["shared.lock"]


def test_a_link_to_nothing_is_followed(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere" / "shared.lock")
    LockFile(path, frozen=False).keep(MODEL, ONE)
    assert path.is_symlink()
    assert LockFile(tmp_path / "elsewhere" / "shared.lock", frozen=True).find(MODEL) == ONE


def test_a_new_file_has_the_mode_that_the_user_gives_to_files(path: Path) -> None:
    LockFile(path, frozen=False).keep(MODEL, ONE)
    (path.parent / "other").write_text("")
    assert path.stat().st_mode == (path.parent / "other").stat().st_mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_file_keeps_its_owner(path: Path) -> None:
    path.write_text("{}")
    os.chown(path, 65534, 65534)
    LockFile(path, frozen=False).keep(MODEL, ONE)
    assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65534)


def test_a_file_in_a_folder_that_does_not_exist_is_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "hubdist.lock"
    LockFile(path, frozen=False).keep(MODEL, ONE)
    assert path.exists()


def test_a_file_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to("/dev/null/x")
    with pytest.raises((StoreError, ConfigError)):
        LockFile(tmp_path / "folder" / "link" / "hubdist.lock", frozen=False).keep(MODEL, ONE)


def test_readers_see_the_old_or_the_new_file_never_a_part(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = LockFile(path, frozen=False)
    lock.keep(MODEL, ONE)
    seen: list[str] = []
    real = os.fsync

    def look(handle: int) -> None:
        seen.append(path.read_text())
        real(handle)

    monkeypatch.setattr(os, "fsync", look)
    lock.keep(OTHER, TWO)
    assert {len(json.loads(text)) for text in seen} == {1, 2}


def test_a_pin_that_fits_is_no_error() -> None:
    check_pin(MODEL, ONE, ONE, "hubdist.lock")
