"""What libraries log while hubdist calls them stays away from the user; what the user's code logs does not."""

from __future__ import annotations

import logging
import threading

import pytest

from hubdist.errors import OriginError
from hubdist.system.foreign import call_foreign
from hubdist.system.quiet import audible, quiet
from hubdist.system.threads import Worker


def test_a_librarys_records_are_dropped_in_a_call_and_heard_outside(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("gcsfs.some.module")

    def fail() -> None:
        logger.error("out of retries: https://host/?signature=secret")
        raise OSError

    with pytest.raises(OriginError):
        call_foreign(fail, "the place")
    assert caplog.messages == []
    logger.error("somebody else's")
    assert caplog.messages == ["somebody else's"]


def test_records_of_other_loggers_are_heard(caplog: pytest.LogCaptureFixture) -> None:
    with quiet():
        logging.getLogger("hubdist.some.module").warning("hubdist: retry")
        logging.getLogger("gcsfsx").warning("another's")
    assert caplog.messages == ["hubdist: retry", "another's"]


def test_records_are_dropped_in_the_thread_that_makes_the_call(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("botocore.some.module")
    worker = Worker("hubdist-quiet")
    try:
        with quiet():
            worker.call(lambda: logger.warning("dropped"), 5)
    finally:
        worker.close()
    assert caplog.messages == []


def test_another_thread_keeps_its_records_meanwhile(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("urllib3.some.module")
    with quiet():
        thread = threading.Thread(target=lambda: logger.warning("the user's own request"))
        thread.start()
        thread.join(5)
    assert caplog.messages == ["the user's own request"]


def test_a_users_function_is_heard_within_a_call(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("requests.some.module")
    with quiet():
        with audible():
            logger.warning("heard")
        logger.warning("dropped")
    assert caplog.messages == ["heard"]


def test_what_is_dropped_is_noted_at_debug_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("s3fs.some.module")
    with caplog.at_level(logging.DEBUG, "hubdist"), quiet():
        logger.error("https://host/?signature=secret")
    assert "dropped a record of level ERROR of s3fs.some.module, line" in caplog.text
    assert "secret" not in caplog.text
