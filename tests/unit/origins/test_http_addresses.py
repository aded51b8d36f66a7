"""The address that was looked at is the one that is connected to, whatever a name server says next."""

from __future__ import annotations

import functools
import shutil
import socket
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hubdist.errors import OriginError
from hubdist.origins.http.stream import HttpStream
from hubdist.system.deadline import Deadlines
from hubdist.testing.hub import LoopbackHub

NAME = "models.example"
METADATA = "169.254.169.254"
DATA = b"x" * 1000
DEADLINES = Deadlines(connect_s=2, retries=0)


class NameServer:
    """Answers one name with the next of its addresses; all else as the system does."""

    def __init__(self, *addresses: list[str]) -> None:
        self.answers = list(addresses)
        self.asked = 0
        self._real = socket.getaddrinfo

    def __call__(self, host: str, port: Any, *arguments: Any, **options: Any) -> list[Any]:
        if host != NAME:
            return self._real(host, port, *arguments, **options)
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        return [found for address in answer for found in self._real(address, port, *arguments, **options)]


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every address that somebody tries to connect to."""
    tried: list[str] = []

    class Socket(socket.socket):
        def connect(self, address: Any) -> None:
            tried.append(address[0])
            super().connect(address)

    monkeypatch.setattr(socket, "socket", Socket)
    return tried


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def named(url: str) -> str:
    return url.replace("127.0.0.1", NAME)


def test_a_name_is_resolved_once_for_a_connection(
    hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, connected: list[str]
) -> None:
    names = NameServer(["127.0.0.1"], [METADATA])
    monkeypatch.setattr(socket, "getaddrinfo", names)
    with HttpStream(named(hub.add_file("f", DATA)), DEADLINES) as stream:
        assert stream.read(2000) != b""
    assert (names.asked, connected) == (1, ["127.0.0.1"])


def test_a_name_that_leads_elsewhere_the_next_time_is_not_followed(
    hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, connected: list[str]
) -> None:
    url = named(hub.add_file("f", DATA))
    monkeypatch.setattr(socket, "getaddrinfo", NameServer(["127.0.0.1"], [METADATA]))
    with HttpStream(url, DEADLINES):
        pass
    with pytest.raises(OriginError, match="link-local or metadata"):
        HttpStream(url, DEADLINES)
    assert connected == ["127.0.0.1"]


def test_the_next_address_is_tried_where_one_does_not_answer(
    hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, connected: list[str]
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", NameServer(["127.0.0.2", "127.0.0.1"]))
    with HttpStream(named(hub.add_file("f", DATA)), DEADLINES) as stream:
        assert stream.read(2000) != b""
    assert connected == ["127.0.0.2", "127.0.0.1"]


def test_a_proxy_is_connected_to_as_it_is(
    hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, connected: list[str]
) -> None:
    monkeypatch.setenv("http_proxy", hub.url)
    monkeypatch.setattr(socket, "getaddrinfo", NameServer([METADATA]))
    with pytest.raises(OriginError, match="link-local or metadata"):
        HttpStream(f"http://{NAME}/f", DEADLINES)
    assert connected == []


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl, to make a certificate")
def test_tls_is_with_the_name_and_not_with_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={NAME}"]
    command += ["-addext", f"subjectAltName=DNS:{NAME}", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    seen: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Host"])
            self.send_response(200)
            self.send_header("Content-Length", str(len(DATA)))
            self.end_headers()
            self.wfile.write(DATA)

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.sni_callback = lambda _, name, __: seen.append(name)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    monkeypatch.setattr(socket, "getaddrinfo", NameServer(["127.0.0.1"]))
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=functools.partial(server.serve_forever, 0.05))
        thread.start()
        try:
            port = server.server_address[1]
            with HttpStream(f"https://{NAME}:{port}/f", DEADLINES) as stream:
                assert b"".join(iter(lambda: stream.read(1000), b"")) == DATA
            with pytest.raises(OriginError, match="is for another name"):
                HttpStream(f"https://127.0.0.1:{port}/f", DEADLINES)
        finally:
            server.shutdown()
            thread.join(10)
    assert seen[:2] == [NAME, f"{NAME}:{port}"]
