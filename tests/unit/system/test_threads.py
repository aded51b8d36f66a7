"""Tests of calls in threads of their own."""

from __future__ import annotations

import threading

import pytest

from hubdist.system.threads import run_within


def test_a_call_that_fails_leaves_no_thread_behind() -> None:
    def fail() -> None:
        raise KeyError("x")

    for _ in range(200):
        with pytest.raises(KeyError):
            run_within(fail, "hubdist-test", 5)
        assert "hubdist-test" not in [thread.name for thread in threading.enumerate()]


def test_a_late_call_is_left_behind() -> None:
    go_on = threading.Event()
    with pytest.raises(TimeoutError):
        run_within(lambda: go_on.wait(10), "hubdist-test", 0.05)
    (late,) = [thread for thread in threading.enumerate() if thread.name == "hubdist-test"]
    go_on.set()
    late.join(5)
    assert not late.is_alive()
