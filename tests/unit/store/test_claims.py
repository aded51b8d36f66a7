"""Claims on snapshots that last as long as their process, with one open file for all of them."""

from __future__ import annotations

import fcntl
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import hubdist
from hubdist.model.manifest import Digest
from hubdist.store.claims import Claims, is_claimed, sweep_claims
from hubdist.store.store import Store
from tests.support.shared_cache_fillers import publish

FILES = {"saved_model.pb": b"model"}
OTHER = Digest("1" * 64)

HOLDER = """
import sys, time
from pathlib import Path
from hubdist.store.claims import Claims
from hubdist.model.manifest import Digest
claims = Claims(Path(sys.argv[1]))
assert claims.keep(Digest(sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def digest(root: Path) -> Digest:
    return publish(root, FILES)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def start(root: Path, digest: Digest) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(root), digest.value]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("end", ["killed", "left"])
def test_a_claim_ends_with_its_process(root: Path, digest: Digest, end: str) -> None:
    process = start(root, digest)
    assert is_claimed(root, digest)
    assert not is_claimed(root, OTHER)
    assert not Store(root).evict(digest)
    sweep_claims(root)
    assert is_claimed(root, digest)
    if end == "killed":
        process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    assert not is_claimed(root, digest)
    sweep_claims(root)
    assert list((root / "claims").iterdir()) == []
    assert Store(root).evict(digest)


def test_a_claim_can_be_given_up(root: Path, digest: Digest) -> None:
    claims = Claims(root)
    assert claims.keep(digest)
    assert claims.keep(OTHER)
    claims.drop(digest)
    assert not is_claimed(root, digest)
    assert is_claimed(root, OTHER)
    assert Store(root).evict(digest)
    claims.close()
    assert not is_claimed(root, OTHER)


def test_claims_outlive_a_cleaner(root: Path, digest: Digest) -> None:
    claims = Claims(root)
    assert claims.keep(digest)
    shutil.rmtree(root / "claims")
    assert claims.keep(OTHER)
    assert is_claimed(root, digest)
    assert is_claimed(root, OTHER)


def test_who_is_about_to_claim_is_left_alone(root: Path, digest: Digest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the making of the file and its lock, nobody else's look may take the lock away."""
    claims = Claims(root)
    lock = fcntl.flock

    def look_first(file: int, kind: int) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(fcntl, "flock", refuse)
            sweep_claims(root)
        lock(file, kind)

    def refuse(*_: object) -> None:
        raise AssertionError("the lock was asked for")

    monkeypatch.setattr(fcntl, "flock", look_first)
    assert claims.keep(digest)
    monkeypatch.undo()
    assert is_claimed(root, digest)


def test_thousands_of_claims_cost_one_open_file(root: Path) -> None:
    root.mkdir()
    claims = Claims(root)
    assert claims.keep(Digest(f"{0:064x}"))
    before = open_files()
    for number in range(2000):
        assert claims.keep(Digest(f"{number:064x}"))
    assert open_files() == before
    assert is_claimed(root, Digest(f"{1999:064x}"))


def test_a_store_that_cannot_be_written_takes_no_claim(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert not Claims(tmp_path / "file").keep(OTHER)


def test_what_resolve_gave_stays_whatever_is_set_up_meanwhile(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "data").write_text(str(number))
    hubdist.init(store=str(store.root))
    path = Path(hubdist.resolve(tmp_path / "0"))
    hubdist.shutdown()
    hubdist.init(store=str(store.root), max_store_bytes=1)
    other = Path(hubdist.resolve(tmp_path / "1"))  # there is room for one of them
    for digest in store.digests():
        assert not store.evict(digest)
    assert (path / "data").read_text() == "0"
    assert (other / "data").read_text() == "1"
