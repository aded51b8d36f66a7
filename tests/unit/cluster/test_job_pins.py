"""The pins of a job: notes that others leave alone, claims that outlast repairs, and neighbours that do no harm."""

from __future__ import annotations

import asyncio
import errno
import multiprocessing
import os
import resource
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from hubdist import errors
from hubdist.cluster.coordinator.concurrency import BlockingWork
from hubdist.cluster.coordinator.driver_snapshots import DriverSnapshots
from hubdist.cluster.coordinator.job_pins import JobPins, PinRequest
from hubdist.cluster.coordinator.job_scope import JobScope, PinRecord, remove_old_scopes
from hubdist.config.schema import Config
from hubdist.model.manifest import Digest
from hubdist.resolver.resolver import Resolver
from hubdist.store import pins
from hubdist.store.store import Store
from hubdist.testing.memory import MemorySource

SCOPE = "session_2026-01-01_00-00-00_000000_1-01000000"
OTHER_SCOPE = "session_2026-02-01_00-00-00_000000_1-01000000"
MONTH_S = 31 * 86400


class Record:
    """Pins that are noted elsewhere than in the store."""

    def __init__(self) -> None:
        self.digests: dict[str, Digest] = {}

    def find(self, key: str) -> Digest | None:
        return self.digests.get(key)

    def keep(self, key: str, digest: Digest) -> None:
        self.digests[key] = digest


class Early:
    """Stands for the nodes that take part in a delivery while the origin is read."""

    chunk_bytes = 1 << 20

    def __init__(self) -> None:
        self.ended: list[str] = []

    def started(self, stage: str) -> None: ...
    def chunk_ready(self, *_: Any) -> None: ...
    def published(self, *_: Any) -> None: ...

    def settle(self) -> None:
        self.ended.append("settled")

    def fail(self, error: errors.HubdistError) -> None:
        self.ended.append(type(error).__name__)


class Job:
    """The pins of one job, and what they are made of."""

    def __init__(self, store: Store, config: Config, folder: Path, scope: str, record: PinRecord | None) -> None:
        self.work = BlockingWork()
        self.snapshots = DriverSnapshots(store, self.work)
        self.resolver = Resolver(config, store, folder)
        notes = JobScope(store.root / "pins", scope, record, locked=config.locked)
        self.pins = JobPins(self.resolver, notes, self.snapshots, self.work)


class World:
    """A driver's store, directories to read, and jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "store"
        self.jobs: list[Job] = []

    def put(self, name: str, data: bytes) -> str:
        """A directory with one file."""
        (self.folder / name).mkdir(exist_ok=True)
        (self.folder / name / "data").write_bytes(data)
        return str(self.folder / name)

    def job(self, scope: str = SCOPE, *, record: PinRecord | None = None, **settings: Any) -> Job:
        """A coordinator's pins."""
        job = Job(Store(self.root), Config(store=str(self.root), **settings), self.folder, scope, record)
        self.jobs.append(job)
        return job

    def on_another_node(self, name: str) -> World:
        """The same directories, seen from a node with another store."""
        other = World(self.folder)
        other.root = self.folder / name
        other.jobs = self.jobs
        return other


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    for job in made.jobs:
        job.work.close()


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


async def pin(job: Job, text: str, feed: Any = None) -> Digest:
    return (await job.pins.pin_once(PinRequest(job.resolver.parse(text), feed=feed))).digest


# Notes


def test_a_job_that_becomes_locked_asks_origins_whatever_it_noted_before_and_once(world: World) -> None:
    handle, lock = world.put("model", b"old"), str(world.folder / "hubdist.lock")

    async def work() -> None:
        digest = await pin(world.job(lock_file=lock), handle)
        world.put("model", b"new")
        assert await pin(world.job(lock_file=lock), handle) == digest
        with pytest.raises(errors.DigestMismatchError):
            await pin(world.job(lock_file=lock, locked=True), handle)
        world.put("model", b"old")
        assert await pin(world.job(lock_file=lock, locked=True), handle) == digest
        world.put("model", b"new")
        assert await pin(world.job(lock_file=lock, locked=True), handle) == digest

    run(work)


def test_a_job_that_is_made_again_has_its_pins_whatever_others_sweep(world: World) -> None:
    handle = world.put("model", b"old")

    async def work() -> None:
        first = world.job()
        digest = await pin(first, handle)
        world.put("model", b"new")
        month_ago = time.time() - MONTH_S
        os.utime(world.root / "pins" / SCOPE, (month_ago, month_ago))
        world.job(OTHER_SCOPE)
        assert await pin(world.job(), handle) == digest
        assert await pin(world.job(OTHER_SCOPE), handle) != digest

    run(work)


def test_the_notes_of_a_job_that_is_over_are_removed(world: World) -> None:
    notes = world.root / "pins" / SCOPE
    notes.mkdir(parents=True)
    world.root.chmod(0o700)
    (notes.parent).chmod(0o700)
    month_ago = time.time() - MONTH_S
    os.utime(notes, (month_ago, month_ago))
    world.job(OTHER_SCOPE)
    assert not notes.exists()


def begin(folder: str, barrier: Any, failures: Any) -> None:
    barrier.wait(30)
    try:
        remove_old_scopes(Path(folder))
    except OSError as error:
        failures.put(str(error))


def test_jobs_that_begin_at_once_remove_old_notes_together(tmp_path: Path) -> None:
    month_ago = time.time() - MONTH_S
    for number in range(300):
        scope = tmp_path / f"session_{number}"
        scope.mkdir()
        os.utime(scope, (month_ago, month_ago))
    context = multiprocessing.get_context("fork")
    barrier, failures = context.Barrier(3), context.Queue()
    jobs = [context.Process(target=begin, args=(str(tmp_path), barrier, failures)) for _ in range(3)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    assert failures.empty()
    # One that finds the other's lock leaves the folder to it.
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.EDQUOT])
def test_a_pin_that_cannot_be_noted_is_a_pin(world: World, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = world.put("model", b"old")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    async def work() -> None:
        job = world.job()
        await pin(job, handle)
        with monkeypatch.context() as patch:
            patch.setattr(pins, "write_durably", refuse)
            again = world.job(OTHER_SCOPE)
            digest = await pin(again, handle)
            world.put("model", b"new")
            assert await pin(again, handle) == digest

    run(work)


def test_what_another_node_noted_holds_on_this_one(world: World) -> None:
    handle = world.put("model", b"old")
    record = Record()

    async def work() -> None:
        await pin(world.job(record=record), handle)
        assert await pin(world.on_another_node("second").job(record=record), handle) in record.digests.values()
        world.put("model", b"new")
        with pytest.raises(errors.DigestMismatchError, match="changed during the job"):
            await pin(world.on_another_node("third").job(record=record), handle)

    run(work)


# Claims


def test_a_repaired_snapshot_is_claimed_as_the_damaged_one_was(world: World) -> None:
    handle = world.put("model", b"x" * 1000)

    async def work() -> None:
        job = world.job()
        digest = await pin(job, handle)
        assert not Store(world.root).evict(digest)
        file = world.root / "snapshots" / digest.value / "files" / "data"
        file.chmod(0o600)
        file.write_bytes(b"cut")
        snapshot = await job.pins.snapshot(digest)
        assert (snapshot.path / "data").read_bytes() == b"x" * 1000
        assert not Store(world.root).evict(digest)

    run(work)


@pytest.fixture
def few_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 150, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("few_files")
def test_a_job_has_more_models_than_a_process_may_open_files(world: World) -> None:
    handles = [world.put(str(number), b"%d" % number) for number in range(300)]

    async def work() -> None:
        job = world.job()
        digests = [await pin(job, handle) for handle in handles]
        assert not Store(world.root).evict(digests[0])

    run(work)


# Neighbours


def test_slow_origins_do_not_stop_others(world: World) -> None:
    release = threading.Event()

    def slow(_: str) -> MemorySource:
        release.wait(60)
        return MemorySource({"data": b"slow"})

    async def work() -> None:
        job = world.job(origins={"slow": slow, "quick": lambda _: MemorySource({"data": b"quick"})})
        waiting = [asyncio.create_task(pin(job, f"slow://{number}")) for number in range(34)]
        await asyncio.sleep(0.2)
        for handle in ("quick://1", world.put("model", b"x")):
            await asyncio.wait_for(pin(job, handle), 45)
        assert not any(task.done() for task in waiting)
        release.set()
        assert len(set(await asyncio.gather(*waiting))) == 1

    run(work)


@pytest.mark.parametrize("lost", ["first", "second"])
def test_of_two_handles_with_equal_bytes_one_is_enough(world: World, lost: str) -> None:
    handles = [world.put(name, b"the same") for name in ("first", "second")]

    async def work() -> None:
        job = world.job()
        digests = {await pin(job, handle) for handle in handles}
        (digest,) = digests
        (world.folder / lost / "data").unlink()
        job.snapshots.close()
        assert Store(world.root).evict(digest)
        snapshot = await job.pins.snapshot(digest)
        assert (snapshot.path / "data").read_bytes() == b"the same"

    run(work)


class Failing(MemorySource):
    """An origin whose library fails in the middle."""

    failure: BaseException = ValueError("registry: bad answer")

    def read(self, path: str, start: int, end: int) -> bytes:
        raise self.failure


@pytest.mark.parametrize(
    "failure", [ValueError("x"), KeyError("x"), OSError(5, "x"), UnicodeDecodeError("a", b"", 0, 1, "")]
)
def test_whatever_an_origin_raises_nobody_waits_for_the_rest(world: World, failure: Exception) -> None:
    early = Early()

    def origin(_: str) -> Failing:
        source = Failing({"data": b"x" * 10})
        source.failure = failure
        return source

    async def work() -> None:
        job = world.job(origins={"mine": origin})
        with pytest.raises(errors.HubdistError):
            await pin(job, "mine://model", early)

    run(work)
    assert len(early.ended) == 1
    assert early.ended != ["settled"]
    assert list((world.root / "staging").iterdir()) == []
