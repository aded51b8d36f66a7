"""Log lines that are written once for each reason."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hubdist.system.log_once import LogOnce

_LOG = logging.getLogger(__name__)


def test_each_reason_is_logged_once_whatever_the_line_says(caplog: pytest.LogCaptureFixture) -> None:
    once = LogOnce(_LOG)
    for line in range(3):
        once.log("disk", "line %s of %s", line, "disk")
        once.log(("node", 1), "line %s", line)
    assert [record.getMessage() for record in caplog.records] == ["line 0 of disk", "line 0"]


def test_a_line_has_the_level_and_the_place_of_who_logs_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    once = LogOnce(_LOG)
    once.log("a", "%s", "a", level=logging.INFO)
    once.log("b", "%s", "b")
    assert [record.levelno for record in caplog.records] == [logging.INFO, logging.WARNING]
    assert {record.filename for record in caplog.records} == {Path(__file__).name}


def test_two_objects_do_not_know_of_each_other(caplog: pytest.LogCaptureFixture) -> None:
    LogOnce(_LOG).log("a", "text")
    LogOnce(_LOG).log("a", "text")
    assert len(caplog.records) == 2


def test_many_threads_log_a_reason_once(caplog: pytest.LogCaptureFixture) -> None:
    once = LogOnce(_LOG)
    with ThreadPoolExecutor(16) as threads:
        for _ in threads.map(lambda number: once.log("same", "%d", number), range(200)):
            pass
    assert len(caplog.records) == 1
