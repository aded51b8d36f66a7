"""A filler is killed at each of its requests; the next cluster takes over and finishes, and nothing is wrong."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import pytest

from hubdist.model.manifest import Digest
from hubdist.shared_cache.lease import LeaseTimes
from tests.support.gcs import FakeGcs
from tests.support.gcs_proxy import GcsProxy
from tests.support.places import GcsPlace
from tests.support.shared_cache_filler_process import fill
from tests.support.shared_cache_fillers import Filler, cache_at, check_filled, filler, publish, read_back

BUCKET = "killed"
FILES = {"saved_model.pb": os.urandom(70_000), "assets/words.txt": b"one\ntwo\n", "assets/empty": b""}
AT_ONCE = 3
REAL = 4
"""So many of the killed fillers are followed with the real times of the lease."""


@pytest.fixture(scope="module")
def fillers() -> Iterator[SimpleQueue[Filler]]:
    free: SimpleQueue[Filler] = SimpleQueue()
    with filler() as first, filler() as second, filler() as third:
        for one in (first, second, third):
            free.put(one)
        yield free


def kill_at(
    server: FakeGcs, fillers: SimpleQueue[Filler], store: Path, digest: Digest, number: int, when: str
) -> tuple[GcsPlace, int, int]:
    """Let a filler run until its request `number`; the place, its exit status, and how many requests it made."""
    place = GcsPlace(server, BUCKET, f"{when}-{number}")
    pid: Future[int] = Future()

    def kill(count: int, moment: str, request: str) -> None:
        if (count, moment) == (number, when):
            os.kill(pid.result(20), signal.SIGKILL)

    one = fillers.get(timeout=60)
    try:
        with GcsProxy(server.url, kill) as proxy:
            status = one.fill(proxy.url, place, store, digest, pid.set_result)
            return place, status, proxy.count
    finally:
        fillers.put(one)


def follow(place: GcsPlace, store: Path, digest: Digest, times: LeaseTimes | None = None) -> float:
    """Be the next cluster; seconds until the snapshot was there."""
    cache = cache_at(place)
    found = cache.find(digest)
    assert found is None or read_back(found) == FILES
    begin = time.monotonic()
    assert read_back(fill(place.url, store, digest, times or LeaseTimes())) == FILES
    return time.monotonic() - begin


def test_killed_at_each_request_the_next_cluster_finishes(
    server: FakeGcs, fillers: SimpleQueue[Filler], tmp_path: Path
) -> None:
    digest = publish(tmp_path / "store", FILES)
    store = tmp_path / "store"
    _, status, requests = kill_at(server, fillers, store, digest, 0, "never")
    assert status == 0
    assert requests > 12
    occasions = [(number, when) for number in range(1, requests + 1) for when in ("before", "after")]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        killed = list(pool.map(lambda one: kill_at(server, fillers, store, digest, *one), occasions))
    died = [place for place, status, _ in killed if status == -signal.SIGKILL]
    assert len(died) > 0.8 * len(occasions)
    holding = [place for place in died if any(path.startswith("leases/") for path in place.files())]
    assert len(holding) > REAL
    real = holding[:: len(holding) // REAL][:REAL]
    with ThreadPoolExecutor(REAL) as pool:
        took = list(pool.map(lambda place: follow(place, store, digest), real))
    assert max(took) < 15
    quick = LeaseTimes(beat_s=0.1, stale_s=0.5, poll_s=0.1)
    rest = [place for place in died if place not in real]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert max(pool.map(lambda place: follow(place, store, digest, quick), rest)) < 15
    for place in died:
        check_filled(place, digest, FILES)
