"""Servers that refuse for one reason each: certificates that do not hold, proxies, storage that wants credentials.

One server speaks as much of each storage's interface as a refusal needs. The name of the bucket, of the organisation or
the first part of the path says how it refuses.
"""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.certificates import DAY, Authority

_GRANTS = {
    "refused": "Invalid JWT Signature.",
    "clock": (
        "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and"
        " exp values in the JWT claim."
    ),
}
_S3_ERRORS = {
    "denied": (403, "AccessDenied"),
    "expired": (400, "ExpiredToken"),
    "refused": (403, "InvalidAccessKeyId"),
    "clock": (403, "RequestTimeTooSkewed"),
    "region": (400, "AuthorizationHeaderMalformed"),
    "busy": (503, "SlowDown"),
}
_STATUSES = {"denied": 403, "refused": 401, "private": 401, "gated": 403, "busy": 429, "clock": 403}


class _Refusing(BaseHTTPRequestHandler):
    """Refuses as the path says; a CONNECT as the name of the proxy's user says."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        words = [word for word in path.split("/") if word]
        if words and words[0] == "computeMetadata":
            self._answer(403, b"no metadata here")
        elif path.startswith("/storage/v1/b/"):
            status = _STATUSES.get(words[3], 404)
            self._answer(status, json.dumps({"error": {"code": status, "message": "no access"}}).encode())
        elif path.startswith("/api/models/"):
            self._answer_hub(words[2])
        elif words and words[0] == "status":
            self._answer(int(words[1]), b"no")
        else:
            self._answer_s3(words[0] if words else "")

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        words = [word for word in urlsplit(self.path).path.split("/") if word]
        if words[0] != "token":  # Kaggle
            self._answer(403, json.dumps({"code": 403, "message": "no"}).encode())
        elif words[1] == "granted":
            self._answer(
                200, json.dumps({"access_token": "t0ken", "expires_in": 3600, "token_type": "Bearer"}).encode()
            )
        else:
            said = {"error": "invalid_grant", "error_description": _GRANTS[words[1]]}
            self._answer(400, json.dumps(said).encode())

    def do_CONNECT(self) -> None:
        self._answer(int(self.server.status), b"no")  # type: ignore[attr-defined]

    def _answer_hub(self, organisation: str) -> None:
        codes = {"gated": "GatedRepo", "private": "RepoNotFound"}
        headers = {"X-Error-Code": codes[organisation]} if organisation in codes else {}
        self._answer(_STATUSES.get(organisation, 404), b'{"error": "no access"}', headers)

    def _answer_s3(self, bucket: str) -> None:
        status, code = _S3_ERRORS.get(bucket, (404, "NoSuchBucket"))
        said = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no access</Message></Error>"
        self._answer(status, said.encode(), {"Content-Type": "application/xml"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        if status == 407:
            self.send_header("Proxy-Authenticate", "Basic realm=proxy")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    status = 403

    def handle_error(self, *_: object) -> None:
        """Clients that refuse the certificate end the connection; that is what they are here for."""


@contextlib.contextmanager
def refusing(context: ssl.SSLContext | None = None, *, proxy_status: int = 403) -> Iterator[int]:
    """A server on 127.0.0.1; yields its port.

    Args:
        context: For TLS; None: without.
        proxy_status: How it answers as a proxy.
    """
    with _Server(("127.0.0.1", 0), _Refusing) as server:
        server.status = proxy_status
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=functools.partial(server.serve_forever, 0.05))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join(10)


@contextlib.contextmanager
def deaf() -> Iterator[int]:
    """A port of 127.0.0.1 that lets nobody in and refuses nobody, like a network that drops packets."""
    with socket.socket() as listener, contextlib.ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):  # fill the queue of the kernel
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def closed_port() -> int:
    """A port of 127.0.0.1 at which nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port: int = unused.getsockname()[1]
        return port


def google_key(folder: Path, token_url: str) -> Path:
    """The file of a service account's key whose tokens come from `token_url`.

    Args:
        folder: Where the file goes.
        token_url: Where credentials are renewed.
    """
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = folder / f"{abs(hash(token_url))}.json"
    account = "tests@project.iam.gserviceaccount.com"
    held: dict[str, Any] = {"type": "service_account", "project_id": "project", "private_key_id": "1"}
    held |= {"private_key": private.decode(), "client_email": account, "client_id": "1", "token_uri": token_url}
    file.write_text(json.dumps(held), encoding="utf-8")
    return file


@dataclass(frozen=True)
class Servers:
    """Ports of servers that run; `localhost` is the name that all but one certificate are for.

    Attributes:
        plain: Without TLS.
        tls: With a certificate that holds.
        stranger: With a certificate of an unknown authority.
        expired: With a certificate that has expired.
        early: With a certificate that is not valid yet.
        misnamed: With a certificate for another name.
        proxy_denies: A proxy that answers 403.
        proxy_asks: A proxy that answers 407.
        closed: Nothing listens here.
        deaf: Connections are neither accepted nor refused.
    """

    plain: int
    tls: int
    stranger: int
    expired: int
    early: int
    misnamed: int
    proxy_denies: int
    proxy_asks: int
    closed: int
    deaf: int


@contextlib.contextmanager
def all_servers(folder: Path) -> Iterator[tuple[Servers, Authority]]:
    """All servers, and the authority of their certificates.

    Args:
        folder: For certificates.
    """
    (folder / "own").mkdir()
    (folder / "stranger").mkdir()
    authority, stranger = Authority(folder / "own"), Authority(folder / "stranger")
    with contextlib.ExitStack() as stack:

        def start(context: ssl.SSLContext | None = None, proxy_status: int = 403) -> int:
            return stack.enter_context(refusing(context, proxy_status=proxy_status))

        yield (
            Servers(
                plain=start(),
                tls=start(authority.context("localhost")),
                stranger=start(stranger.context("localhost")),
                expired=start(authority.context("localhost", begins=-3 * DAY, ends=-DAY)),
                early=start(authority.context("localhost", begins=DAY, ends=3 * DAY)),
                misnamed=start(authority.context("other.example")),
                proxy_denies=start(),
                proxy_asks=start(proxy_status=407),
                closed=closed_port(),
                deaf=stack.enter_context(deaf()),
            ),
            authority,
        )
