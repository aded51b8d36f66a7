"""Files that are being written on a mount that several machines have: kept while their writers live, else removed."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hubdist.remote import open_tree, temporary_files
from hubdist.system import locks
from hubdist.system.deadline import Deadlines
from hubdist.system.locks import Reach

DEADLINES = Deadlines(stall_s=20, retries=0)


def _write_and_wait(root: Path) -> subprocess.Popen[str]:
    """A process that has begun to write a file into a mounted directory, and waits."""
    script = f"""
import sys, time
from pathlib import Path
from hubdist.remote.mounted_tree import MountedTree

def fill(handle):
    print("writes", flush=True)
    time.sleep(100)

MountedTree(Path({str(root)!r}))._put("file", fill, create=False)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writes\n"
    return process


def test_what_dead_writers_left_on_a_mount_is_removed_and_what_living_ones_write_stays(tmp_path: Path) -> None:
    staging = tmp_path / "staging"
    writer = _write_and_wait(tmp_path)
    (written,) = staging.iterdir()
    month = time.time() - 30 * 86400
    os.utime(written, (month, month))  # however old
    (staging / "left-by-another-machine").touch()
    try:
        with open_tree(str(tmp_path), DEADLINES) as tree:
            tree.write("other", b"")
        assert list(staging.iterdir()) == [written]
    finally:
        writer.kill()
        writer.communicate(timeout=10)
    with open_tree(str(tmp_path), DEADLINES) as tree:
        tree.write("other", b"")
    assert list(staging.iterdir()) == []


@pytest.mark.parametrize("kind", ["no locks", "locks of this machine only"])
def test_where_locks_do_not_tell_what_was_touched_within_an_hour_stays_on_a_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "no locks":
        monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    else:
        monkeypatch.setattr(temporary_files, "reach_of_locks", lambda device: Reach.UNKNOWN)
    staging = tmp_path / "staging"
    staging.mkdir()
    for name, age_s in (("new", 60), ("old", 4000)):
        (staging / name).touch()
        os.utime(staging / name, (time.time() - age_s,) * 2)
    with open_tree(str(tmp_path), DEADLINES) as tree:
        tree.write("file", b"")
    assert [path.name for path in staging.iterdir()] == ["new"]


def test_a_writer_whose_file_was_swept_before_it_was_locked_makes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = temporary_files.try_proven_lock
    swept: list[Path] = []

    def sweep_first(descriptor: int, kind: int, file: Path) -> Any:
        if not swept:
            swept.append(file)
            file.unlink()
        return take(descriptor, kind, file)

    monkeypatch.setattr(temporary_files, "try_proven_lock", sweep_first)
    with open_tree(str(tmp_path), DEADLINES) as tree:
        tree.write("file", b"content")
        assert tree.load("file") == b"content"
    assert swept


@pytest.mark.parametrize(
    ("mount", "reach"),
    [
        ("ext4 /dev/sda rw", Reach.ALL),
        ("nfs4 server:/home rw,vers=4.2,local_lock=none", Reach.ALL),
        ("nfs server:/home rw,vers=3,nolock,local_lock=all", Reach.MACHINE),
        ("nfs server:/home rw,vers=3,local_lock=flock", Reach.MACHINE),
        ("lustre mgs:/scratch rw,localflock", Reach.MACHINE),
        ("fuse.gcsfuse bucket rw", Reach.UNKNOWN),
        ("fuse.fuse-overlayfs overlay rw", Reach.ALL),
    ],
)
def test_who_sees_a_lock_is_told_by_the_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mount: str, reach: Reach
) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(f"1 0 0:5 / /proc rw - proc proc rw\n2 0 0:77 / /x rw,relatime shared:1 - {mount}\n")
    monkeypatch.setattr(locks, "_TABLE", table)
    locks.reach_of_locks.cache_clear()
    try:
        assert locks.reach_of_locks(os.makedev(0, 77)) is reach
        assert locks.reach_of_locks(os.makedev(0, 78)) is Reach.ALL
    finally:
        locks.reach_of_locks.cache_clear()
