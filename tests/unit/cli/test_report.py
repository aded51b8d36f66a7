"""`hubdist report`: which record it takes, and what it prints."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hubdist.cli.commands.report import report
from hubdist.cli.exits import Exit
from hubdist.report.record import write_record
from tests.support.job_reports import FAILURES, job_report

JOB = job_report(4, failures=FAILURES[:1], models=2)
RECORD = write_record(JOB)


@pytest.fixture
def session(tmp_path: Path) -> Path:
    """A session of Ray in which three jobs ran; the newest is 02000000."""
    folder = tmp_path / "ray" / "session_latest" / "logs" / "hubdist"
    folder.mkdir(parents=True)
    for age, job in enumerate(("02000000", "01000000", "03000000")):
        path = folder / f"{job}.json"
        path.write_text(RECORD.replace(JOB.job, job), encoding="utf-8")
        os.utime(path, (1_790_000_000 - age, 1_790_000_000 - age))
    (folder / ".04000000.json.half").write_text("{", encoding="utf-8")
    return folder.parents[1]


def run(*arguments: str | Path, **environment: str) -> Result:
    return CliRunner().invoke(report, [str(argument) for argument in arguments], env=environment)


def test_without_a_file_it_takes_the_newest_job_of_the_latest_session(session: Path) -> None:
    done = run("-q", RAY_TMPDIR=str(session.parents[1]))
    assert (done.exit_code, done.stdout) == (Exit.OK, "02000000\n")


def test_it_takes_the_job_and_the_session_that_are_named(session: Path) -> None:
    assert run("-q", "--session", session, "--job", "01000000").stdout == "01000000\n"


def test_a_file_is_read_as_it_is(session: Path) -> None:
    path = session / "logs" / "hubdist" / "03000000.json"
    done = run(path, "--json")
    assert json.loads(done.stdout) == json.loads(path.read_text(encoding="utf-8"))


def test_text_has_routes_nodes_and_what_to_do(session: Path) -> None:
    text = run("--session", session).stdout
    assert text.startswith("job 02000000\n")
    assert "the node's store lacks the snapshot and the driver's node has it" in text
    for one in JOB.deliveries:
        assert one.name in text
    assert "NodeLostError: the agent on the node is gone" in text
    assert "what to do: Ray's log of the node says why; a new delivery goes on." in text


def test_the_text_of_many_nodes_is_short(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(write_record(job_report(512)), encoding="utf-8")
    lines = run(path).stdout.splitlines()
    assert len(lines) < 80
    assert "472 more deliveries; --json has 512, --html sums them up" in lines


def test_a_page_is_written_and_its_path_is_the_last_line(session: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = run("--session", session, "--html", page)
    assert done.stdout.splitlines()[-1] == str(page)
    assert "job 02000000" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--job", "77"), Exit.FAILED, "job 77 has left no record in"),
        (("none.json",), Exit.FAILED, "none.json cannot be read: No such file"),
        (("none.json", "--job", "01"), Exit.WRONG_USE, "FILE is one record"),
        (("--html", "/nowhere/page.html"), Exit.FAILED, "/nowhere/page.html cannot be written: No such file"),
    ],
)
def test_what_cannot_be_done_is_said_on_standard_error(
    session: Path, arguments: tuple[str, ...], code: Exit, says: str
) -> None:
    more = () if "none.json" in arguments else ("--session", str(session))
    done = run(*arguments, *more)
    assert (done.exit_code, done.stdout) == (code, "")
    assert says in done.stderr


def test_a_session_without_jobs_says_where_to_look(tmp_path: Path) -> None:
    done = run("--session", tmp_path)
    assert done.exit_code == Exit.FAILED
    assert f"no job has left a record in {tmp_path}/logs/hubdist" in done.stderr
    assert "head node" in done.stderr
