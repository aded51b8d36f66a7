"""Which bytes a handle stands for in the next job: pins, hubdist.lock, offline, frozen, locked, read-only stores."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from hubdist import errors
from hubdist.config.schema import Config
from hubdist.resolver.resolver import Resolver
from hubdist.resolver.values import Pinned
from hubdist.store.lock_file import LockFile
from hubdist.store.store import Store
from hubdist.testing.hub import LoopbackHub, Status
from hubdist.testing.memory import MemorySource
from tests.support.archives import targz, zipped

OLD = {"saved_model.pb": b"old"}
NEW = {"saved_model.pb": b"new"}


class Jobs:
    """Jobs on one node, one after the other: each has a resolver and settings of its own."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root / "store")
        self.base = root

    def resolver(self, **settings: Any) -> Resolver:
        return Resolver(Config(origin_retries=0, **settings), self.store, self.base)

    def resolve(self, handle: str | Path, **settings: Any) -> Pinned:
        resolver = self.resolver(**settings)
        return resolver.find_or_read(resolver.parse(str(handle)))

    def files(self, found: Pinned) -> dict[str, bytes]:
        snapshot = self.store.find(found.digest)
        assert snapshot is not None
        with snapshot:
            return {entry.path: (snapshot.path / entry.path).read_bytes() for entry in found.manifest.entries}


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path)


def write_model(root: Path, files: dict[str, bytes]) -> Path:
    root.mkdir(exist_ok=True, parents=True)
    for name, data in files.items():
        (root / name).write_bytes(data)
    return root


def test_a_hubs_handle_is_the_same_bytes_in_the_next_job(hub: LoopbackHub, jobs: Jobs) -> None:
    handle = hub.add_model("google/words/1", OLD)
    first = jobs.resolve(handle)
    hub.add_model("google/words/1", NEW)
    second = jobs.resolve(f"{handle}/")
    assert (first.source, second.source) == ("origin", "store")
    assert jobs.files(second) == OLD
    assert len(hub.requests) == 1


def test_an_archive_by_url_is_read_again_in_the_next_job(hub: LoopbackHub, jobs: Jobs) -> None:
    url = hub.add_file("model.tar.gz", targz(OLD))
    jobs.resolve(url)
    hub.add_file("model.tar.gz", targz(NEW))
    second = jobs.resolve(url)
    assert second.source == "origin"
    assert jobs.files(second) == NEW


def test_a_member_is_read_again_in_the_next_job(hub: LoopbackHub, jobs: Jobs) -> None:
    url = hub.add_file("model.zip", zipped({"a/saved_model.pb": b"old"}))
    jobs.resolve(f"zip://a::{url}")
    hub.add_file("model.zip", zipped({"a/saved_model.pb": b"new"}))
    assert jobs.files(jobs.resolve(f"zip://a::{url}")) == NEW


def test_a_local_directory_is_read_again_in_the_next_job(jobs: Jobs, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", OLD)
    first = jobs.resolve(model)
    write_model(model, NEW)
    assert jobs.files(jobs.resolve("model")) == NEW
    assert jobs.files(first) == OLD


def test_a_custom_origin_is_read_again_in_the_next_job(jobs: Jobs) -> None:
    jobs.resolve("registry://m", origins={"registry": lambda _: MemorySource(OLD)})
    second = jobs.resolve("registry://m", origins={"registry": lambda _: MemorySource(NEW)})
    assert jobs.files(second) == NEW


def test_equal_bytes_of_two_handles_are_one_snapshot(hub: LoopbackHub, jobs: Jobs) -> None:
    one, two = hub.add_model("a/1", OLD), hub.add_file("x.zip", zipped(OLD))
    assert jobs.resolve(one).digest == jobs.resolve(two).digest
    assert len(jobs.store.digests()) == 1


def test_a_damaged_snapshot_is_fetched_again(hub: LoopbackHub, jobs: Jobs) -> None:
    handle = hub.add_model("google/words/1", OLD)
    found = jobs.resolve(handle)
    snapshot = jobs.store.find(found.digest)
    assert snapshot is not None
    snapshot.release()
    (snapshot.path / "saved_model.pb").chmod(0o600)
    (snapshot.path / "saved_model.pb").write_bytes(b"longer than it was")
    again = jobs.resolve(handle)
    assert again.source == "origin"
    assert jobs.files(again) == OLD
    assert hub.reads(handle) == 2


def test_a_failed_handle_is_tried_again_by_the_next_call(hub: LoopbackHub, jobs: Jobs) -> None:
    handle = hub.add_model("google/words/1", OLD)
    hub.fail_next(handle, Status(404))
    with pytest.raises(errors.ModelNotFoundError) as caught:
        jobs.resolve(handle)
    assert caught.value.handle == handle
    assert jobs.resolve(handle).source == "origin"


# Offline.


@pytest.mark.parametrize("kind", ["hub", "archive", "member"])
def test_offline_takes_what_the_store_has(hub: LoopbackHub, jobs: Jobs, kind: str) -> None:
    if kind == "hub":
        handle = hub.add_model("google/words/1", OLD)
    else:
        url = hub.add_file("x.zip", zipped(OLD))
        handle = url if kind == "archive" else f"zip://::{url}"
    jobs.resolve(handle)
    asked = len(hub.requests)
    assert jobs.resolve(handle, offline=True).source == "store"
    assert len(hub.requests) == asked


@pytest.mark.parametrize("path", ["google/words/1", "x.tar.gz"])
def test_offline_refuses_what_the_store_lacks_without_asking(hub: LoopbackHub, jobs: Jobs, path: str) -> None:
    with pytest.raises(errors.NotPinnedError, match="offline") as caught:
        jobs.resolve(f"{hub.url}/{path}", offline=True)
    assert caught.value.handle == f"{hub.url}/{path}"
    assert hub.requests == []
    assert list((jobs.store.root / "staging").iterdir()) == []


def test_offline_reads_the_drivers_disk(jobs: Jobs, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", OLD)
    (tmp_path / "x.zip").write_bytes(zipped(OLD))
    first = jobs.resolve(model, offline=True)
    assert jobs.files(jobs.resolve(f"zip://::{tmp_path / 'x.zip'}", offline=True)) == OLD
    write_model(model, NEW)
    second = jobs.resolve(model, offline=True)
    assert first.digest != second.digest
    assert jobs.files(second) == NEW


@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.parametrize(
    "handle", ["{root}/x", "file://{root}/x", "{root}/x.zip", "zip://::{root}/x.zip", "{root}/x.onnx"]
)
@pytest.mark.parametrize("times", ["as they come", "set back"])
def test_what_lies_on_the_drivers_disk_is_looked_at_in_every_job(
    jobs: Jobs, tmp_path: Path, offline: bool, handle: str, times: str
) -> None:
    def put(files: dict[str, bytes]) -> None:
        write_model(tmp_path / "x", files)
        (tmp_path / "x.zip").write_bytes(zipped(files))
        (tmp_path / "x.onnx").write_bytes(files["saved_model.pb"])
        if times == "set back":
            for path in (tmp_path / "x" / "saved_model.pb", tmp_path / "x.zip", tmp_path / "x.onnx"):
                os.utime(path, (0, 0))

    digests = []
    for files in (OLD, NEW, OLD):
        put(files)
        found = jobs.resolve(handle.format(root=tmp_path), offline=offline)
        assert list(jobs.files(found).values()) == [files["saved_model.pb"]]
        digests.append(found.digest)
    assert digests[0] == digests[2] != digests[1]


# hubdist.lock and models.


def lock(jobs: Jobs) -> dict[str, str]:
    models = LockFile(jobs.base / "hubdist.lock", frozen=True).models()
    return {label: str(model.digest) for label, model in models.items()}


def test_the_lock_file_trusts_the_first_use_and_refuses_other_bytes(hub: LoopbackHub, jobs: Jobs) -> None:
    url = hub.add_file("x.tar.gz", targz(OLD))
    first = jobs.resolve(url, lock_file="hubdist.lock")
    assert lock(jobs) == {url: str(first.digest)}
    assert jobs.store.evict(first.digest)
    hub.add_file("x.tar.gz", targz(NEW))
    with pytest.raises(errors.DigestMismatchError) as caught:
        jobs.resolve(url, lock_file="hubdist.lock")
    assert caught.value.expected == str(first.digest)
    assert caught.value.handle == url
    assert lock(jobs) == {url: str(first.digest)}
    assert list((jobs.store.root / "staging").iterdir()) == []


def test_a_locked_handle_that_the_store_has_is_not_read_again(hub: LoopbackHub, jobs: Jobs) -> None:
    url = hub.add_file("x.tar.gz", targz(OLD))
    jobs.resolve(url, lock_file="hubdist.lock")
    hub.add_file("x.tar.gz", targz(NEW))
    second = jobs.resolve(url, lock_file="hubdist.lock")
    assert second.source == "store"
    assert jobs.files(second) == OLD
    assert len(hub.requests) == 1


def test_a_locked_local_directory_must_not_change_either(jobs: Jobs, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", OLD)
    first = jobs.resolve(model, lock_file="hubdist.lock")
    write_model(model, NEW)
    assert jobs.resolve(model, lock_file="hubdist.lock").digest == first.digest
    jobs.store.evict(first.digest)
    with pytest.raises(errors.DigestMismatchError):
        jobs.resolve(model, lock_file="hubdist.lock")


def test_refused_bytes_are_not_taken_by_a_later_job(hub: LoopbackHub, jobs: Jobs) -> None:
    handle = hub.add_model("google/words/1", OLD)
    first = jobs.resolve(handle, lock_file="hubdist.lock")
    jobs.store.evict(first.digest)
    hub.add_model("google/words/1", NEW)
    for _ in range(2):
        with pytest.raises(errors.DigestMismatchError):
            jobs.resolve(handle, lock_file="hubdist.lock")
    hub.add_model("google/words/1", OLD)
    assert jobs.files(jobs.resolve(handle, lock_file="hubdist.lock")) == OLD


def test_frozen_refuses_what_is_not_in_the_lock_file(hub: LoopbackHub, jobs: Jobs) -> None:
    known, unknown = hub.add_model("known/1", OLD), hub.add_model("unknown/1", NEW)
    jobs.resolve(known, lock_file="hubdist.lock")
    jobs.resolve(unknown)
    before, asked = lock(jobs), len(hub.requests)
    with pytest.raises(errors.NotPinnedError) as caught:
        jobs.resolve(unknown, lock_file="hubdist.lock", frozen=True)
    assert caught.value.handle == unknown
    assert jobs.resolve(known, lock_file="hubdist.lock", frozen=True).source == "store"
    assert (lock(jobs), len(hub.requests)) == (before, asked)


def test_locked_asks_each_origin_once_for_each_job_and_takes_what_did_not_change(hub: LoopbackHub, jobs: Jobs) -> None:
    handle = hub.add_model("known/1", OLD)
    first = jobs.resolve(handle, lock_file="hubdist.lock")
    text = (jobs.base / "hubdist.lock").read_text()
    assert jobs.resolve(handle, lock_file="hubdist.lock", frozen=True).source == "store"
    assert hub.reads(handle) == 1
    again = jobs.resolve(handle, lock_file="hubdist.lock", locked=True)
    assert (again.digest, again.source) == (first.digest, "origin")
    assert hub.reads(handle) == 2
    assert (jobs.base / "hubdist.lock").read_text() == text


def test_locked_refuses_an_origin_that_has_other_bytes_and_frozen_does_not_look(hub: LoopbackHub, jobs: Jobs) -> None:
    handle = hub.add_model("known/1", OLD)
    first = jobs.resolve(handle, lock_file="hubdist.lock")
    hub.add_model("known/1", NEW)
    assert jobs.resolve(handle, lock_file="hubdist.lock", frozen=True).digest == first.digest
    with pytest.raises(errors.DigestMismatchError, match="hubdist lock --upgrade"):
        jobs.resolve(handle, lock_file="hubdist.lock", locked=True)
    assert lock(jobs) == {handle: str(first.digest)}


def test_locked_does_not_believe_what_tensorflow_hub_has_cached(hub: LoopbackHub, jobs: Jobs, tmp_path: Path) -> None:
    handle = hub.add_model("known/1", OLD)
    jobs.resolve(handle, lock_file="hubdist.lock")
    hub.add_model("known/1", NEW)
    write_model(tmp_path / "tfhub" / hashlib.sha1(handle.encode(), usedforsecurity=False).hexdigest(), OLD)
    settings = {"lock_file": "hubdist.lock", "tfhub_cache_dir": str(tmp_path / "tfhub")}
    with pytest.raises(errors.DigestMismatchError):
        jobs.resolve(handle, **settings, locked=True)


def test_locked_refuses_what_is_not_in_the_lock_file_and_asks_nobody(hub: LoopbackHub, jobs: Jobs) -> None:
    known, unknown = hub.add_model("known/1", OLD), hub.add_model("unknown/1", NEW)
    jobs.resolve(known, lock_file="hubdist.lock")
    jobs.resolve(unknown)
    asked = len(hub.requests)
    with pytest.raises(errors.NotPinnedError, match=r"is locked .*`hubdist lock`") as caught:
        jobs.resolve(unknown, lock_file="hubdist.lock", locked=True)
    assert caught.value.handle == unknown
    assert (list(lock(jobs)), len(hub.requests)) == ([known], asked)


def test_a_plan_of_locked_settings_says_that_the_origin_would_be_read(hub: LoopbackHub, jobs: Jobs) -> None:
    handle = hub.add_model("known/1", OLD)
    jobs.resolve(handle, lock_file="hubdist.lock")
    resolver = jobs.resolver(lock_file="hubdist.lock", locked=True)
    assert resolver.look(resolver.parse(handle)) is None


def test_frozen_without_a_lock_file_takes_the_models_of_the_configuration(hub: LoopbackHub, jobs: Jobs) -> None:
    known, unknown = hub.add_model("known/1", OLD), hub.add_model("unknown/1", NEW)
    digest = str(jobs.resolve(known).digest)
    models = ({"handle": known, "digest": digest},)
    assert jobs.resolve(known, models=models, frozen=True).source == "store"
    with pytest.raises(errors.NotPinnedError):
        jobs.resolve(unknown, models=models, frozen=True)


def test_a_digest_of_the_configuration_is_enforced(hub: LoopbackHub, jobs: Jobs) -> None:
    handle = hub.add_model("google/words/1", OLD)
    wrong = f"sha256:{'0' * 64}"
    for _ in range(2):
        with pytest.raises(errors.DigestMismatchError) as caught:
            jobs.resolve(handle, models=({"handle": f"{handle}/", "digest": wrong},))
        assert caught.value.expected == wrong
        assert caught.value.handle == handle
    right = str(jobs.resolve(handle).digest)
    assert str(jobs.resolve(handle, models=({"handle": handle, "digest": right},)).digest) == right


def test_a_model_of_the_configuration_without_digest_takes_what_comes(hub: LoopbackHub, jobs: Jobs) -> None:
    handle = hub.add_model("google/words/1", OLD)
    assert jobs.resolve(handle, models=(handle,)).source == "origin"


def test_a_pinned_model_of_another_handle_is_not_read_again(hub: LoopbackHub, jobs: Jobs) -> None:
    digest = str(jobs.resolve(hub.add_model("a/1", OLD)).digest)
    found = jobs.resolve(f"{hub.url}/b/1", models=({"handle": f"{hub.url}/b/1", "digest": digest},))
    assert found.source == "store"
    assert len(hub.requests) == 1


@pytest.mark.parametrize("text", ["no json", "[]", '{"a": 1}', '{"a": "md5:0"}'])
def test_a_damaged_lock_file_is_a_configuration_error(hub: LoopbackHub, jobs: Jobs, text: str) -> None:
    (jobs.base / "hubdist.lock").write_text(text)
    with pytest.raises(errors.ConfigError, match=r"hubdist\.lock"):
        jobs.resolve(hub.add_model("a/1", OLD), lock_file="hubdist.lock")
    assert (jobs.base / "hubdist.lock").read_text() == text


# A store that can only be read.

_READ = """
import sys
import threading
from pathlib import Path
from hubdist.config.schema import Config
from hubdist.errors import StoreError
from hubdist.resolver.resolver import Resolver
from hubdist.store.store import Store

store = Store(Path(sys.argv[1]))
assert store.read_only
resolver = Resolver(Config(origin_retries=0), store, None)
found = resolver.find_or_read(resolver.parse(sys.argv[2]))
with store.find(found.digest) as snapshot:
    print(found.source, (snapshot.path / "saved_model.pb").read_text())
try:
    resolver.find_or_read(resolver.parse(sys.argv[3]))
except StoreError as error:
    print(error.handle == sys.argv[3], "read-only" in str(error))
"""


def test_a_read_only_store_serves_hits(hub: LoopbackHub, jobs: Jobs) -> None:
    handle, other = hub.add_model("google/words/1", OLD), hub.add_model("other/1", NEW)
    jobs.resolve(handle)
    root = str(jobs.store.root)
    command = [sys.executable, "-c", _READ, root, handle, other]
    if os.geteuid() == 0:
        mount = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount, "sh", root, *command]
    folders = [path for path in (jobs.store.root, *jobs.store.root.iterdir()) if path.is_dir()]
    for folder in folders:
        folder.chmod(0o500)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    finally:
        for folder in folders:
            folder.chmod(0o700)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mount namespaces here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["store old", "True True"]
    assert hub.reads(handle) == 1


# Deadlines


class Recorder(MemorySource):
    """An origin that takes longer than is left, and notes whether it was asked."""

    def __init__(self, files: dict[str, bytes], asked: list[str]) -> None:
        super().__init__(files)
        self._asked = asked

    def read(self, path: str, start: int, end: int) -> bytes:
        self._asked.append(path)
        threading.Event().wait(1.5)
        return super().read(path, start, end)


def test_waiting_and_reading_share_one_deadline(jobs: Jobs) -> None:
    asked: list[str] = []
    settings = {"timeout_s": 2.0, "origins": {"slow": lambda _: Recorder(OLD, asked)}}
    resolver = Resolver(Config(origin_retries=0, **settings), jobs.store, jobs.base)
    handle = resolver.parse("slow://model")
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with Store(jobs.store.root).lock(f"resolve-{handle.key}", 10):
            held.set()
            release.wait(1.2)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10)
    with pytest.raises(errors.TransferTimeoutError):
        resolver.find_or_read(handle)
    holder.join()
    assert asked  # each of the two alone would have been in time
    for thread in threading.enumerate():
        if thread.name.startswith("hubdist"):
            thread.join(10)
