"""Fixtures for tests that must hold on every storage: a real fake-gcs-server, a mounted directory, fsspec's memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gcs import FakeGcs, fake_gcs
from tests.support.places import GcsPlace, MemoryPlace, MountedPlace, Place


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[FakeGcs]:
    """A storage server for one test module, with the bucket that the module calls `BUCKET`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_GCE_CHECK", "true")  # no test asks whether it runs on Google's machines
        with fake_gcs() as running:
            running.make_bucket(request.module.BUCKET)
            yield running


@pytest.fixture(params=["gs", "mount", "memory"])
def place(request: pytest.FixtureRequest, server: FakeGcs, tmp_path: Path) -> Place:
    """An empty directory of the test's own on each kind of storage."""
    name = hashlib.sha1(request.node.name.encode()).hexdigest()[:12]
    if request.param == "gs":
        return GcsPlace(server, request.module.BUCKET, name)
    return MountedPlace(tmp_path / "mount") if request.param == "mount" else MemoryPlace(name)
