"""Processes read models from two stores and a shared cache while others evict, collect and verify.

    python -m tests.support.gc_against_readers --processes 8 --operations 10000

A read takes a model from a store; if the store lacks it, from the shared cache; if the cache lacks it, from an origin,
after which the cache is filled. Every byte that was read is compared. Meanwhile the same processes run what `gc`, `rm`,
`verify`, `keep` and full stores do. Prints what happened, and exits with 1 if a read failed or gave wrong bytes, if a
model that is kept was gone, or if anything was taken for damaged.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import logging
import multiprocessing
import random
import sys
import tempfile
import time
import traceback
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from hubdist.care import collection
from hubdist.care.place import Answers
from hubdist.care.shared_place import SharedPlace
from hubdist.care.verification import verify
from hubdist.errors import HubdistError
from hubdist.model.chunks import Chunk
from hubdist.model.manifest import Digest, EntryDigester, Manifest
from hubdist.remote.copy_reader import copy_remote
from hubdist.shared_cache.cache import SharedCache
from hubdist.store.snapshot import Snapshot
from hubdist.store.store import Store
from hubdist.system.deadline import Deadlines
from hubdist.system.directories import remove_tree

MODELS = 48
SIZE = 64_000
MAX_BYTES = 6 * SIZE
"""Of each store; of the cache, twice as much."""

_DEADLINES = Deadlines(stall_s=20, retries=1)
_NAME = "saved_model.pb"
_OPERATIONS = {"read": 10, "read_in_place": 6, "gc": 2, "rm": 2, "verify": 1, "keep": 1, "gc_shared": 2, "rm_shared": 1}
"""How often each is done, in relation to the others."""


def content(number: int) -> bytes:
    """The bytes of a model."""
    return hashlib.sha256(b"%d" % number).digest() * (SIZE // 32)


def manifest_of(number: int) -> Manifest:
    """The manifest of a model."""
    digester = EntryDigester(_NAME)
    digester.update(content(number))
    return Manifest.of([digester.entry()])


class _Damaged(logging.Handler):
    """Counts what is taken for damaged, and what in the cache differs from its record."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Count a line of the log."""
        self.count += "damaged" in record.getMessage()


class _Worker:
    def __init__(self, root: Path, number: int, processes: int, grace_s: float) -> None:
        self.number = number
        self.processes = processes
        self.random = random.Random(number)
        self.stores = [Store(root / name, max_bytes=MAX_BYTES, low_percent=70) for name in ("first", "second")]
        self.cache = SharedCache(str(root / "cache"), _DEADLINES, in_flight_bytes=4 << 20, grace_s=grace_s)
        self.care = SharedPlace(self.cache, _DEADLINES, None)
        self.manifests = [manifest_of(each) for each in range(MODELS)]
        self.said: collections.Counter[str] = collections.Counter()
        self.kept: tuple[Store, Digest] | None = None

    def work(self, operations: int) -> None:
        names, weights = list(_OPERATIONS), list(_OPERATIONS.values())
        for _ in range(operations):
            name = self.random.choices(names, weights)[0]
            store, number = self.random.choice(self.stores), self.random.randrange(MODELS)
            if name.startswith("read"):  # some models are read all the time, and some hardly ever, so that those go
                number = int(MODELS * self.random.random() ** 3)
            try:
                getattr(self, f"_{name}")(store, number)
                self.said[name] += 1
            except HubdistError as error:
                self.said[f"failed: {name}"] += 1
                print(f"{name}: {type(error).__name__}: {error}\n{traceback.format_exc()}", file=sys.stderr)
            self._check_kept()

    def _read(self, store: Store, number: int) -> None:
        with self._brought(store, number) as snapshot:
            self._compare((snapshot.path / _NAME).read_bytes(), number)

    def _brought(self, store: Store, number: int) -> Snapshot:
        """A model in a store, as hubdist brings it there."""
        manifest = self.manifests[number]
        snapshot = store.find(manifest.digest)
        if snapshot is not None:
            self.said["  from the store"] += 1
            return snapshot
        found = self.cache.find(manifest.digest) if self.cache.admit(manifest.digest) else None
        if found is not None:
            with store.stage_chunks(manifest) as stage:
                copy_remote(found.copy, manifest, stage.write_chunk, _DEADLINES, in_flight_bytes=4 << 20)
                self.said["  from the cache"] += 1
                return store.publish(stage)
        with store.stage() as stream:
            with stream.open_file(_NAME) as file:
                file.write(content(number))
            snapshot = store.publish(stream)
        self.said["  from the origin"] += 1
        try:
            self.cache.fill(snapshot)
        except HubdistError as error:  # it is being removed; the cache is filled another time
            self.said["  not filled"] += 1
            if "being removed" not in str(error):
                raise
        return snapshot

    def _read_in_place(self, _: Store, number: int) -> None:
        """What a node or TensorFlow does with a copy in the cache: announced, listed, and then read for a while."""
        manifest = self.manifests[number]
        if not self.cache.admit(manifest.digest):
            self.said["  refused"] += 1
            return
        found = self.cache.find(manifest.digest)
        if found is None:
            self.said["  not in the cache"] += 1
            return
        time.sleep(self.random.random() * 0.02)
        data = bytearray(SIZE)

        def take(chunk: Chunk, view: memoryview) -> None:
            for part in chunk.parts(view):
                data[part.piece.start : part.piece.end] = part.data

        copy_remote(found.copy, manifest, take, _DEADLINES, in_flight_bytes=4 << 20)
        self._compare(bytes(data), number)

    def _compare(self, data: bytes, number: int) -> None:
        self.said["wrong reads"] += data != content(number)

    def _gc(self, store: Store, number: int) -> None:
        removals = collection.collect(store, max_bytes=self.random.randrange(MAX_BYTES), max_age_s=None)
        self.said["  evicted"] += sum(removal.removed for removal in removals)

    def _rm(self, store: Store, number: int) -> None:
        (removal,) = collection.remove(store, [self.manifests[number].digest])
        self.said["  evicted"] += removal.removed

    def _verify(self, store: Store, number: int) -> None:
        found = verify(store, self.manifests[number].digest, lambda *_: ())
        self.said["found damaged"] += found is not None and bool(found.damage)

    def _keep(self, store: Store, number: int) -> None:
        """Keep one model at a time; nobody else keeps the same one in the same store, so it must stay."""
        if self.kept is not None:
            collection.release(self.kept[0], [self.kept[1]])
            self.kept = None
        digest = self.manifests[number].digest
        mine = self.stores.index(store) * MODELS + number
        if mine % self.processes != self.number:
            return
        if collection.keep(store, [digest]):
            self.kept = store, digest

    def _check_kept(self) -> None:
        if self.kept is not None:
            store, digest = self.kept
            for _ in range(20):  # at the lock of one who looks whether it may go, it seems to be gone for a moment
                snapshot = store.find(digest)
                if snapshot is not None:
                    snapshot.release()
                    return
                time.sleep(0.01)
            self.said["kept and gone"] += 1

    def _gc_shared(self, _: Store, number: int) -> None:
        self._asked(self.care.collect(max_bytes=self.random.randrange(2 * MAX_BYTES), max_age_s=None, dry_run=False))

    def _rm_shared(self, _: Store, number: int) -> None:
        self._asked(self.care.remove([self.manifests[number].digest], dry_run=False))

    def _asked(self, answers: Answers[list[collection.Removal]]) -> None:
        for error in answers.failures.values():
            raise error
        for removals in answers.by_store.values():
            self.said["  marked"] += sum(not removal.removed and bool(removal.why) for removal in removals)
            self.said["  removed from the cache"] += sum(removal.removed for removal in removals)


def _run(
    root: Path,
    operations: int,
    number: int,
    processes: int,
    grace_s: float,
    queue: SimpleQueue[collections.Counter[str]],
) -> None:
    damaged = _Damaged()
    logging.getLogger("hubdist").addHandler(damaged)
    worker = _Worker(root, number, processes, grace_s)
    worker.work(operations)
    worker.said["taken for damaged"] += damaged.count
    queue.put(worker.said)


def stress(root: Path, *, processes: int, operations: int, grace_s: float = 4.0) -> collections.Counter[str]:
    """Run the operations, shared among the processes; what came of them, by name.

    Args:
        root: A directory for the stores and the cache.
        processes: How many.
        operations: Of all processes together.
        grace_s: Seconds between a mark in the cache and the removal; no read may take longer.
    """
    context = multiprocessing.get_context("spawn")
    queue: SimpleQueue[collections.Counter[str]] = context.SimpleQueue()
    share = -(-operations // processes)
    running = [
        context.Process(target=_run, args=(root, share, number, processes, grace_s, queue))
        for number in range(processes)
    ]
    for process in running:
        process.start()
    said: collections.Counter[str] = sum((queue.get() for _ in running), collections.Counter())
    for process in running:
        process.join(60)
    return said


def wrong(said: collections.Counter[str]) -> dict[str, int]:
    """What must not have happened, but did."""
    bad = ("wrong reads", "found damaged", "taken for damaged", "kept and gone")
    return {name: count for name, count in said.items() if count and (name in bad or name.startswith("failed"))}


def main() -> None:
    """Run as the arguments say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--operations", type=int, default=10_000)
    parser.add_argument("--grace", type=float, default=4.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        said = stress(
            Path(folder), processes=arguments.processes, operations=arguments.operations, grace_s=arguments.grace
        )
        seconds = time.monotonic() - begin
        remove_tree(Path(folder))
    for name, count in sorted(said.items()):
        print(f"{name}: {count}")
    print(f"{arguments.operations} operations in {seconds:.0f} s; wrong: {wrong(said) or 'nothing'}")
    sys.exit(bool(wrong(said)))


if __name__ == "__main__":
    main()
