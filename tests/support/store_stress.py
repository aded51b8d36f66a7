"""Many processes publish, find and evict in one store under a tight limit; prints what went wrong: nothing may.

    python -m tests.support.store_stress --processes 16 --operations 20000 --locks nfs

Each process keeps some snapshots in use, and reads them again and again: nobody may evict those. File systems with
other locks are simulated by `flock`: `none` gives every lock, `refused` none, and `nfs` an exclusive one only to
descriptors that are open for writing, and a shared one only to those that are open for reading. Exit status 1:
something went wrong.
"""

from __future__ import annotations

import argparse
import collections
import errno
import fcntl
import hashlib
import logging
import multiprocessing
import os
import random
import sys
import tempfile
import traceback
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from hubdist.errors import HubdistError
from hubdist.model.manifest import Digest, EntryDigester, Manifest
from hubdist.store.snapshot import Snapshot
from hubdist.store.store import Store
from hubdist.system.directories import remove_tree

LOCKS = ("kernel", "none", "refused", "nfs")
MODELS = 12
SIZE = 64_000
MAX_BYTES = 200_000
"""Three models."""

_HELD = 2
_flock = fcntl.flock


def content(number: int) -> bytes:
    """The bytes of a model."""
    return hashlib.sha256(b"%d" % number).digest() * (SIZE // 32)


def simulate(locks: str) -> None:
    """Let this process see another kind of locks."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    def as_nfs(descriptor: int, operation: int) -> None:
        mode = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
        if (operation & fcntl.LOCK_EX and mode == os.O_RDONLY) or (operation & fcntl.LOCK_SH and mode == os.O_WRONLY):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        _flock(descriptor, operation)

    simulated = {"kernel": _flock, "none": lambda *_: None, "refused": refuse, "nfs": as_nfs}
    fcntl.flock = simulated[locks]  # type: ignore[assignment]


class _Quarantined(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Count what is taken for damaged."""
        self.count += "was damaged" in record.getMessage()


class _Worker:
    def __init__(self, root: Path, digests: list[Digest], seed: int) -> None:
        self.root = root
        self.digests = digests
        self.random = random.Random(seed)
        self.said: collections.Counter[str] = collections.Counter()
        self.held: list[tuple[Snapshot, int]] = []

    def work(self, operations: int) -> None:
        """Do so many operations, and look at what is in use after each."""
        for _ in range(operations):
            number = self.random.randrange(MODELS)
            self.random.choice((self.publish, self.find, self.evict))(number)
            if self.held:
                self.check(*self.random.choice(self.held))
            while len(self.held) > self.random.randrange(_HELD + 1):
                self.held.pop(0)[0].release()
        for snapshot, number in self.held:
            self.check(snapshot, number)
            snapshot.release()

    def publish(self, number: int) -> None:
        store = Store(self.root, max_bytes=MAX_BYTES)
        try:
            with store.stage() as stage:
                with stage.open_file("saved_model.pb") as file:
                    file.write(content(number))
                self.held.append((store.publish(stage), number))
            self.said["published"] += 1
        except HubdistError as error:
            self.said["publishes failed"] += 1
            print(f"{type(error).__name__}: {error}\n{traceback.format_exc()}", file=sys.stderr)

    def find(self, number: int) -> None:
        found = Store(self.root).find(self.digests[number])
        self.said["found" if found else "not found"] += 1
        if found:
            self.held.append((found, number))

    def evict(self, number: int) -> None:
        self.said["evicted" if Store(self.root).evict(self.digests[number]) else "not evicted"] += 1

    def check(self, snapshot: Snapshot, number: int) -> None:
        try:
            right = (snapshot.path / "saved_model.pb").read_bytes() == content(number)
        except FileNotFoundError:
            right = False
        if not right:
            self.said["evicted in use"] += 1


def _run(root: Path, locks: str, operations: int, seed: int, queue: SimpleQueue[collections.Counter[str]]) -> None:
    simulate(locks)
    quarantined = _Quarantined()
    logging.getLogger("hubdist").addHandler(quarantined)
    worker = _Worker(root, _digests(), seed)
    try:
        worker.work(operations)
    except HubdistError as error:
        worker.said[f"failed: {type(error).__name__}"] += 1
        print(f"{error}\n{traceback.format_exc()}", file=sys.stderr)
    worker.said["quarantined"] += quarantined.count
    queue.put(worker.said)


def _digests() -> list[Digest]:
    """The digest of each model."""
    digests = []
    for number in range(MODELS):
        digester = EntryDigester("saved_model.pb")
        digester.update(content(number))
        digests.append(Manifest.of([digester.entry()]).digest)
    return digests


def stress(root: Path, *, processes: int, operations: int, locks: str) -> collections.Counter[str]:
    """Run the operations, shared among the processes; what came of them, by name.

    Args:
        root: The store.
        processes: How many.
        operations: Of all processes together.
        locks: One of `LOCKS`.
    """
    context = multiprocessing.get_context("spawn")
    queue: SimpleQueue[collections.Counter[str]] = context.SimpleQueue()
    share = -(-operations // processes)
    running = [context.Process(target=_run, args=(root, locks, share, seed, queue)) for seed in range(processes)]
    for process in running:
        process.start()
    said: collections.Counter[str] = sum((queue.get() for _ in running), collections.Counter())
    for process in running:
        process.join(60)
    simulate(locks)
    try:
        Store(root).sweep()
    finally:
        simulate("kernel")
    said["stages left"] = len(list((root / "staging").iterdir()))
    return said


def wrong(said: collections.Counter[str]) -> dict[str, int]:
    """What must not have happened, but did."""
    bad = ("publishes failed", "evicted in use", "quarantined", "stages left")
    return {name: count for name, count in said.items() if count and (name in bad or name.startswith("failed"))}


def main() -> None:
    """Run as the arguments say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--operations", type=int, default=20_000)
    parser.add_argument("--locks", choices=LOCKS, default="kernel")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "store"
        said = stress(root, processes=arguments.processes, operations=arguments.operations, locks=arguments.locks)
        remove_tree(root)
    print(f"locks {arguments.locks}: {dict(sorted(said.items()))}; wrong: {wrong(said) or 'nothing'}")
    sys.exit(bool(wrong(said)))


if __name__ == "__main__":
    main()
