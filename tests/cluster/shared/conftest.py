"""One cluster of three nodes, with a bucket, for all tests in this folder; each test has models of its own."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import unquote

import pytest

from hubdist.testing.cluster import RayCluster
from tests.support.gcs import FakeGcs, fake_gcs, gcs_environment
from tests.support.gcs_proxy import GcsProxy

REQUESTS: list[str] = []
"""The requests that the bucket has answered, in order."""


@pytest.fixture(scope="package")
def gcs() -> Iterator[FakeGcs]:
    """An object storage with the bucket `models`."""

    def note(_: int, when: str, request: str) -> None:
        if when == "after":
            REQUESTS.append(unquote(request))

    with fake_gcs() as server:
        server.make_bucket("models")
        with GcsProxy(server.url, note) as proxy, gcs_environment(proxy.url):
            yield server


@pytest.fixture(scope="package")
def cluster(gcs: FakeGcs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """The cluster; its nodes reach the bucket."""
    with RayCluster(tmp_path_factory.mktemp("cluster"), nodes=3, log_to_driver=False) as running:
        yield running
