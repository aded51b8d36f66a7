"""What macOS does not have: everything that one laptop needs goes on without it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hubdist.system import portable
from tests.support import REPOSITORY

WITHOUT = """
import fcntl, os, select, socket, sys

for module, names in {
    os: ["eventfd", "eventfd_write", "posix_fadvise", "O_TMPFILE", "copy_file_range", "pidfd_open", "sched_getaffinity",
         "memfd_create", "getrandom", "EFD_CLOEXEC"],
    socket: ["MSG_MORE", "TCP_USER_TIMEOUT", "SO_PEERCRED"],
    select: ["epoll"],
}.items():
    for name in names:
        delattr(module, name)

def no_proc(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and str(arguments[0]).startswith(("/proc", "/sys", "/dev/shm")):
        raise FileNotFoundError(2, "No such file or directory", arguments[0])

sys.addaudithook(no_proc)
sys.path[:0] = [ROOT]
"""
"""Takes from a process what macOS does not have. `selectors` is imported afterwards, and takes `poll`."""

RESOLVE = """
import pathlib
import hubdist

where = pathlib.Path(sys.argv[1])
hubdist.init(store=str(where / "store"), max_store_bytes=150_000)
for name in ("one", "two"):
    model = where / name
    (model / "variables").mkdir(parents=True)
    (model / "saved_model.pb").write_bytes(name.encode() * 30_000)
    path = pathlib.Path(hubdist.resolve(str(model)))
    assert (path / "saved_model.pb").read_bytes() == name.encode() * 30_000
hubdist.shutdown()
from hubdist.cli.main import hubdist_command
try:
    hubdist_command.main(["verify", "--set", f"store={where / 'store'}", "-q"])
except SystemExit as end:
    assert not end.code, end.code
try:
    hubdist_command.main(["env", "--json"])
except SystemExit as end:
    assert not end.code, end.code
"""


def run_without(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT.replace("ROOT", repr(str(REPOSITORY))) + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_models_are_resolved_verified_and_evicted_without_what_only_linux_has(tmp_path: Path) -> None:
    done = run_without(RESOLVE, str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_streams_work_without_what_only_linux_has() -> None:
    chosen = "test_units_pass_through_a_chain or thread_ends_before_it_is_woken or a_stranger"
    code = f"""
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "{REPOSITORY}/tests/unit/streams", "-k", "{chosen}"]))
"""
    done = run_without(code)
    assert done.returncode == 0, done.stdout


def test_the_disk_itself_is_asked_where_the_system_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(portable, "_FULL_SYNC", 51)
    monkeypatch.setattr(fcntl, "fcntl", lambda _, command: asked.append(command))
    monkeypatch.setattr(os, "fsync", lambda _: pytest.fail("F_FULLFSYNC does all that fsync does"))
    with (tmp_path / "file").open("wb") as file:
        portable.sync_file(file.fileno())
    assert asked == [51]


def test_a_file_system_without_full_sync_gets_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(portable, "_FULL_SYNC", 51)  # Linux knows no such command
    monkeypatch.setattr(os, "fsync", synced.append)
    with (tmp_path / "file").open("wb") as file:
        portable.sync_file(file.fileno())
        assert synced == [file.fileno()]
