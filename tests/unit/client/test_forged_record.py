"""A record in the shared cache proves digests of whole files only: forged digests of blocks must not let others in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hubdist.client.read_modes import Reader
from hubdist.config.schema import Config
from hubdist.delivery.routes import Route
from hubdist.errors import DigestMismatchError
from hubdist.model.chunks import cut_chunks
from hubdist.model.manifest import EntryDigester, Manifest
from hubdist.remote.snapshot_copy import list_copy
from hubdist.resolver.resolver import Resolver
from hubdist.resolver.values import ReadSources
from hubdist.shared_cache.cache import SharedCache, SharedSnapshot
from hubdist.store.snapshot import Snapshot
from hubdist.store.store import Store
from hubdist.testing.hub import LoopbackHub

FILES = {"saved_model.pb": b"graph", "weights.bin": bytes(range(256)) * 10_000}
FORGED = FILES["weights.bin"][:-1] + b"!"


def forge(cache: Path, config: Config, digest: str) -> None:
    """Replace a file by one of its size, and make the record fit it as far as its digest lets that be."""
    (cache / "snapshots" / digest / "weights.bin").write_bytes(FORGED)
    record = cache / "snapshots" / f"{digest}.json"
    document = json.loads(record.read_bytes())
    manifest = json.loads(document["manifest"])
    digester = EntryDigester("weights.bin")
    digester.update(FORGED)
    manifest["files"][1]["blocks"] = digester.entry().block_digests.hex()
    document["manifest"] = json.dumps(manifest)
    copy = list_copy(str(cache / "snapshots" / digest), config.deadlines)
    document["versions"] = {path: file.version for path, file in copy.files.items()}
    record.write_text(json.dumps(document))


@pytest.fixture
def forged(tmp_path: Path, hub: LoopbackHub) -> tuple[Config, str, SharedSnapshot]:
    """Settings, handle and what the cache says after a job has filled it and somebody has forged it."""
    config = Config(shared_cache=str(tmp_path / "cache"), origin_retries=0)
    handle = hub.add_model("m/1", FILES)
    resolver = Resolver(config, Store(tmp_path / "first"), None)
    digest = resolver.find_or_read(resolver.parse(handle)).digest
    forge(tmp_path / "cache", config, digest.value)
    found = SharedCache(str(tmp_path / "cache"), config.deadlines, in_flight_bytes=config.max_in_flight_bytes).find(
        digest
    )
    assert found is not None  # the record is whole by itself
    assert found.manifest.digest == digest
    return config, handle, found


def test_a_driver_refuses_it_and_reads_the_origin(
    forged: tuple[Config, str, SharedSnapshot], hub: LoopbackHub, tmp_path: Path
) -> None:
    config, text, _ = forged
    resolver = Resolver(config, Store(tmp_path / "second"), None)
    handle = resolver.parse(text)
    resolution = resolver.find_or_read(handle)
    assert resolution.source == "shared cache"
    snapshot, restored = resolver.restore([resolution])
    assert (snapshot.path / "weights.bin").read_bytes() == FILES["weights.bin"]
    assert restored.origin_reads == 1
    assert hub.reads(text) == 2


def test_a_process_that_loads_into_memory_refuses_it(
    forged: tuple[Config, str, SharedSnapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _, found = forged
    taken: list[bytes] = []

    class Memory:
        def __init__(self, manifest: Manifest) -> None:
            self.write_chunk = lambda _, data: taken.append(bytes(data))

        def finish(self) -> None: ...
        def release(self) -> None: ...

    monkeypatch.setattr("hubdist.client.read_modes.RamModel", Memory)

    def fetch(*_: object) -> memoryview:
        raise DigestMismatchError("the driver was asked", expected="", actual="")

    access = ReadSources(found.manifest, ((Route.SHARED, found.copy), (Route.DRIVER, None)))
    with pytest.raises(DigestMismatchError, match="the driver was asked"):
        Reader(config, fetch, lambda: False).to_memory(access, None)


def test_whoever_fills_next_mends_it(forged: tuple[Config, str, SharedSnapshot], tmp_path: Path) -> None:
    config, _, found = forged
    with Store(tmp_path / "first").find(found.manifest.digest) or pytest.fail("lost") as snapshot:
        assert isinstance(snapshot, Snapshot)
        filled = SharedCache(
            str(tmp_path / "cache"), config.deadlines, in_flight_bytes=config.max_in_flight_bytes
        ).fill(snapshot, None)
    weights = tmp_path / "cache" / "snapshots" / found.manifest.digest.value / "weights.bin"
    assert weights.read_bytes() == FILES["weights.bin"]
    assert filled.manifest == snapshot.manifest
    assert len(cut_chunks(filled.manifest, 1 << 20)) == len(cut_chunks(snapshot.manifest, 1 << 20))
