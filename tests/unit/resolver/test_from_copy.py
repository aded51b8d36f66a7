"""The driver's store takes from the shared cache only what it lacks."""

from __future__ import annotations

import random
from pathlib import Path

from hubdist.config.schema import Config
from hubdist.model.digest_sink import DigestSink
from hubdist.model.manifest import BLOCK_BYTES
from hubdist.remote.snapshot_copy import ProvenCopies, list_copy
from hubdist.resolver.origin_fetch import Fetcher
from hubdist.shared_cache.best_effort import BestEffortCache
from hubdist.store.store import Store
from tests.support.store_models import publish


def test_blocks_that_an_older_snapshot_has_are_not_read(tmp_path: Path) -> None:
    old = random.Random(1).randbytes(6 * BLOCK_BYTES)
    new = bytearray(old)
    new[2 * BLOCK_BYTES] ^= 1
    sink = DigestSink()
    with sink.open_file("saved_model.pb") as file:
        file.write(bytes(new))
    manifest = sink.finish()
    shared = tmp_path / "shared"
    shared.mkdir()
    only_changed = bytes(2 * BLOCK_BYTES) + new[2 * BLOCK_BYTES : 3 * BLOCK_BYTES] + bytes(3 * BLOCK_BYTES)
    (shared / "saved_model.pb").write_bytes(only_changed)  # whoever reads another block gets wrong bytes
    config, store = Config(), Store(tmp_path / "store")
    proven = ProvenCopies(tmp_path / "notes")
    cache = BestEffortCache(str(tmp_path / "cache"), config.deadlines, proven, in_flight_bytes=4 << 20)
    fetcher = Fetcher(config, store, cache, proven, None)
    copy = list_copy(str(shared), config.deadlines)
    assert fetcher.from_copy(manifest, copy) is None
    publish(store, {"saved_model.pb": old}).release()
    snapshot = fetcher.from_copy(manifest, copy)
    assert snapshot is not None
    with snapshot:
        assert (snapshot.path / "saved_model.pb").read_bytes() == new
