"""Streams where Ray encrypts: nothing of a model is readable on the way, and strangers get no further than TLS."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubdist.errors import HubdistError, PeerError, PortClosedError
from hubdist.model.chunks import cut_chunks
from hubdist.model.manifest import BLOCK_BYTES, EntryDigester, Manifest
from hubdist.streams.client import Unit, UnitStream
from hubdist.streams.encryption import Encryption, TlsFiles
from hubdist.streams.frames import NO_END, Hello, Request
from hubdist.streams.server import StreamServer
from hubdist.streams.sockets import connect
from hubdist.streams.units import Units
from tests.support.certificates import Authority

DELIVERY = b"delivery"
SECRET = b"s" * 32
TEXT = b"The weights of a model that nobody else shall read. "
DATA = TEXT * (3 * BLOCK_BYTES // len(TEXT))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    (tmp_path / "tls").mkdir()
    return Authority(tmp_path / "tls")


@pytest.fixture
def files(authority: Authority) -> TlsFiles:
    return authority.files("localhost")


@pytest.fixture
def server(tmp_path: Path, files: TlsFiles) -> Iterator[StreamServer]:
    (tmp_path / "weights").write_bytes(DATA)
    digester = EntryDigester("weights")
    digester.update(DATA)
    chunks = cut_chunks(Manifest.of([digester.entry()]), BLOCK_BYTES)
    units = Units(SECRET, lambda _: os.open(tmp_path / "weights", os.O_RDONLY))
    for number, chunk in enumerate(chunks):
        units.add(number, chunk)
    units.set_count(len(chunks))
    running = StreamServer("127.0.0.1", {DELIVERY: units}.get, encryption=Encryption(files))
    yield running
    running.stop()


def read_all(stream: UnitStream) -> bytes:
    stream.request(Request(0, NO_END))
    data = b""
    while isinstance(unit := stream.receive(), Unit):
        data += unit.data
    return data


@contextlib.contextmanager
def eavesdropper(address: tuple[str, int]) -> Iterator[tuple[tuple[str, int], bytearray]]:
    """A wire that hears all: where it begins, and what went over it."""
    heard = bytearray()

    def pass_on(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                heard.extend(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with contextlib.suppress(OSError), listener.accept()[0] as near, socket.create_connection(address) as far:
            back = threading.Thread(target=pass_on, args=(far, near))
            back.start()
            pass_on(near, far)
            back.join()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        yield listener.getsockname()[:2], heard
        thread.join()


def test_nothing_of_a_model_or_of_its_delivery_is_readable_on_the_way(server: StreamServer, files: TlsFiles) -> None:
    with eavesdropper(server.address) as (address, heard):
        stream = UnitStream(address, SECRET, DELIVERY, encryption=Encryption(files))
        assert read_all(stream) == DATA
        stream.close()
    assert len(heard) > len(DATA)
    assert TEXT[:16] not in heard
    assert DELIVERY not in heard
    assert Request(0, NO_END).encode()[:4] not in heard


def test_a_child_with_a_certificate_of_another_authority_gets_nothing(server: StreamServer, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    certificate, key, _ = Authority(tmp_path / "other").files("localhost")
    stranger = Encryption((certificate, key, str(tmp_path / "tls" / "authority.pem")))
    with pytest.raises(HubdistError):  # TLS 1.3 tells a client only when it reads
        read_all(UnitStream(server.address, SECRET, DELIVERY, encryption=stranger))


def test_a_child_without_a_certificate_gets_nothing(server: StreamServer) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with pytest.raises(OSError), context.wrap_socket(connect(server.address)) as connection:
        connection.settimeout(5)
        connection.sendall(Hello(DELIVERY, b"n" * 16).encode())
        assert connection.recv(1) == b""
        raise OSError("closed without a word")


@pytest.mark.parametrize("name", ["other.example", "localhost.example"])
def test_a_parent_whose_certificate_is_for_another_address_is_not_believed(
    authority: Authority, files: TlsFiles, name: str
) -> None:
    wrong = StreamServer("127.0.0.1", lambda _: None, encryption=Encryption(authority.files(name)))
    try:
        with pytest.raises(PortClosedError, match="certificate verify failed"):
            UnitStream(wrong.address, SECRET, DELIVERY, encryption=Encryption(files))
    finally:
        wrong.stop()


def test_a_parent_of_another_authority_is_not_believed(files: TlsFiles, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Encryption(Authority(tmp_path / "other").files("localhost"))
    wrong = StreamServer("127.0.0.1", lambda _: None, encryption=other)
    try:
        with pytest.raises(PortClosedError, match="certificate verify failed"):
            UnitStream(wrong.address, SECRET, DELIVERY, encryption=Encryption(files))
    finally:
        wrong.stop()


def test_a_port_that_encrypts_says_nothing_plainly(server: StreamServer) -> None:
    with pytest.raises(PeerError):
        UnitStream(server.address, SECRET, DELIVERY)
    with connect(server.address) as connection:
        connection.settimeout(5)
        connection.sendall(Hello(DELIVERY, b"n" * 16).encode())
        said = b""
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(4096):
                said += data
    assert DELIVERY not in said
    assert len(said) < 16  # an alert of TLS


def test_a_child_that_encrypts_sends_nothing_plainly(files: TlsFiles) -> None:
    plain = StreamServer("127.0.0.1", lambda _: None)
    try:
        with pytest.raises(PortClosedError):
            UnitStream(plain.address, SECRET, DELIVERY, encryption=Encryption(files))
    finally:
        plain.stop()


def test_what_another_thread_ends_sends_nothing_plainly(server: StreamServer, files: TlsFiles) -> None:
    with eavesdropper(server.address) as (address, heard):
        stream = UnitStream(address, SECRET, DELIVERY, encryption=Encryption(files))
        stream.request(Request(0, NO_END))
        assert isinstance(stream.receive(), Unit)
        stream.cancel()
        with pytest.raises(HubdistError):
            for _ in range(9):
                stream.request(Request(0, NO_END))
        stream.close()
    assert Request(0, NO_END).encode()[:4] not in heard
    assert TEXT[:16] not in heard


def test_guests_that_do_not_speak_tls_delay_nobody(server: StreamServer, files: TlsFiles) -> None:
    crowd = [connect(server.address) for _ in range(50)]
    try:
        for number, connection in enumerate(crowd):
            connection.sendall(b"\x16\x03\x01"[: number % 4])
        stream = UnitStream(server.address, SECRET, DELIVERY, encryption=Encryption(files))
        assert read_all(stream) == DATA
        stream.close()
    finally:
        for connection in crowd:
            connection.close()


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_file_that_is_not_there_is_an_error(files: TlsFiles, missing: int) -> None:
    names = list(files)
    names[missing] = "/nowhere"
    with pytest.raises(OSError):
        Encryption((names[0], names[1], names[2]))
