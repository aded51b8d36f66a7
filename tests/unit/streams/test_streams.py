"""Streams over real sockets: units arrive checked, strangers get nothing, silence and refusals are noticed."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubdist.errors import (
    HubdistError,
    IntegrityError,
    PeerError,
    PortClosedError,
    TransferTimeoutError,
    UnknownDeliveryError,
)
from hubdist.model.chunks import Chunk, cut_chunks
from hubdist.model.manifest import BLOCK_BYTES, EntryDigester, Manifest, digest_block
from hubdist.streams.buffers import Buffers
from hubdist.streams.client import SILENT_S, Unit, UnitStream
from hubdist.streams.encryption import Encryption
from hubdist.streams.follower import Follower
from hubdist.streams.frames import (
    HEADER_BYTES,
    MAX_STEP,
    NO_END,
    PART_BYTES,
    FrameKind,
    Header,
    Hello,
    Request,
    decode_pieces,
)
from hubdist.streams.handshake import GREETING_BYTES, NOT_YET, Introduction
from hubdist.streams.lag import NO_PROGRESS
from hubdist.streams.server import StreamServer
from hubdist.streams.sockets import connect, receive, set_timeouts
from hubdist.streams.units import Units
from tests.support.certificates import Authority

DELIVERY = b"delivery"
SECRET = b"s" * 32


class Node:
    """A node with files, units and a port."""

    def __init__(
        self, folder: Path, sizes: tuple[int, ...], *, filled: bool, seed: int = 0, encryption: Encryption | None = None
    ) -> None:
        folder.mkdir()
        self.folder = folder
        self.encryption = encryption
        rng = random.Random(seed)
        self.files = [rng.randbytes(size) for size in sizes]
        entries = []
        for number, data in enumerate(self.files):
            digester = EntryDigester(f"{number:04}")
            digester.update(data)
            entries.append(digester.entry())
        self.manifest = Manifest.of(entries)
        self.chunks = cut_chunks(self.manifest, BLOCK_BYTES)
        self.units = Units(SECRET, self.open_file)
        self.written: list[int] = []
        for number, data in enumerate(self.files):
            (folder / str(number)).write_bytes(data if filled else bytes(len(data)))
        if filled:
            for number, chunk in enumerate(self.chunks):
                self.units.add(number, chunk)
            self.units.set_count(len(self.chunks))
        self.server = StreamServer("127.0.0.1", {DELIVERY: self.units}.get, encryption=encryption)

    def open_file(self, number: int) -> int:
        return os.open(self.folder / str(number), os.O_RDONLY)

    def write(self, chunk: Chunk, data: memoryview) -> None:
        chunk.check(data)
        for part in chunk.parts(data):
            with (self.folder / str(part.piece.entry_index)).open("r+b") as file:
                file.seek(part.piece.start)
                file.write(part.data)
        self.written.append(chunk.index)

    def follower(self, parents: dict[str, Node], stripes: int) -> Follower:
        def open_stream(name: str) -> UnitStream:
            return parents[name].stream(silent_s=1.5)

        return Follower(self.units, self.write, open_stream, Buffers(4), stripes=stripes)

    def stream(self, secret: bytes = SECRET, delivery: bytes = DELIVERY, *, silent_s: float = SILENT_S) -> UnitStream:
        return UnitStream(self.server.address, secret, delivery, encryption=self.encryption, silent_s=silent_s)

    @property
    def content(self) -> list[bytes]:
        return [(self.folder / str(number)).read_bytes() for number in range(len(self.files))]


SIZES = (3 * BLOCK_BYTES + 17, 1, 500, 5 * BLOCK_BYTES, 40)


@pytest.fixture(params=["plain", "encrypted"])
def make(
    request: pytest.FixtureRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Node]]:
    nodes: list[Node] = []
    encryption = None
    if request.param == "encrypted":
        encryption = Encryption(Authority(tmp_path_factory.mktemp("tls")).files("localhost"))

    def make(*, filled: bool, sizes: tuple[int, ...] = SIZES) -> Node:
        nodes.append(Node(tmp_path / str(len(nodes)), sizes, filled=filled, encryption=encryption))
        return nodes[-1]

    yield make
    for node in nodes:
        node.units.close()
        node.server.stop()


def finish(follower: Follower, stripes: int, timeout_s: float = 20) -> list[Any]:
    deadline = time.monotonic() + timeout_s
    news: list[Any] = []
    while len(news) < stripes and time.monotonic() < deadline:
        news += follower.wait(1)
    return news


@pytest.mark.parametrize("stripes", [1, 3, 8])
def test_units_pass_through_a_chain_of_nodes(make: Callable[..., Node], stripes: int) -> None:
    source, middle, last = make(filled=True), make(filled=False), make(filled=False)
    first = middle.follower({"source": source}, stripes)
    second = last.follower({"middle": middle}, stripes)
    for stripe in range(stripes):  # the last one asks first, and waits
        second.follow(stripe, "middle")
        first.follow(stripe, "source")
    assert [one.error for one in finish(first, stripes) + finish(second, stripes)] == [None] * 2 * stripes
    assert source.content == middle.content == last.content
    assert middle.units.is_complete and last.units.is_complete
    assert second.received["middle"] == sum(SIZES)
    first.stop()
    second.stop()


def test_units_that_a_node_has_do_not_travel(make: Callable[..., Node]) -> None:
    source, node = make(filled=True), make(filled=False)
    had = {0, 1, 3, 6}
    for number in had:
        node.write(source.chunks[number], memoryview(chunk_bytes(source, source.chunks[number])))
        node.units.add(number, source.chunks[number])
    node.written.clear()
    follower = node.follower({"source": source}, 2)
    for stripe in range(2):
        follower.follow(stripe, "source")
    finish(follower, 2)
    follower.stop()
    assert node.content == source.content
    assert sorted(node.written) == sorted(set(range(len(source.chunks))) - had)


def chunk_bytes(node: Node, chunk: Chunk) -> bytes:
    return b"".join(node.files[piece.entry_index][piece.start : piece.end] for piece in chunk.pieces)


def test_a_unit_is_sent_as_soon_as_it_is_there(make: Callable[..., Node]) -> None:
    source, node = make(filled=True), make(filled=False)
    growing = Units(SECRET, source.open_file)
    source.server._find = {DELIVERY: growing}.get
    follower = node.follower({"source": source}, 1)
    follower.follow(0, "source")
    for number, chunk in enumerate(source.chunks):
        growing.add(number, chunk)
        wait_until(lambda number=number: node.units.arrived == number + 1)
    assert not node.units.is_complete
    growing.set_count(len(source.chunks))
    assert [one.error for one in finish(follower, 1)] == [None]
    assert node.units.is_complete
    follower.stop()


def wait_until(done: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_parent_that_waits_itself_is_not_silent(make: Callable[..., Node]) -> None:
    source = make(filled=True)
    source.server._find = {DELIVERY: Units(SECRET, source.open_file)}.get
    stream = source.stream(silent_s=1.5)
    stream.request(Request(0, NO_END))
    for _ in range(4):
        came = stream.receive()
        assert isinstance(came, Header)
        assert came.kind is FrameKind.HEARTBEAT
    stream.close()


def late_units(node: Node) -> tuple[threading.Event, Callable[[], None]]:
    """Let a node take part in the delivery later: an event that is set when somebody asks, and what lets it begin."""
    asked, known = threading.Event(), dict[bytes, Units]()

    def find(delivery: bytes) -> Units | None:
        asked.set()
        return known.get(delivery)

    def begin() -> None:
        known[DELIVERY] = node.units
        node.server.look_again()

    node.server._find = find
    return asked, begin


def test_a_parent_that_begins_later_sends_when_it_has_begun(make: Callable[..., Node]) -> None:
    source, node = make(filled=True), make(filled=False)
    asked, begin = late_units(source)
    follower = node.follower({"source": source}, 1)
    follower.follow(0, "source")
    assert asked.wait(10)
    wait_until(lambda: follower._current[0].progress == NO_PROGRESS)  # not taken for a silent one
    begin()
    assert [one.error for one in finish(follower, 1)] == [None]
    assert node.content == source.content
    follower.stop()


def test_a_child_asks_again_a_parent_that_begins_after_it_has_closed_the_connection(
    make: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hubdist.streams.server.GREETING_S", 0.1)
    source, node = make(filled=True), make(filled=False)
    asked, begin = late_units(source)
    follower = node.follower({"source": source}, 1)
    follower.follow(0, "source")
    for _ in range(3):
        assert asked.wait(10)
        asked.clear()
    begin()
    assert [one.error for one in finish(follower, 1)] == [None]
    follower.stop()


def test_guests_of_an_unknown_delivery_delay_nobody_and_get_nothing(make: Callable[..., Node]) -> None:
    source, node = make(filled=True), make(filled=False)
    strangers = []
    for _ in range(100):
        connection = raw(source)
        connection.sendall(Hello(b"unknown!", os.urandom(16)).encode())
        strangers.append(connection)
    follower = node.follower({"source": source}, 1)
    follower.follow(0, "source")
    assert [one.error for one in finish(follower, 1)] == [None]
    follower.stop()
    for connection in strangers:
        said = b""
        with contextlib.suppress(OSError):
            while data := connection.recv(4096):
                said += data
        assert said in (b"", NOT_YET)
        connection.close()


def test_a_guest_that_speaks_before_it_is_welcome_is_dismissed(make: Callable[..., Node]) -> None:
    source = make(filled=True)
    _, begin = late_units(source)
    connection = raw(source)
    connection.sendall(Hello(DELIVERY, os.urandom(16)).encode() + os.urandom(56))
    assert bytes(receive(connection, GREETING_BYTES)) == NOT_YET
    begin()
    with contextlib.suppress(ConnectionResetError):
        assert connection.recv(1) == b""
    connection.close()


def test_a_parent_that_never_begins_is_given_up(make: Callable[..., Node], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubdist.streams.follower.BEGIN_S", 0.1)
    monkeypatch.setattr("hubdist.streams.server.GREETING_S", 0.1)
    source, node = make(filled=True), make(filled=False)
    source.server._find = lambda _: None
    follower = node.follower({"source": source}, 1)
    follower.follow(0, "source")
    (news,) = finish(follower, 1)
    assert isinstance(news.error, UnknownDeliveryError)
    follower.stop()


def test_a_child_that_is_told_another_parent_waits_no_longer_for_one_that_has_not_begun(
    make: Callable[..., Node],
) -> None:
    late, source, node = make(filled=False), make(filled=True), make(filled=False)
    asked = threading.Event()
    late.server._find = lambda _: asked.set()
    follower = node.follower({"late": late, "source": source}, 1)
    follower.follow(0, "late")
    assert asked.wait(10)
    follower.follow(0, "source")
    assert [(one.parent, one.error) for one in finish(follower, 1)] == [("source", None)]
    follower.stop()


def test_another_parent_goes_on_where_a_stream_broke(make: Callable[..., Node]) -> None:
    source, lost, node = make(filled=True), make(filled=False), make(filled=False)
    for number in (0, 1, 2):
        lost.write(source.chunks[number], memoryview(chunk_bytes(source, source.chunks[number])))
        lost.units.add(number, source.chunks[number])
    follower = node.follower({"lost": lost, "source": source}, 1)
    follower.follow(0, "lost")
    wait_until(lambda: node.units.arrived == 3)
    lost.units.close()
    (news,) = finish(follower, 1)
    assert isinstance(news.error, PeerError)
    follower.follow(0, "source")
    assert [one.error for one in finish(follower, 1)] == [None]
    assert node.content == source.content
    assert sorted(node.written) == list(range(len(source.chunks)))
    follower.stop()


def test_wrong_bytes_are_found_where_they_arrive_and_not_handed_on(make: Callable[..., Node]) -> None:
    source, node = make(filled=True), make(filled=False)
    with (source.folder / "0").open("r+b") as file:
        file.seek(BLOCK_BYTES + 7)
        file.write(b"\0\1\2")
    follower = node.follower({"source": source}, 1)
    follower.follow(0, "source")
    (news,) = finish(follower, 1)
    assert isinstance(news.error, IntegrityError)
    assert node.units.arrived == 1
    follower.stop()


def test_a_file_that_became_shorter_breaks_the_stream(make: Callable[..., Node]) -> None:
    source, node = make(filled=True), make(filled=False)
    os.truncate(source.folder / "0", BLOCK_BYTES + 5)
    follower = node.follower({"source": source}, 1)
    follower.follow(0, "source")
    (news,) = finish(follower, 1)
    assert isinstance(news.error, PeerError)
    assert node.units.arrived == 1
    follower.stop()


def test_a_file_that_cannot_be_opened_is_said(make: Callable[..., Node]) -> None:
    source = make(filled=True)

    def fail(_: int) -> int:
        raise IntegrityError("it is gone")

    source.units.open_file = fail
    stream = source.stream()
    stream.request(Request(0, NO_END))
    with pytest.raises(PeerError, match="cannot read"):
        stream.receive()
    stream.close()


# Strangers


def test_a_wrong_secret_is_refused_by_both_ends(make: Callable[..., Node]) -> None:
    source = make(filled=True)
    with pytest.raises(PeerError, match="secret"):
        source.stream(b"x" * 32)


def test_an_unknown_delivery_is_refused(make: Callable[..., Node]) -> None:
    source = make(filled=True)
    stream = source.stream(delivery=b"nothing!")
    stream.request(Request(0, NO_END))
    assert stream.receive_header().kind is FrameKind.HEARTBEAT
    with pytest.raises(UnknownDeliveryError):
        stream.receive_header()
    stream.close()


def test_a_proof_of_another_connection_is_refused(make: Callable[..., Node], monkeypatch: pytest.MonkeyPatch) -> None:
    source = make(filled=True)
    taped: list[bytes] = []

    def tape(connection: socket.socket, data: bytes) -> None:
        taped.append(data)
        connection.sendall(data)

    monkeypatch.setattr("hubdist.streams.handshake.send", tape)
    with raw(source) as connection:
        assert Introduction(connection, SECRET, DELIVERY).finish()
        connection.sendall(Request(0, 1).encode())
        assert connection.recv(1)
    with raw(source) as connection:
        connection.sendall(taped[0])
        receive(connection, GREETING_BYTES)
        connection.sendall(taped[1] + Request(0, 1).encode())
        assert closed(connection)


def raw(node: Node) -> socket.socket:
    connection = connect(node.server.address)
    if node.encryption is not None:
        connection = node.encryption.connect(connection, "127.0.0.1", 5)
    set_timeouts(connection, receive_s=5, send_s=5)
    return connection


def closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_nothing_is_served_for_any_bytes() -> None:
    def refuse(_: int) -> int:
        raise AssertionError("a file was opened for a stranger")

    units = Units(SECRET, refuse)
    server = StreamServer("127.0.0.1", lambda _: units)

    @given(st.booleans(), st.binary(max_size=200))
    def check(greets: bool, data: bytes) -> None:
        with connect(server.address) as connection:
            set_timeouts(connection, receive_s=5, send_s=5)
            connection.sendall((Hello(DELIVERY, b"n" * 16).encode() if greets else b"") + data)
            with contextlib.suppress(OSError):  # the server may have closed the connection already
                connection.shutdown(socket.SHUT_WR)
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while part := connection.recv(100):
                    answer += part
            assert len(answer) <= GREETING_BYTES

    try:
        check()
    finally:
        server.stop()


def test_a_slow_greeting_is_dropped_and_delays_nobody(make: Callable[..., Node]) -> None:
    source = make(filled=True)
    with raw(source) as slow:
        begun = time.monotonic()
        slow.sendall(Hello(DELIVERY, b"n" * 16).encode()[:10])
        stream = source.stream()
        assert time.monotonic() - begun < 1
        stream.request(Request(0, 1))
        assert isinstance(stream.receive(), Unit)
        stream.close()
        assert closed(slow)
        assert time.monotonic() - begun < 5


def test_a_thousand_connections_leave_room_for_one_that_knows_the_secret(make: Callable[..., Node]) -> None:
    source = make(filled=True)
    crowd: list[socket.socket] = []
    try:
        crowd += [connect(source.server.address) for _ in range(300)]
        begun = time.monotonic()
        stream = source.stream()
        stream.request(Request(0, NO_END))
        assert isinstance(stream.receive(), Unit)
        assert time.monotonic() - begun < 5
        stream.close()
    finally:
        for one in crowd:
            one.close()
    assert threading.active_count() < 50


def test_a_parent_that_goes_dead_is_noticed(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        with pytest.raises(TransferTimeoutError):
            UnitStream(silent.getsockname(), SECRET, DELIVERY, silent_s=0.5)
        assert time.monotonic() - begun < 3


def test_a_closed_port_is_told_from_other_faults() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with pytest.raises(PortClosedError):
        UnitStream(address, SECRET, DELIVERY)


def test_ports_can_be_chosen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as used:
        taken = used.getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as other:
            free = other.getsockname()[1]
        server = StreamServer("127.0.0.1", lambda _: None, ports=(taken, free))
        assert server.address == ("127.0.0.1", free)
        server.stop()
        with pytest.raises(OSError, match="in use"):
            StreamServer("127.0.0.1", lambda _: None, ports=(taken,))


# Frames


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_any_header_is_read_or_refused(data: bytes) -> None:
    try:
        header = Header.decode(data)
    except PeerError:
        return
    assert header.size <= PART_BYTES
    assert Header.decode(header.encode()) == header


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), max_size=5))
def test_any_pieces_are_read_or_refused(fields: list[tuple[int, int, int]]) -> None:
    import struct

    data = b"".join(struct.pack("<IQQ", *field) for field in fields)
    try:
        pieces = decode_pieces(Header(FrameKind.UNIT, 0, len(fields), 1000), data)
    except PeerError:
        return
    assert sum(piece.size for piece in pieces) == 1000


@given(st.binary(min_size=24, max_size=24))
def test_any_request_is_read_or_refused(data: bytes) -> None:
    try:
        request = Request.decode(data)
    except HubdistError:
        return
    assert 1 <= request.step <= MAX_STEP
    assert Request.decode(request.encode()) == request


@pytest.mark.parametrize("step", [0, MAX_STEP + 1, 2**32 - 1])
def test_a_request_for_an_absurd_number_of_stripes_is_refused(step: int) -> None:
    with pytest.raises(PeerError, match="malformed"):
        Request.decode(Request(0, NO_END, step).encode())


def test_digests_are_those_of_the_files(make: Callable[..., Node]) -> None:
    source = make(filled=True)
    stream = source.stream()
    stream.request(Request(1, 2))
    unit = stream.receive()
    assert isinstance(unit, Unit)
    assert digest_block(unit.data) == unit.chunk.block_digests
    end = stream.receive()
    assert isinstance(end, Header)
    assert (end.kind, end.number) == (FrameKind.END, len(source.chunks))
    stream.request(Request(0, 1))
    assert isinstance(stream.receive(), Unit)
    stream.close()


def test_a_server_whose_thread_ends_before_it_is_woken_stops_without_an_error() -> None:
    server = StreamServer("127.0.0.1", {}.get)

    class Slow(threading.Event):
        def set(self) -> None:
            super().set()
            server._thread.join(5)  # it looks up now and then without being woken

    server._stopped = Slow()
    server.stop()
    assert not server._thread.is_alive()
    assert server._wake.fileno() == server._woken.fileno() == -1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(server.address, timeout=2).close()


def test_a_server_that_stopped_leaves_no_thread_behind(make: Callable[..., Node]) -> None:
    """The thread of a stream whose child has gone ends beside `stop`, which waits for it all the same."""
    for _ in range(20):
        source = make(filled=True)
        stream = source.stream()
        stream.request(Request(0, NO_END))
        assert isinstance(stream.receive(), Unit)
        stream.close()
        source.server.stop()
        assert "hubdist-stream" not in [thread.name for thread in threading.enumerate()]
