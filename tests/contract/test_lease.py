"""The lease: one owner at a time, taken over soon after its owner's death, never from a living one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from hubdist import errors
from hubdist.remote import open_tree
from hubdist.remote.mounted_tree import MountedTree
from hubdist.shared_cache.lease import LeaseTimes, hold_lease
from hubdist.system.deadline import Deadlines
from tests.support import REPOSITORY
from tests.support.gcs import FakeGcs, gcs_environment
from tests.support.gcs_proxy import GcsProxy
from tests.support.places import GcsPlace, Place

BUCKET = "leases"
DEADLINES = Deadlines(stall_s=20, total_s=60, retries=1)
QUICK = LeaseTimes(beat_s=0.2, stale_s=2.0, poll_s=0.05)


def terms(place: Place) -> dict[str, bytes]:
    return {path: data for path, data in place.files().items() if path.startswith("leases/")}


def test_a_free_lease_is_taken_and_given_back(place: Place) -> None:
    with hold_lease(place.url, "fill-one", DEADLINES, lambda: None) as found:
        assert found is None
        assert set(terms(place)) == {"leases/fill-one/1"}
    assert terms(place) == {}


def test_work_that_is_done_needs_no_lease(place: Place) -> None:
    with hold_lease(place.url, "fill-one", DEADLINES, lambda: "result") as found:
        assert found == "result"
        assert terms(place) == {}


def test_work_that_was_done_just_before_is_not_done_again(place: Place) -> None:
    answers = iter([None, "result"])
    with hold_lease(place.url, "fill-one", DEADLINES, lambda: next(answers)) as found:
        assert found == "result"
    assert terms(place) == {}


def test_the_lease_is_given_back_when_the_work_fails(place: Place) -> None:
    with pytest.raises(ZeroDivisionError), hold_lease(place.url, "fill-one", DEADLINES, lambda: None):
        _ = 1 / 0
    assert terms(place) == {}


def test_a_living_owner_keeps_it(place: Place) -> None:
    owned, looks = threading.Event(), 0

    def look() -> None:
        nonlocal looks
        looks += 1

    def wait_for_it() -> float:
        with hold_lease(place.url, "fill-one", DEADLINES, look, QUICK) as found:
            assert found is None
            assert not owned.is_set()
            return time.monotonic()

    with ThreadPoolExecutor(1) as pool:
        with hold_lease(place.url, "fill-one", DEADLINES, lambda: None, QUICK):
            owned.set()
            begin = time.monotonic()
            waiting = pool.submit(wait_for_it)
            while time.monotonic() - begin < 2 * QUICK.stale_s or looks < 10:
                assert not waiting.done()
                time.sleep(0.05)
            owned.clear()
        assert waiting.result(20) > begin + 2 * QUICK.stale_s
    assert terms(place) == {}


def test_what_the_owner_finished_is_found_by_who_waits(place: Place) -> None:
    done = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        with hold_lease(place.url, "fill-one", DEADLINES, lambda: None, QUICK):

            def wait_for_it() -> str | None:
                with hold_lease(
                    place.url, "fill-one", DEADLINES, lambda: "result" if done.is_set() else None, QUICK
                ) as found:
                    return found

            waiting = pool.submit(wait_for_it)
            done.set()
        assert waiting.result(20) == "result"


def test_of_many_only_one_at_a_time_has_it(place: Place) -> None:
    inside, most = 0, 0
    lock = threading.Lock()

    def work(_: int) -> None:
        nonlocal inside, most
        with hold_lease(place.url, "fill-one", DEADLINES, lambda: None, QUICK):
            with lock:
                inside += 1
                most = max(most, inside)
            with lock:
                inside -= 1

    with ThreadPoolExecutor(6) as pool:
        tuple(pool.map(work, range(6)))
    assert most == 1
    assert terms(place) == {}


def test_of_many_who_wait_for_a_dead_owner_one_takes_over(place: Place) -> None:
    place.put("leases/fill-one/3", b'{"owner": "dead", "beat": 7}')
    place.put("leases/fill-one/2", b'{"owner": "long dead", "beat": 7}')
    done = threading.Event()
    owners = []

    def work(_: int) -> None:
        with hold_lease(place.url, "fill-one", DEADLINES, lambda: done.is_set() or None, QUICK) as found:
            if found is None:
                owners.append(sorted(terms(place)))
                done.set()

    with ThreadPoolExecutor(4) as pool:
        tuple(pool.map(work, range(4)))
    assert len(owners) == 1
    assert owners[0][-1] == "leases/fill-one/4"
    assert terms(place) == {}


def test_an_owner_that_was_overtaken_leaves_the_new_owners_term(place: Place) -> None:
    with hold_lease(place.url, "fill-one", DEADLINES, lambda: None, QUICK):
        place.put("leases/fill-one/2", b'{"owner": "other", "beat": 0}')
    assert set(terms(place)) == {"leases/fill-one/2"}


def test_a_wait_ends_at_its_deadline_and_the_work_is_doubled(place: Place) -> None:
    deadlines = replace(DEADLINES, total_s=0.5)
    with hold_lease(place.url, "fill-one", DEADLINES, lambda: None, QUICK):
        before = time.monotonic()
        with hold_lease(place.url, "fill-one", deadlines, lambda: None, QUICK) as found:
            assert found is None
        assert time.monotonic() - before < 5
        assert set(terms(place)) == {"leases/fill-one/1"}


def test_a_lease_that_was_taken_although_the_answer_was_lost_is_held(server: FakeGcs) -> None:
    place = GcsPlace(server, BUCKET, "lost-answer")
    lost: list[str] = []

    def lose(number: int, when: str, request: str) -> None:
        if when == "after" and request.startswith("POST") and not lost:
            lost.append(request)
            raise ConnectionResetError

    with GcsProxy(server.url, lose) as proxy, gcs_environment(proxy.url):
        begin = time.monotonic()
        with hold_lease(place.url, "fill-one", DEADLINES, lambda: None) as found:
            assert found is None
            assert lost
            assert time.monotonic() - begin < 5
            assert set(terms(place)) == {"leases/fill-one/1"}
        assert terms(place) == {}


def test_without_create_only_writes_there_is_no_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = MountedTree.__init__

    def make(self: MountedTree, root: Path, *, on_driver: bool = False) -> None:
        made(self, root, on_driver=on_driver)
        self.exclusive = False

    monkeypatch.setattr(MountedTree, "__init__", make)
    with hold_lease(str(tmp_path), "fill-one", DEADLINES, lambda: None) as found:
        assert found is None
        assert list(tmp_path.iterdir()) == []


def test_a_directory_that_may_not_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> bool:
        raise errors.AccessDeniedError("no")

    monkeypatch.setattr(MountedTree, "create", refuse)
    with pytest.raises(errors.AccessDeniedError), hold_lease(str(tmp_path), "fill-one", DEADLINES, lambda: None):
        pass


_OWNER = """
import sys
from hubdist.shared_cache.lease import hold_lease
from hubdist.system.deadline import Deadlines
with hold_lease(sys.argv[1], "fill-one", Deadlines(), lambda: None):
    print("owned", flush=True)
    sys.stdin.read()
"""


def test_a_killed_owner_is_followed_within_fifteen_seconds(server: FakeGcs) -> None:
    """With the real times: the owner has shown signs of life, and dies."""
    place = GcsPlace(server, BUCKET, "killed")
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, place.url],
        cwd=REPOSITORY,
        env=dict(os.environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner, ThreadPoolExecutor(1) as pool:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "owned\n"

        def wait_for_it() -> float:
            with hold_lease(place.url, "fill-one", DEADLINES, lambda: None):
                return time.monotonic()

        waiting = pool.submit(wait_for_it)
        with open_tree(place.url, DEADLINES) as tree:
            sign = first = tree.load("leases/fill-one/1")
            for _ in range(100):
                sign = tree.load("leases/fill-one/1")
                if sign != first:
                    break
                time.sleep(0.1)
        assert sign != first
        assert not waiting.done()
        owner.send_signal(signal.SIGKILL)
        died = time.monotonic()
        owner.wait(10)
        assert 5 < waiting.result(30) - died < 15
    assert terms(place) == {}
