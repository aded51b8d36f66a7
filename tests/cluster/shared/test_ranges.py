"""Ranges by `hubdist://` where there is a bucket: from the shared cache there, and of directories in it."""

from __future__ import annotations

import os
from typing import Any

import pytest
import ray

import hubdist
from hubdist.testing.cluster import RayCluster
from hubdist.testing.hub import LoopbackHub
from tests.cluster.shared.conftest import REQUESTS
from tests.support.gcs import FakeGcs

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

MIB = 1 << 20


@ray.remote(max_retries=0)
def read_range(handle: str, start: int, end: int) -> tuple[bytes, int]:
    """The range, and the bytes that came from elsewhere than the node's store."""
    from hubdist.integrations.fsspec import HubdistFileSystem

    fs = HubdistFileSystem()
    before = fs.received_bytes
    return fs.cat_file(f"{handle}!/weights.bin", start, end), fs.received_bytes - before


def on_worker(cluster: RayCluster, *asked: Any) -> tuple[bytes, int]:
    found: tuple[bytes, int] = ray.get(
        read_range.options(**cluster.on(cluster.node_ids[1])).remote(*asked), timeout=100
    )
    return found


def reads_of(folder: str) -> list[str]:
    return [line for line in REQUESTS if line.startswith("GET") and "alt=media" in line and f"{folder}/" in line]


def test_a_range_of_the_shared_cache_is_read_from_the_bucket(
    cluster: RayCluster, gcs: FakeGcs, hub: LoopbackHub
) -> None:
    weights = os.urandom(5 * MIB)
    handle = hub.add_model("ranges/1", {"saved_model.pb": b"ranges", "weights.bin": weights})
    hubdist.init(store=cluster.store, shared_cache="gs://models/ranges-cache")
    hubdist.resolve(handle)  # which fills the shared cache
    before = len(reads_of("ranges-cache"))
    assert on_worker(cluster, handle, MIB + 1, 2 * MIB) == (weights[MIB + 1 : 2 * MIB], MIB)
    (read,) = [line for line in reads_of("ranges-cache")[before:] if "/weights.bin?" in line]
    assert read


def test_a_node_that_asks_for_a_range_reads_nothing_of_a_directory_itself(cluster: RayCluster, gcs: FakeGcs) -> None:
    weights = os.urandom(5 * MIB)
    gcs.put_all("models", "ranges-directory", {"saved_model.pb": b"directory", "weights.bin": weights})
    hubdist.init(store=cluster.store)
    assert on_worker(cluster, "gs://models/ranges-directory", 0, 10) == (weights[:10], MIB)
    (pin,) = hubdist.status().pins
    assert (pin.source, pin.origin_reads) == ("origin", 1)  # by the driver's node
