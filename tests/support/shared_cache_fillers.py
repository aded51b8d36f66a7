"""What tests of the shared cache have in common: a snapshot to fill in, processes that fill, checks of the result."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from hubdist.model.chunks import Chunk
from hubdist.model.manifest import Digest
from hubdist.remote.copy_reader import copy_remote
from hubdist.shared_cache.cache import SharedCache, SharedSnapshot
from hubdist.store.store import Store
from hubdist.system.deadline import Deadlines
from tests.support import REPOSITORY
from tests.support.places import Place
from tests.support.shared_cache_filler_process import HANDLE

DEADLINES = Deadlines(stall_s=20, retries=1)
IN_FLIGHT = 4 << 20


def publish(root: Path, files: Mapping[str, bytes]) -> Digest:
    """Put a model into a store."""
    store = Store(root)
    with store.stage() as stage:
        for path, data in files.items():
            with stage.open_file(path) as writer:
                writer.write(data)
        with store.publish(stage) as snapshot:
            return snapshot.manifest.digest


def cache_at(place: Place, *, read_only: bool = False) -> SharedCache:
    return SharedCache(place.url, DEADLINES, in_flight_bytes=IN_FLIGHT, read_only=read_only)


def read_back(found: SharedSnapshot) -> dict[str, bytes]:
    """The files of a hit, read as a node reads them, and checked."""
    files = {entry.path: bytearray(entry.size) for entry in found.manifest.entries}

    def take(chunk: Chunk, data: memoryview) -> None:
        for part in chunk.parts(data):
            path = found.manifest.entries[part.piece.entry_index].path
            part.check(path)
            files[path][part.piece.start : part.piece.end] = part.data

    copy_remote(found.copy, found.manifest, take, DEADLINES, in_flight_bytes=IN_FLIGHT)
    return {path: bytes(data) for path, data in files.items()}


def check_filled(place: Place, digest: Digest, files: Mapping[str, bytes]) -> None:
    """The cache holds the snapshot whole, its record and its pointer, and nothing else but leases of dead owners."""
    cache = cache_at(place)
    found = cache.find(digest)
    assert found is not None
    assert found.manifest.digest == digest
    assert read_back(found) == files
    assert cache.find_handle(HANDLE) == digest
    there = place.files()
    folder = f"snapshots/{digest.value}/"
    assert {path.removeprefix(folder): data for path, data in there.items() if path.startswith(folder)} == files
    assert {path for path in there if not path.startswith((folder, "leases/", "uses/"))} == {
        f"snapshots/{digest.value}.json",
        f"handles/{HANDLE.key}.json",
    }


class Filler:
    """A process of `tests.support.shared_cache_filler_process`; one fill at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def fill(self, address: str, place: Place, store: Path, digest: Digest, begun: Callable[[int], object]) -> int:
        """Fill; tell the process id when it begins; return its exit status, negative if a signal ended it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([address, place.url, str(store), str(digest)]), file=self._process.stdin, flush=True)
        begun(int(self._process.stdout.readline()))
        return int(self._process.stdout.readline())


@contextlib.contextmanager
def filler() -> Iterator[Filler]:
    """Start a process that fills."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.shared_cache_filler_process"],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Filler(process)
        finally:
            process.stdin.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
