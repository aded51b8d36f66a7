"""The record of a job: what is written is what is read, in bounds, and without what it must not hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hubdist.delivery.routes import Route
from hubdist.errors import DigestMismatchError, HubdistError, NodeLostError, StoreFullError
from hubdist.report.delivery import NodeReport, PinReport, Report
from hubdist.report.job import MAX_DELIVERIES, MAX_ERRORS, JobReport, RecordedError, kind_of, totals_of
from hubdist.report.plan import RouteTotal, Status
from hubdist.report.record import FORMAT, read_record, read_record_file, write_record

DIGEST = "sha256:" + 64 * "1"
PIN = PinReport("https://hub/m/1", DIGEST, 16 << 20, 3, "origin", 1, 0.5)
GOT = NodeReport(
    "id1",
    "10.0.0.2/bbbb",
    "https://hub/m/1",
    DIGEST,
    Route.DRIVER,
    "nothing else can be read",
    source="10.0.0.1/aaaa",
    bytes_received=16 << 20,
    seconds=2.5,
    retries=2,
    refused=1,
    sources=(("10.0.0.1/aaaa", 16 << 20),),
    timeline=((0.5, 8 << 20), (2.25, 16 << 20)),
    closed_ports=("10.0.0.1/aaaa",),
    predicted_s=2.0,
    ended=1_790_000_000.5,
)
LOST = NodeReport(
    "id2",
    "10.0.0.3/cccc",
    "https://hub/m/1",
    DIGEST,
    None,
    "it failed",
    error=RecordedError("the node is gone", kind="NodeLostError", node="10.0.0.3/cccc", advice="Start it again."),
)
JOB = JobReport(
    job="01000000",
    session="session_1",
    coordinator="10.0.0.1/aaaa",
    began=1_789_999_000.0,
    written=1_790_000_001.0,
    closed=True,
    versions={"hubdist": "0.1.0", "ray": "2.60.0"},
    settings={"store": "~/.cache/hubdist", "models": [], "offline": False, "link": None},
    given=("store",),
    pins=(PIN,),
    deliveries=(GOT, LOST),
    errors=(RecordedError("nothing is there", kind="ModelNotFoundError", handle="https://hub/m/2"),),
    totals=(RouteTotal(Route.DRIVER, 1, 16 << 20), RouteTotal(None, 1, 0)),
    pins_left_out=3,
    deliveries_left_out=4,
)


def same(one: JobReport, other: JobReport) -> bool:
    """Errors are compared by their fields: exceptions are equal to themselves alone."""

    def plain(job: JobReport) -> JobReport:
        bare = tuple(replace(each, error=None) for each in job.deliveries)
        return replace(job, deliveries=bare, errors=())

    def words(job: JobReport) -> list[tuple[str, str | None, str | None, str | None, str]]:
        return [(each.what, each.handle, each.node, each.advice, kind_of(each)) for each in job.failures]

    return plain(one) == plain(other) and words(one) == words(other)


def test_what_is_written_is_what_is_read() -> None:
    assert same(read_record(write_record(JOB), "here"), JOB)


def test_a_record_of_a_record_is_the_same_text() -> None:
    text = write_record(JOB)
    assert write_record(read_record(text, "here")) == text


@pytest.mark.parametrize(
    "error",
    [
        NodeLostError("it is gone", node="n", handle="h", advice="Start it."),
        StoreFullError("no room", need_bytes=5, free_bytes=3, path="/store"),
        DigestMismatchError("other bytes", expected="a", actual="b", handle="h"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_any_class_keeps_its_words_and_the_name_of_its_class(
    error: NodeLostError | StoreFullError | DigestMismatchError,
) -> None:
    (found,) = read_record(write_record(JobReport(errors=(error,))), "here").errors
    assert str(found) == str(error)
    assert kind_of(found) == type(error).__name__


def test_values_of_a_later_version_are_passed_over() -> None:
    values = json.loads(write_record(JOB))
    values["weather"] = "fine"
    values["deliveries"][0]["colour"] = "red"
    values["pins"][0]["age"] = 7
    values["totals"][0]["share"] = 0.5
    assert same(read_record(json.dumps(values), "here"), JOB)


def test_a_record_is_bounded_whatever_the_job_did() -> None:
    long = replace(
        GOT, timeline=tuple((i / 7, i << 10) for i in range(5_000)), sources=tuple((str(i), 9) for i in range(400))
    )
    error = RecordedError("x" * 100_000, advice="y" * 100_000)
    text = write_record(replace(JOB, deliveries=(long,) * 5_000, errors=(error,) * 500, pins=(PIN,) * 5_000))
    assert len(text) < 8 << 20
    found = read_record(text, "here")
    assert len(found.deliveries) == MAX_DELIVERIES
    assert found.deliveries_left_out == JOB.deliveries_left_out + 5_000 - MAX_DELIVERIES
    assert len(found.errors) == MAX_ERRORS
    assert found.deliveries[0].timeline[-1] == (round(4_999 / 7, 4), 4_999 << 10)
    assert sum(size for _, size in found.deliveries[0].sources) == 400 * 9


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "JSONDecodeError"),
        ("[1]", "AttributeError"),
        ('{"format": 1}', "KeyError"),
        ('{"format": 2}', "it says format 2"),
        ('{"a": 1}', "it says format None"),
        (write_record(JOB).replace('"driver"', '"by air"'), "ValueError"),
    ],
)
def test_what_is_no_record_is_refused_with_the_name_of_its_place(text: str, says: str) -> None:
    with pytest.raises(HubdistError, match=says) as caught:
        read_record(text, "/there/01.json")
    assert "/there/01.json" in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(HubdistError, match=r"none\.json cannot be read: No such file"):
        read_record_file(tmp_path / "none.json")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(HubdistError, match="not UTF-8"):
        read_record_file(tmp_path / "bytes")


def test_a_coordinator_that_is_made_again_adds_to_what_was_reported() -> None:
    later = replace(JOB, began=JOB.began + 60, deliveries=(GOT,), errors=(), totals=totals_of((GOT,)), pins=(PIN,))
    both = later.after(JOB)
    assert both.began == JOB.began
    assert both.deliveries == (*JOB.deliveries, GOT)
    assert both.pins == (PIN,)
    assert both.totals == (RouteTotal(Route.DRIVER, 2, 32 << 20), RouteTotal(None, 1, 0))
    assert len(both.errors) == 1
    assert both.deliveries_left_out == 8


def test_a_report_of_a_prefetch_and_a_status_are_reports_of_a_job() -> None:
    report = JobReport.of(Report((PIN,), (GOT, LOST), 2.6, JOB.errors))
    assert report.totals == JOB.totals
    assert len(report.failures) == 2
    status = JobReport.of(Status("ray", "10.0.0.1/aaaa", "/store", (PIN,), (GOT,), deliveries_left_out=2))
    assert (status.coordinator, status.deliveries_left_out, status.pins) == ("10.0.0.1/aaaa", 2, (PIN,))


def test_as_text_it_names_the_job_what_came_and_what_failed() -> None:
    text = str(JOB)
    first = text.splitlines()[0]
    assert "job 01000000" in first
    assert "2026-09-21" in first
    assert "hubdist 0.1.0, ray 2.60.0" in first
    assert "ModelNotFoundError: nothing is there" in text
    assert "10.0.0.3/cccc: failed: the node is gone" in text
    assert text.endswith("all together: 1 driver (16.8 MB), 1 failed (0 B)")


def test_the_format_is_a_promise() -> None:
    assert FORMAT == 1
    assert sorted(json.loads(write_record(JobReport()))) == [
        "began",
        "closed",
        "coordinator",
        "deliveries",
        "deliveries_left_out",
        "errors",
        "format",
        "given",
        "job",
        "pins",
        "pins_left_out",
        "session",
        "settings",
        "totals",
        "versions",
        "written",
    ]
