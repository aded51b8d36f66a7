"""What was looked at is what is used: a place counts as a model only in the versions that were read and digested."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hubdist.client.local import LocalBackend
from hubdist.client.read_modes import Reader
from hubdist.cluster.agent.agent import NodeAgent
from hubdist.cluster.coordinator.concurrency import BlockingWork
from hubdist.cluster.coordinator.driver_snapshots import DriverSnapshots
from hubdist.cluster.coordinator.job_pins import JobPins, PinRequest
from hubdist.cluster.coordinator.job_scope import JobScope
from hubdist.config.schema import Config
from hubdist.delivery.routes import Route
from hubdist.errors import ConfigError, DigestMismatchError, ModelNotFoundError
from hubdist.loading import InPlaceModel
from hubdist.model.chunks import Chunk
from hubdist.model.handle import parse_handle
from hubdist.model.manifest import Digest, EntryDigester, Manifest
from hubdist.remote import StoredFile
from hubdist.remote.copy_reader import copy_remote
from hubdist.remote.snapshot_copy import ProvenCopies, RemoteCopy, list_copy
from hubdist.resolver.direct_source import direct_url
from hubdist.resolver.resolver import Resolver
from hubdist.resolver.values import CallOptions, NodeRead, ReadSources
from hubdist.store.store import Store
from hubdist.system.deadline import Deadlines
from hubdist.testing.hub import LoopbackHub
from tests.support.gcs import FakeGcs
from tests.support.places import Place, put_all

BUCKET = "proven"
OLD = {"saved_model.pb": b"old model", "variables/data": b"1.0" * 1000}
NEW = {"saved_model.pb": b"new model", "variables/data": b"7.0" * 1000}
"""Another model, with equal names and sizes."""

CONFIG = Config(origin_retries=0, stall_timeout_s=20)


def manifest_of(files: dict[str, bytes]) -> Manifest:
    entries = []
    for path, data in files.items():
        digester = EntryDigester(path)
        digester.update(data)
        entries.append(digester.entry())
    return Manifest.of(entries)


def write_model(root: Path, files: dict[str, bytes]) -> Path:
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


@pytest.fixture
def proven(tmp_path: Path) -> ProvenCopies:
    (tmp_path / "pins").mkdir()
    return ProvenCopies(tmp_path / "pins" / "places")


# Notes


URL = "gs://user:hunter2@bucket/model?token=hunter2"
COPY = RemoteCopy(URL, {path: StoredFile(len(data), f"v-{path}") for path, data in OLD.items()})


def test_what_was_read_is_known_also_to_the_next_job(proven: ProvenCopies, tmp_path: Path) -> None:
    assert proven.find(manifest_of(OLD).digest, URL) is None
    proven.keep(manifest_of(OLD), COPY)
    for each in (proven, ProvenCopies(tmp_path / "pins" / "places")):
        assert each.find(manifest_of(OLD).digest, URL) == dataclasses.replace(COPY, digested=True)
        assert each.find(manifest_of(NEW).digest, URL) is None
        assert each.find(manifest_of(OLD).digest, f"{URL}/other") is None


def test_a_place_is_known_for_its_last_model_only(proven: ProvenCopies, tmp_path: Path) -> None:
    proven.keep(manifest_of(OLD), COPY)
    proven.keep(manifest_of(NEW), COPY)
    for each in (proven, ProvenCopies(tmp_path / "pins" / "places")):
        assert each.find(manifest_of(OLD).digest, URL) is None
        assert each.find(manifest_of(NEW).digest, URL) is not None


def test_no_note_holds_a_secret(proven: ProvenCopies, tmp_path: Path) -> None:
    proven.keep(manifest_of(OLD), COPY)
    (note,) = (tmp_path / "pins" / "places").iterdir()
    assert "hunter2" not in note.name + note.read_text()


@pytest.mark.parametrize(
    "files",
    [
        {**COPY.files, "more": StoredFile(1, "v")},
        {"saved_model.pb": COPY.files["saved_model.pb"]},
        {**COPY.files, "saved_model.pb": StoredFile(10, "v")},
        {**COPY.files, "saved_model.pb": StoredFile(9, "")},
    ],
    ids=["more", "less", "longer", "without a version"],
)
def test_a_listing_that_tells_nothing_is_not_kept(proven: ProvenCopies, files: dict[str, StoredFile]) -> None:
    proven.keep(manifest_of(OLD), RemoteCopy(URL, files))
    assert proven.find(manifest_of(OLD).digest, URL) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"hubdist_place": 1}', b'{"hubdist_place": 2}', b"\xff"])
def test_a_damaged_note_is_none(proven: ProvenCopies, tmp_path: Path, content: bytes) -> None:
    proven.keep(manifest_of(OLD), COPY)
    (note,) = (tmp_path / "pins" / "places").iterdir()
    note.write_bytes(content)
    assert ProvenCopies(tmp_path / "pins" / "places").find(manifest_of(OLD).digest, URL) is None


def test_what_cannot_be_noted_is_known_in_this_process(tmp_path: Path) -> None:
    (tmp_path / "pins").write_bytes(b"in the way")
    proven = ProvenCopies(tmp_path / "pins" / "places")
    proven.keep(manifest_of(OLD), COPY)
    assert proven.find(manifest_of(OLD).digest, URL) is not None


# Versions


def keep_times(path: Path, change: Callable[[], object]) -> None:
    before = path.stat()
    change()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def overwrite(root: Path) -> None:
    file = root / "variables/data"
    keep_times(file, lambda: file.write_bytes(NEW["variables/data"]))


def exchange(root: Path) -> None:
    file = root / "variables/data"
    (root / "new").write_bytes(NEW["variables/data"])
    keep_times(file, lambda: (root / "new").rename(file))


CHANGES = {
    "replaced": lambda root: write_model(root, NEW),
    "overwritten, with its time set back": overwrite,
    "exchanged, with its time set back": exchange,
    "added": lambda root: (root / "more").write_bytes(b""),
    "removed": lambda root: (root / "saved_model.pb").unlink(),
}


class Jobs:
    """Jobs on one node, one after the other: each has a resolver of its own."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root / "store")

    def resolver(self, **settings: Any) -> Resolver:
        return Resolver(Config(origin_retries=0, **settings), self.store, None)

    def copy(self, handle: str, **settings: Any) -> tuple[Digest, RemoteCopy]:
        """Resolve a handle in a new job; what it is, and the place that it names."""
        resolver = self.resolver(**settings)
        parsed = resolver.parse(handle)
        url = resolver.direct.find(parsed, wanted=True)
        assert url is not None
        found = resolver.find_or_read(parsed)
        copy = resolver.direct.copy_of(url, found.manifest)
        assert copy is not None
        return found.digest, copy


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path)


def test_a_place_is_the_model_that_was_read_there(place: Place, jobs: Jobs) -> None:
    put_all(place, "model", OLD)
    digest, copy = jobs.copy(f"{place.url}/model")
    assert digest == manifest_of(OLD).digest
    assert copy.digested


def test_a_place_that_changed_is_not_the_pinned_model(place: Place, jobs: Jobs) -> None:
    put_all(place, "model", OLD)
    handle = f"{place.url}/model"
    digest, _ = jobs.copy(handle)
    pinned = {"models": ({"handle": handle, "digest": str(digest)},), "frozen": True}
    assert jobs.copy(handle, **pinned)[1].digested  # a later job, which finds the model in the store
    put_all(place, "model", NEW)
    again, copy = jobs.copy(handle, **pinned)
    assert again == digest
    assert not copy.digested


def test_a_place_that_nobody_has_read_is_not_the_model_that_the_store_has(place: Place, jobs: Jobs) -> None:
    put_all(place, "read", OLD)
    put_all(place, "other", NEW)
    digest, _ = jobs.copy(f"{place.url}/read")
    handle = f"{place.url}/other"
    found, copy = jobs.copy(handle, models=({"handle": handle, "digest": str(digest)},))
    assert found == digest
    assert not copy.digested


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_change_of_a_directory_is_seen(jobs: Jobs, tmp_path: Path, change: Callable[[Path], object]) -> None:
    model = write_model(tmp_path / "model", OLD)
    digest, copy = jobs.copy(str(model))
    assert copy.digested
    change(model)
    found, copy = jobs.copy(str(model), models=({"handle": str(model), "digest": str(digest)},))
    assert found == digest
    assert not copy.digested


def test_a_directory_that_changes_right_after_it_was_read_is_not_the_model(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path / "model", OLD)
    publish = Store.publish

    def publish_and_change(self: Store, stage: Any) -> Any:
        overwrite(model)
        return publish(self, stage)

    monkeypatch.setattr(Store, "publish", publish_and_change)
    digest, copy = jobs.copy(str(model))
    assert digest == manifest_of(OLD).digest
    assert not copy.digested
    assert not (jobs.store.root / "pins" / "places").exists()


def test_a_directory_that_only_nodes_may_list_is_what_it_was(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path / "model", OLD)
    _, before = jobs.copy(str(model))

    def refuse(url: str, deadlines: Deadlines, *, max_bytes: int | None) -> RemoteCopy:
        raise ModelNotFoundError(f"{url} {deadlines.retries} {max_bytes}")

    monkeypatch.setattr("hubdist.resolver.direct_source.list_copy", refuse)
    digest = manifest_of(OLD).digest
    assert jobs.copy(str(model), models=({"handle": str(model), "digest": str(digest)},))[1] == before


def test_a_directory_of_tensorflow_hub_counts_only_if_it_was_read(jobs: Jobs, tmp_path: Path) -> None:
    with LoopbackHub() as hub:
        handle = hub.add_model("google/words/1", OLD)
        folder = tmp_path / "cache" / hashlib.sha1(handle.encode(), usedforsecurity=False).hexdigest()
        write_model(folder, NEW)
        settings = {"shared_cache": str(tmp_path / "cache"), "lock_file": str(tmp_path / "hubdist.lock")}
        read = jobs.resolver(**settings)
        found = read.find_or_read(read.parse(handle))
        assert found.shared is not None
        assert (found.digest, found.shared.url) == (manifest_of(NEW).digest, str(folder))
        assert found.shared.digested
        overwrite(write_model(folder, OLD))
        again = jobs.resolver(**settings)
        after = again.find_or_read(again.parse(handle))
        assert after.digest == found.digest
        assert after.shared is not None
        assert after.shared.url == f"{tmp_path}/cache/snapshots/{found.digest.value}"
        assert list_copy(after.shared.url, CONFIG.deadlines).fits(found.manifest)


# Reading in place


def no_chunks(manifest: Manifest, chunk: Chunk) -> Any:
    raise AssertionError((manifest, chunk))


def access(copy: RemoteCopy, files: dict[str, bytes]) -> ReadSources:
    return ReadSources.ordered(manifest_of(files), {Route.DIRECT: copy}, None)


def opened(place: InPlaceModel) -> dict[str, bytes]:
    root = Path(place.path)
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def listed(root: Path) -> RemoteCopy:
    return dataclasses.replace(list_copy(str(root), CONFIG.deadlines), digested=True)


def test_a_directory_of_the_driver_is_opened_by_its_node(tmp_path: Path) -> None:
    copy = listed(write_model(tmp_path / "model", OLD))
    assert Reader(CONFIG, no_chunks, lambda: True).in_place(access(copy, OLD), opened) == OLD


@pytest.mark.parametrize("sees_drivers_disk", [True, False])
def test_a_directory_that_nobody_has_digested_is_not_opened(tmp_path: Path, sees_drivers_disk: bool) -> None:
    copy = list_copy(str(write_model(tmp_path / "model", OLD)), CONFIG.deadlines)
    reader = Reader(CONFIG, no_chunks, lambda: sees_drivers_disk)
    assert reader.in_place(access(copy, OLD), opened) is None


def test_another_node_opens_only_what_it_has_digested_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, sizes and times may be equal by chance, or where file systems make times up."""
    reads: list[str] = []

    def counted(copy: RemoteCopy, *args: Any, **options: Any) -> int:
        reads.append(copy.url)
        return copy_remote(copy, *args, **options)

    monkeypatch.setattr("hubdist.client.read_modes.copy_remote", counted)
    reader = Reader(CONFIG, no_chunks, lambda: False)
    wrong = listed(write_model(tmp_path / "wrong", NEW))
    assert reader.in_place(access(wrong, OLD), opened) is None
    right = listed(write_model(tmp_path / "right", OLD))
    for _ in range(3):
        assert reader.in_place(access(right, OLD), opened) == OLD
    assert reads == [wrong.url, right.url]
    overwrite(tmp_path / "right")
    assert reader.in_place(access(right, OLD), opened) is None


def test_what_changes_while_it_is_opened_is_not_taken(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", OLD)

    def open_and_change(place: InPlaceModel) -> dict[str, bytes]:
        overwrite(model)
        return opened(place)

    reader = Reader(CONFIG, no_chunks, lambda: True)
    assert reader.in_place(access(listed(model), OLD), open_and_change) is None


def test_without_a_place_it_is_an_error() -> None:
    with pytest.raises(ConfigError, match="this model has none"):
        Reader(CONFIG, no_chunks, lambda: True).in_place(ReadSources(manifest_of(OLD), ((Route.DRIVER, None),)), opened)


def test_a_frozen_job_without_ray_opens_the_pinned_model_or_nothing(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", OLD)
    settings = {"store": str(tmp_path / "store"), "lock_file": str(tmp_path / "hubdist.lock")}
    for frozen in (False, True):
        way = LocalBackend(Config(**settings, frozen=frozen), tmp_path)
        pin = way.pin(str(model), CallOptions())
        reader = Reader(CONFIG, way.read, lambda: True)
        assert reader.in_place(way.access(pin), opened) == (None if frozen else OLD)
        with way.locate(pin) as snapshot:
            assert opened(InPlaceModel(str(snapshot.path), snapshot.manifest)) == OLD
        overwrite(model)


# Paths are the driver's


@dataclasses.dataclass
class Node:
    """Another node, with a directory of its own at the driver's path."""

    root: Path
    read: int = 0

    async def __call__(self, url: str) -> NodeRead:
        self.read += 1
        manifest, copy = NodeAgent(Config(store=str(self.root / "store")).node_settings, "node").read_directory(
            str(self.root / Path(url).name), keep=False
        )
        return NodeRead(manifest, dataclasses.replace(copy, url=url), "node")


@contextlib.contextmanager
def job_pins(root: Path, **settings: Any) -> Iterator[JobPins]:
    """The pins of a job, whose threads end with the block."""
    store = Store(root / "store")
    work = BlockingWork()
    scope = JobScope(store.root / "pins", "session_1")
    try:
        yield JobPins(Resolver(Config(**settings), store, None), scope, DriverSnapshots(store, work), work)
    finally:
        work.close()


@pytest.mark.parametrize("route", [None, Route.DIRECT])
def test_a_path_is_the_drivers_whichever_node_asks(tmp_path: Path, route: Route | None) -> None:
    node = Node(tmp_path / "node")
    write_model(node.root / "model", NEW)
    model = write_model(tmp_path / "driver" / "model", OLD)
    lock = tmp_path / "hubdist.lock"

    async def job() -> None:
        with job_pins(tmp_path, lock_file=str(lock)) as pins:
            request = PinRequest(parse_handle(str(model)), route, node)
            pinned = await pins.pin_once(request)
            assert pinned.manifest == manifest_of(OLD)
            overwrite(model)
            with pytest.raises(DigestMismatchError):
                await pins.refresh(request)

    asyncio.run(job())
    assert str(manifest_of(OLD).digest) in lock.read_text()
    assert node.read == 0


@pytest.mark.parametrize("route", [None, Route.DIRECT])
def test_a_path_that_the_driver_lacks_is_an_error_even_if_a_node_has_it(tmp_path: Path, route: Route | None) -> None:
    node = Node(tmp_path / "node")
    write_model(node.root / "model", NEW)

    async def job() -> None:
        with job_pins(tmp_path) as pins:
            handle = parse_handle(str(tmp_path / "driver" / "model"))
            with pytest.raises(ModelNotFoundError, match="does not exist on the coordinator's node"):
                await pins.pin_once(PinRequest(handle, route, node))

    asyncio.run(job())
    assert node.read == 0


def test_a_bucket_is_read_by_the_node_that_asks(server: FakeGcs, tmp_path: Path) -> None:
    server.put_all(BUCKET, "bucket", OLD)

    async def read(url: str) -> NodeRead:
        manifest, copy = NodeAgent(Config(store=str(tmp_path / "node")).node_settings, "node").read_directory(
            url, keep=False
        )
        return NodeRead(manifest, copy, "node")

    async def job() -> RemoteCopy | None:
        with job_pins(tmp_path) as pins:
            pinned = await pins.pin_once(PinRequest(parse_handle("gs://proven/bucket"), None, read))
            assert pinned.report.source == "origin, by node"
            return pinned.direct

    first = asyncio.run(job())
    assert first is not None
    assert first.digested


def test_a_path_where_nothing_is_names_no_directory(tmp_path: Path) -> None:
    for ask in (True, False):
        assert direct_url(parse_handle(str(tmp_path / "none")), CONFIG.deadlines, ask_hub=ask) is None
