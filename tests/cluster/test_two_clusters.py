"""Two Ray clusters, each from its own `ray start --head`, that share one bucket."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from hubdist.testing.hub import LoopbackHub
from tests.support.gcs import fake_gcs
from tests.support.gcs_proxy import GcsProxy
from tests.support.ray_head import Head, ray_head

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

FILES = {"saved_model.pb": b"graph" * 1000, "variables.bin": bytes(range(256)) * 20_000, "empty": b""}

_DRIVER = """
import json, os, pathlib, sys, ray, hubdist

ray.init(address=os.environ["HEAD"], log_to_driver=False)

@ray.remote
def read(handle):
    root = pathlib.Path(hubdist.resolve(handle))
    return {str(path.relative_to(root)): len(path.read_bytes()) for path in root.rglob("*") if path.is_file()}

hubdist.init(shared_cache="gs://shared/cache")
files = ray.get(read.remote(sys.argv[1]), timeout=200)
(pin,) = hubdist.status().pins
print(json.dumps({"files": files, "digest": pin.digest, "source": pin.source, "reads": pin.origin_reads}))
"""


def start(head: Head, handle: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _DRIVER, handle],
        env={**head.environment, "HEAD": head.address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(driver: subprocess.Popen[str]) -> dict[str, Any]:
    said, errors = driver.communicate(timeout=240)
    assert driver.returncode == 0, errors
    return dict(json.loads(said.splitlines()[-1]))


SIZES = {path: len(data) for path, data in FILES.items()}


class Waiting:
    """Notices when a cluster whose requests it sees waits for another one's lease."""

    def __init__(self) -> None:
        self._looks = 0
        self.event = threading.Event()

    def __call__(self, _number: int, when: str, request: str) -> None:
        self._looks += when == "after" and "leases" in unquote(request)
        if self._looks >= 6:  # not its first look: it looks again and again
            self.event.set()


@pytest.fixture
def heads(tmp_path: Path) -> Iterator[Callable[[], contextlib.AbstractContextManager[tuple[Head, threading.Event]]]]:
    """Starts a cluster that shares a bucket with the others; with it comes an event that it waits for a lease."""
    with fake_gcs() as gcs:
        gcs.make_bucket("shared")

        @contextlib.contextmanager
        def start_head() -> Iterator[tuple[Head, threading.Event]]:
            folder = Path(tempfile.mkdtemp(dir=tmp_path))
            (folder / "cache").mkdir(mode=0o700)
            waiting = Waiting()
            with (
                GcsProxy(gcs.url, waiting) as proxy,
                ray_head(folder, cpus=1, environment={"STORAGE_EMULATOR_HOST": proxy.url}) as head,
            ):
                yield head, waiting.event

        yield start_head


Heads = Callable[[], contextlib.AbstractContextManager[tuple[Head, threading.Event]]]


def test_two_clusters_that_fill_at_once_read_the_origin_once(heads: Heads, hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/two/1", FILES)
    gate = hub.hold(handle)
    with heads() as (first, _), heads() as (second, waiting):
        drivers = [start(first, handle)]
        assert gate.wait_reached(120)
        drivers.append(start(second, handle))
        assert waiting.wait(120)
        gate.set()
        found = [finish(driver) for driver in drivers]
    assert [each["files"] for each in found] == [SIZES, SIZES]
    assert found[0]["digest"] == found[1]["digest"]
    assert [each["source"] for each in found] == ["origin", "shared cache"]
    assert hub.reads(handle) == 1


def test_a_cluster_that_dies_while_it_fills_is_succeeded_by_the_other(heads: Heads, hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/dies/1", FILES)
    gate = hub.hold(handle)
    with heads() as (second, waiting):
        with heads() as (first, _):
            doomed = start(first, handle)
            assert gate.wait_reached(120)
            successor = start(second, handle)
            assert waiting.wait(120)
            doomed.kill()
            doomed.communicate(timeout=30)
            died = time.monotonic()  # and its coordinator with it
        gate.set()
        found = finish(successor)
        took_s = time.monotonic() - died
    assert found["files"] == SIZES
    assert found["source"] == "origin"
    assert hub.reads(handle) == 2
    assert took_s < 30  # 15 s to take over, and the load itself
