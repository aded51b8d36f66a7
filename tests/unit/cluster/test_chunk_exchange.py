"""What an agent keeps for deliveries: nothing when it is told to forget, whatever went wrong before."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from hubdist.cluster.agent.chunk_exchange import ChunkExchange
from hubdist.cluster.agent.chunk_rpc import Sender
from hubdist.cluster.agent.messages import DeliveryTerms
from hubdist.config.schema import Config
from hubdist.errors import HubdistError, IntegrityError, PeerError, StoreError
from hubdist.model.chunks import cut_chunks
from hubdist.model.manifest import Manifest
from hubdist.remote.copy_reader import CopyReader
from hubdist.remote.snapshot_copy import RemoteCopy, list_copy
from hubdist.store.chunk_stage import ChunkStage
from hubdist.store.store import Store

SECRET = b"s" * 32
MIB = 1 << 20
TERMS = DeliveryTerms(SECRET, MIB, (0, 1))


class Pair:
    """One exchange that sends from a snapshot, and one that receives."""

    def __init__(self, folder: Path) -> None:
        self.config = Config(store=str(folder / "receiving"))
        self.sent_store, self.taken = Store(folder / "sending"), Store(folder / "receiving")
        with self.sent_store.stage() as stage:
            for name, size in (("a", 2 * MIB), ("b", 100)):
                with stage.open_file(name) as file:
                    file.write(os.urandom(size))
            with self.sent_store.publish(stage) as snapshot:
                self.manifest: Manifest = snapshot.manifest
                self.files = snapshot.path
        self.chunks = cut_chunks(self.manifest, MIB)
        self.sending = ChunkExchange(lambda: self.sent_store, self.config)
        self.receiving = ChunkExchange(lambda: self.taken, self.config, request=self.ask)
        self.ordinals = tuple(range(len(self.manifest.entries)))
        self.sender = Sender(b"sender")
        self.request: Callable[..., bytearray] = lambda _, delivery, part, __: self.sending.send(delivery, part)

    def ask(self, *args: Any) -> bytearray:
        return self.request(*args)

    def receive(self) -> None:
        for chunk in self.chunks:
            self.receiving.fetch("d", chunk, self.sender)

    @property
    def stages(self) -> list[Path]:
        return list((self.taken.root / "staging").iterdir())


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path)
    pair.sending.hold("d", SECRET, pair.manifest.digest, pair.ordinals, MIB)
    yield pair
    pair.receiving.forget("d")
    pair.sending.forget("d")


def test_a_node_that_published_and_begins_again_sends_as_before(pair: Pair) -> None:
    assert pair.receiving.begin("d", pair.manifest, TERMS, None).has_model is False
    pair.receive()
    pair.receiving.publish("d", pair.manifest, TERMS)
    for _ in range(2):
        assert pair.receiving.begin("d", pair.manifest, TERMS, None).has_model is True
        assert pair.receiving.send("d", pair.chunks[0])


def test_a_node_that_lost_its_snapshot_begins_anew_and_sends_no_more_from_it(pair: Pair) -> None:
    assert pair.receiving.begin("d", pair.manifest, TERMS, None).has_model is False
    pair.receive()
    pair.receiving.publish("d", pair.manifest, TERMS)
    (pair.taken.root / "snapshots" / pair.manifest.digest.value).rename(pair.taken.root / "lost")
    assert pair.receiving.begin("d", pair.manifest, TERMS, None).has_model is False
    with pytest.raises(HubdistError):
        pair.receiving.send("d", pair.chunks[0])
    pair.receive()
    pair.receiving.publish("d", pair.manifest, TERMS)
    assert pair.receiving.send("d", pair.chunks[0])
    assert pair.stages == []


def test_two_calls_to_begin_at_once_leave_one_stage(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2, timeout=20)
    real = Store.stage_chunks

    def stage_chunks(self: Store, manifest: Manifest | None) -> ChunkStage:
        both.wait()
        return real(self, manifest)

    monkeypatch.setattr(Store, "stage_chunks", stage_chunks)
    threads = [threading.Thread(target=pair.receiving.begin, args=("d", pair.manifest, TERMS, None)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(pair.stages) == 1
    pair.receiving.forget("d")
    assert pair.stages == []


@pytest.mark.parametrize("copy", [RemoteCopy("/gone", {}), None])
def test_a_place_that_cannot_be_read_leaves_no_stage_and_no_connection(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, copy: RemoteCopy | None
) -> None:
    """Where the place does not have the files, and where the reader itself fails in an unexpected way."""

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a library's own error")

    if copy is None:
        monkeypatch.setattr(CopyReader, "__init__", fail)
    with pytest.raises((HubdistError, RuntimeError)):
        pair.receiving.begin("d", pair.manifest, TERMS, copy or list_copy(str(pair.files), pair.config.deadlines))
    assert pair.stages == []
    with pytest.raises(PeerError, match="takes no part"):
        pair.receiving.fetch("d", pair.chunks[0], pair.sender)


def test_a_stage_that_cannot_be_removed_keeps_nothing_else(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    real = CopyReader.close
    monkeypatch.setattr(CopyReader, "close", lambda self: (closed.append(self), real(self)))
    assert (
        pair.receiving.begin("d", pair.manifest, TERMS, list_copy(str(pair.files), pair.config.deadlines)).has_model
        is False
    )
    discard = ChunkStage.discard

    def refuse(self: ChunkStage) -> None:
        discard(self)
        raise StoreError("the disk refuses", path="/disk")

    monkeypatch.setattr(ChunkStage, "discard", refuse)
    with pytest.raises(StoreError):
        pair.receiving.forget("d")
    assert len(closed) == 1


def test_names_that_do_not_fit_the_snapshot_hold_nothing(pair: Pair) -> None:
    with pytest.raises(ValueError, match="shorter"):
        pair.sending.hold("other", SECRET, pair.manifest.digest, pair.ordinals[:-1], None)
    pair.sending.forget("d")
    assert pair.sent_store.evict(pair.manifest.digest) is True  # nobody uses it


@pytest.mark.parametrize("how", ["cancelled", "forgotten"])
def test_a_fetch_that_nobody_wants_any_more_ends_at_once(pair: Pair, how: str) -> None:
    asked = threading.Event()

    def fetch(sender: Sender, delivery: str, part: Any, timeout_s: float) -> bytearray:
        asked.set()
        assert isinstance(sender.cancelled, Future)
        sender.cancelled.result(timeout=timeout_s)
        raise PeerError("nobody wants it")

    pair.request = fetch
    assert pair.receiving.begin("d", pair.manifest, TERMS, None).has_model is False
    errors: list[BaseException] = []

    def work() -> None:
        try:
            pair.receiving.fetch("d", pair.chunks[0], pair.sender)
        except PeerError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert asked.wait(20)
    begin = time.monotonic()
    if how == "cancelled":
        pair.receiving.cancel_requests("d", b"another")
        pair.receiving.cancel_requests("another", b"sender")
        assert thread.is_alive()
        pair.receiving.cancel_requests("d", b"sender")
    else:
        pair.receiving.forget("d")
    thread.join(20)
    assert time.monotonic() - begin < 10
    assert len(errors) == 1
    assert not pair.receiving._fetches._awaited


def test_a_snapshot_that_is_missing_is_not_held(pair: Pair) -> None:
    with pytest.raises(IntegrityError, match="is not in the store"):
        pair.receiving.hold("d", SECRET, pair.manifest.digest, pair.ordinals, MIB)
