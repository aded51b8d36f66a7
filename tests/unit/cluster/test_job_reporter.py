"""The record of a job in the logs of Ray's session: written in time, whole, and never in the job's way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hubdist.cluster.coordinator.job_reporter import JobReporter
from hubdist.cluster.coordinator.report_log import ReportLog
from hubdist.cluster.job import Job
from hubdist.cluster.metrics import Metrics
from hubdist.cluster.nodes import Node
from hubdist.config.redacted import given_keys
from hubdist.config.schema import Config
from hubdist.errors import ModelNotFoundError
from hubdist.report.delivery import PinReport
from hubdist.report.job import MAX_ERRORS, JobReport
from hubdist.report.record import read_record_file
from tests.unit.report.test_record import GOT, PIN

NODE = Node("id0", "10.0.0.1/aaaa", "10.0.0.1", is_head=True)
SECRET = "hunter2"
CONFIG = Config(models=[f"https://user:{SECRET}@hub/m/1?token={SECRET}"], max_store_bytes="20GiB")


class View:
    def __init__(self) -> None:
        self.pins: tuple[PinReport, ...] = (PIN,)
        self.log = ReportLog(1_000)


class World:
    """A coordinator's reporter whose record goes into a directory of the test."""

    def __init__(self, folder: Path | None, session: str = "session_1", pause_s: float = 60.0) -> None:
        self.view = View()
        job = Job.of(CONFIG, None, f"{session}-01000000")
        self.reporter = JobReporter(
            job,
            CONFIG,
            NODE,
            self.view,
            Metrics(NODE.name, enabled=False),
            find_folder=lambda: folder,
            pause_s=pause_s,
        )

    def deliver(self) -> None:
        self.view.log.note(GOT)
        self.reporter.note_delivery(GOT)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs" / "hubdist"


def names(folder: Path) -> list[str]:
    """Whole files; a write may be under way beside them."""
    return [path.name for path in folder.glob("[!.]*")]


def leftovers(folder: Path) -> list[Path]:
    return list(folder.glob(".*"))


def read(folder: Path) -> JobReport:
    assert names(folder) == ["01000000.json"]
    return read_record_file(folder / "01000000.json")


async def until_written(folder: Path, deliveries: int) -> JobReport:
    async with asyncio.timeout(20):
        while True:
            if names(folder):
                found = read(folder)
                if len(found.deliveries) == deliveries:
                    return found
            await asyncio.sleep(0.01)


def test_the_end_of_a_delivery_is_written_at_once(folder: Path) -> None:
    async def work() -> None:
        world = World(folder)
        world.deliver()
        found = await until_written(folder, 1)
        assert found.deliveries == (GOT,)
        assert found.pins == (PIN,)
        assert (found.job, found.session, found.closed) == ("01000000", "session_1", False)
        assert found.versions["hubdist"]

    asyncio.run(work())


def test_further_deliveries_wait_for_each_other_and_none_is_forgotten(folder: Path) -> None:
    async def work() -> None:
        world = World(folder, pause_s=0.2)
        for _ in range(100):
            world.deliver()
            await asyncio.sleep(0)
        await until_written(folder, 100)

    asyncio.run(work())


def test_a_flush_writes_what_the_pause_would_hold_back(folder: Path) -> None:
    async def work() -> None:
        world = World(folder)
        world.deliver()
        await until_written(folder, 1)
        world.deliver()
        await world.reporter.flush(closed=True)
        found = read(folder)
        assert (len(found.deliveries), found.closed) == (2, True)

    asyncio.run(work())


def test_settings_stand_there_without_their_secrets(folder: Path) -> None:
    async def work() -> None:
        world = World(folder)
        world.deliver()
        await world.reporter.flush()
        text = (folder / "01000000.json").read_text(encoding="utf-8")
        assert SECRET not in text
        found = read(folder)
        assert found.settings["max_store_bytes"] == 20 << 30
        assert found.given == ("max_store_bytes", "models")
        assert given_keys(CONFIG.replace({"origins": {}, "models": (), "offline": False})) == ("max_store_bytes",)

    asyncio.run(work())


def test_handles_that_fail_are_kept_once_each_and_in_bounds(folder: Path) -> None:
    async def work() -> None:
        world = World(folder)
        for number in range(3 * MAX_ERRORS):
            for _ in range(2):
                world.reporter.note_handle(ModelNotFoundError("nothing is there", handle=f"https://hub/m/{number}"))
        await world.reporter.flush()
        handles = [error.handle for error in read(folder).errors]
        assert handles == [f"https://hub/m/{number}" for number in range(2 * MAX_ERRORS, 3 * MAX_ERRORS)]

    asyncio.run(work())


def test_a_coordinator_that_is_made_again_goes_on_with_the_record(folder: Path) -> None:
    async def work() -> None:
        first = World(folder)
        first.deliver()
        await first.reporter.flush()
        again = World(folder)
        again.deliver()
        await again.reporter.flush()
        assert len(read(folder).deliveries) == 2
        again.deliver()
        await again.reporter.flush()
        assert len(read(folder).deliveries) == 3

    asyncio.run(work())


@pytest.mark.parametrize("session", ["session_0", "session_2"])
def test_the_record_of_another_session_is_replaced(folder: Path, session: str) -> None:
    async def work() -> None:
        old = World(folder, session)
        old.deliver()
        await old.reporter.flush()
        new = World(folder)
        new.deliver()
        await new.reporter.flush()
        assert len(read(folder).deliveries) == 1

    asyncio.run(work())


@pytest.mark.parametrize("fault", ["none", "missing", "file", "damaged"])
def test_a_directory_of_logs_that_cannot_be_used_harms_nothing(tmp_path: Path, fault: str) -> None:
    folder = tmp_path / "logs" / "hubdist"
    if fault != "missing":
        folder.parent.mkdir()
    if fault == "file":
        folder.write_text("in the way")
    if fault == "damaged":
        folder.mkdir()
        (folder / "01000000.json").write_text("{")

    async def work() -> None:
        world = World(None if fault == "none" else folder)
        world.deliver()
        await world.reporter.flush(closed=True)
        assert len(world.reporter.report.deliveries) == 1

    asyncio.run(work())
    assert folder.is_dir() == (fault == "damaged")


def test_a_disk_that_hangs_holds_nobody_up(folder: Path) -> None:
    async def work() -> None:
        world = World(folder)
        async with world.reporter._writing:  # as if a write had been standing still
            world.deliver()
            begin = asyncio.get_running_loop().time()
            await world.reporter.flush(timeout_s=0.1)
            assert asyncio.get_running_loop().time() - begin < 5

    asyncio.run(work())


def test_no_part_of_a_record_is_ever_seen(folder: Path) -> None:
    async def work() -> None:
        world = World(folder, pause_s=0.0)
        for _ in range(30):
            world.deliver()
            await world.reporter.flush()
            read(folder)
            assert not leftovers(folder)

    asyncio.run(work())
