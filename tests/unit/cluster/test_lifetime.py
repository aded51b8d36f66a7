"""How long an actor lives, and what its methods answer with."""

from __future__ import annotations

import asyncio
import threading

import pytest

from hubdist import errors
from hubdist.cluster.coordinator.lifetime import Lifetime, answering


class Actor:
    """Answers in several ways."""

    def __init__(self) -> None:
        self._life = Lifetime()
        self.go_on = asyncio.Event()

    @answering
    async def wait(self) -> str:
        await self.go_on.wait()
        return "done"

    @answering
    async def fail(self, error: Exception) -> None:
        raise error


def test_work_stops_the_clock() -> None:
    async def run() -> None:
        actor = Actor()
        begin = actor._life.idle_s
        await asyncio.sleep(0.05)
        assert actor._life.idle_s >= begin + 0.04
        waiting = asyncio.create_task(actor.wait())
        await asyncio.sleep(0.05)
        assert actor._life.idle_s == 0
        actor.go_on.set()
        assert await waiting == "done"
        assert 0 <= actor._life.idle_s < 60

    asyncio.run(run())


def test_who_was_never_asked_ends_too() -> None:
    ended = threading.Event()
    Lifetime().end_when_idle(lambda _: 0.1, ended.set)
    assert ended.wait(20)


def test_who_works_does_not_end() -> None:
    ended, looked = threading.Event(), threading.Event()
    life = Lifetime()

    def limit_s(idle_s: float) -> float:
        assert idle_s == 0 or released.is_set()
        looked.set()
        return 0.01

    released = threading.Event()
    with life.work():
        life.end_when_idle(limit_s, ended.set)
        assert looked.wait(20)
        assert not ended.wait(1.2)
        released.set()
    assert ended.wait(20)


@pytest.mark.parametrize("error", [ValueError("token=CANARY"), OSError(5, "CANARY"), KeyError("CANARY")])
def test_errors_without_a_type_get_one_and_tell_no_secret(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(errors.PeerError) as caught:
        asyncio.run(Actor().fail(error))
    assert type(error).__name__ in str(caught.value)
    assert "CANARY" not in str(caught.value)
    assert caught.value.__suppress_context__
    assert "in fail" in caplog.text
    assert "CANARY" not in caplog.text


def test_errors_of_hubdist_pass_as_they_are() -> None:
    error = errors.StoreError("no room", path="/store")
    with pytest.raises(errors.StoreError) as caught:
        asyncio.run(Actor().fail(error))
    assert caught.value is error
