"""The store's promise under fire: the process dies, or the disk refuses, at every system call of stage and publish.

strace does both to a real process: it counts the calls of one kind, and at the K-th one it kills the process or lets
the call fail. K runs over all calls that the process makes once it has touched the store.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hubdist.model.manifest import Digest, Manifest
from hubdist.store.store import Store
from tests.support import REPOSITORY, store_writer

_FAILING = ["openat", "mkdir", "rename", "write", "pwrite64", "fsync", "ftruncate", "chmod"]
_CALLS = [*_FAILING, "fchmod", "unlink", "rmdir", "unlinkat", "close", "utimensat", "flock"]
_ALL = [*_CALLS, "read", "lseek", "newfstatat", "getdents64", "statfs"]


def _strace(log: Path, *options: str, root: Path, way: str) -> subprocess.CompletedProcess[str]:
    command = [
        "strace",
        "-f",
        "-qq",
        "-o",
        str(log),
        *options,
        sys.executable,
        "-m",
        "tests.support.store_writer",
    ]
    return subprocess.run(
        [*command, str(root), way], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(scope="module")
def digest_and_manifest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Digest, Path]:
    root = tmp_path_factory.mktemp("whole")
    store = Store(root / "store")
    with store.stage() as stage:
        store_writer.fill(stage)
        snapshot = store.publish(stage)
    (root / "manifest.json").write_bytes(snapshot.manifest.to_json())
    return snapshot.manifest.digest, root / "manifest.json"


@pytest.fixture(scope="module", autouse=True)
def strace_works(tmp_path_factory: pytest.TempPathFactory) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    log = tmp_path_factory.mktemp("probe") / "log"
    if subprocess.run(["strace", "-o", str(log), "true"], capture_output=True, timeout=20, check=False).returncode:
        pytest.skip("processes may not be traced here")


def _prepare(root: Path, way: str) -> None:
    """What is there before: to be evicted, a snapshot."""
    if way == "evict":
        store = Store(root)
        with store.stage() as stage:
            store_writer.fill(stage)
            store.publish(stage).release()


def _occasions(folder: Path, way: str, calls: list[str]) -> list[tuple[str, int]]:
    """Every call (name, K) that the writer makes from its first touch of the store on."""
    folder.mkdir()
    _prepare(folder / "store", way)
    done = _strace(folder / "log", "-e", f"trace={','.join(calls)}", root=folder / "store", way=way)
    assert done.returncode == 0, done.stderr
    found: list[tuple[str, int]] = []
    counts: dict[str, int] = {}
    touched = False
    for line in (folder / "log").read_text().splitlines():
        match = re.match(r"\d+ +(\w+)\(", line)
        if match is None:
            continue
        name = match[1]
        counts[name] = counts.get(name, 0) + 1
        touched = touched or str(folder / "store") in line
        if touched and not re.match(r"\d+ +write\([12],", line):  # what the writer prints is not the store's
            found.append((name, counts[name]))
    assert len(found) >= 8
    return found


def _run_all(
    folder: Path, way: str, injections: list[tuple[str, str, int]]
) -> Iterator[tuple[str, Path, subprocess.CompletedProcess[str]]]:
    def one(number: int) -> tuple[str, Path, subprocess.CompletedProcess[str]]:
        what, call, when = injections[number]
        root = folder / f"{number}"
        root.mkdir()
        _prepare(root / "store", way)
        spec = f"inject={call}:{what}:when={when}"
        done = _strace(root / "log", "-e", f"trace={call}", "-e", spec, root=root / "store", way=way)
        return spec, root / "store", done

    with ThreadPoolExecutor(3) as pool:
        yield from pool.map(one, range(len(injections)))


def _check_after(spec: str, root: Path, digest: Digest) -> None:
    """No wrong load, no hand-work: nothing or the right model is there, and loading again simply works."""
    store = Store(root)
    snapshot = store.find(digest)
    assert snapshot is None or _is_right(snapshot.path), spec
    assert [found for found in store.digests() if found != digest] == [], spec
    with store.stage() as stage:
        store_writer.fill(stage)
        again = store.publish(stage)
    assert again.manifest.digest == digest, spec
    assert _is_right(again.path), spec
    assert list((root / "staging").iterdir()) == [], spec
    assert list((root / "quarantine").iterdir()) == [], spec


def _is_right(path: Path) -> bool:
    files = {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    return files == store_writer.FILES


@pytest.mark.parametrize("way", ["origin", "peers", "evict"])
def test_killed_at_every_call_nothing_is_wrong_and_nothing_needs_a_hand(
    tmp_path: Path, digest_and_manifest: tuple[Digest, Path], way: str
) -> None:
    digest, manifest = digest_and_manifest
    argument = str(manifest) if way == "peers" else way
    occasions = _occasions(tmp_path / "plain", argument, _CALLS)
    injections = [("signal=SIGKILL", call, when) for call, when in occasions]
    killed = 0
    for spec, root, done in _run_all(tmp_path, argument, injections):
        killed += done.returncode in (-9, 137)
        _check_after(spec, root, digest)
    assert killed > len(injections) * 0.9


@pytest.mark.parametrize(
    ("error", "way", "calls"),
    [
        ("ENOSPC", "origin", _FAILING),
        ("ENOSPC", "peers", _FAILING),
        ("EDQUOT", "origin", ["mkdir", "write", "pwrite64", "fsync"]),
        ("EIO", "origin", _ALL),
        ("EIO", "peers", _ALL),
        ("EROFS", "origin", _FAILING),
        ("EMFILE", "origin", ["openat"]),
        ("EMFILE", "peers", ["openat"]),
        ("EIO", "evict", _ALL),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} calls",
)
def test_a_disk_that_refuses_gives_a_typed_error_and_leaves_nothing(
    tmp_path: Path, digest_and_manifest: tuple[Digest, Path], error: str, way: str, calls: list[str]
) -> None:
    digest, manifest = digest_and_manifest
    argument = str(manifest) if way == "peers" else way
    occasions = _occasions(tmp_path / "plain", argument, calls)
    injections = [(f"error={error}", call, when) for call, when in occasions]
    refused = 0
    for spec, root, done in _run_all(tmp_path, argument, injections):
        said = f"{spec}: {done.stdout} {done.stderr[-2000:]}"
        assert done.returncode in (0, 3), said
        if done.returncode == 3:
            refused += 1
            assert done.stdout.startswith("StoreFullError" if error in ("ENOSPC", "EDQUOT") else "StoreError"), said
            assert not (root / "staging").exists() or list((root / "staging").iterdir()) == [], said
        else:
            assert done.stdout.strip() == str(digest), said
        if root.exists():
            _check_after(spec, root, digest)
    assert refused >= 5


def test_the_golden_manifest_is_what_the_writer_makes(digest_and_manifest: tuple[Digest, Path]) -> None:
    digest, path = digest_and_manifest
    assert Manifest.from_json(path.read_bytes()).digest == digest
