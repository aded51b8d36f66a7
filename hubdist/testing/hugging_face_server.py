"""The HTTP server of a `LoopbackHuggingFace`: ranges, HEAD, JSON, and the record of requests."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

_JOIN_S = 10.0
_IDLE_S = 30.0
_BLOCK_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Reply:
    """What the hub answers.

    Attributes:
        status: The status if the whole body is asked for.
        headers: Headers beyond those of the length.
        body: The whole body; the server cuts out the range that is asked for.
        file: The path of the file whose bytes the body is; None for metadata.
        cut: How many bytes are sent before the connection ends; None for all.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    file: str | None = None
    cut: int | None = None

    @classmethod
    def json(cls, document: Any) -> Self:
        """Metadata."""
        return cls(200, {"Content-Type": "application/json"}, json.dumps(document).encode())

    @classmethod
    def refusal(cls, status: int, code: str, headers: Mapping[str, str] | None = None) -> Self:
        """An error as Hugging Face says it.

        Args:
            status: The status.
            code: The value of `X-Error-Code`.
            headers: Further headers.
        """
        return cls(status, {**(headers or {}), "X-Error-Code": code, "X-Error-Message": code}, b"")


Answerer = Callable[[str, str | None, Mapping[str, Any]], Reply]
"""The path of a request, its token and the JSON or form in its body -> the reply."""


@dataclass
class Request:
    """A request that was answered, or is being answered.

    Attributes:
        method: GET, HEAD or POST.
        path: Its path.
        file: The path of the file whose bytes are sent; None for metadata.
        bytes_sent: Bytes of that file that were handed to the network so far.
    """

    method: str
    path: str
    file: str | None
    bytes_sent: int = 0


class RepoServer(ThreadingHTTPServer):
    """Serves the replies of an `Answerer`, with a thread for each connection.

    Args:
        answer: Decides on the reply; called in the connection's thread.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, answer: Answerer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self._lock = threading.Lock()
        self._requests: list[Request] = []
        self._loop = threading.Thread(target=self.serve_forever, args=(0.02,), name="loopback-hf", daemon=True)
        self._loop.start()

    def server_bind(self) -> None:
        """Bind the socket without the look-up of a host name that http.server makes, because it may hang."""
        TCPServer.server_bind(self)

    @property
    def url(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def other_url(self) -> str:
        """The same server by another name: huggingface_hub takes it for another host, as that of stored files is."""
        return f"http://localhost:{self.server_address[1]}"

    def note(self, request: Request) -> None:
        """Record a request."""
        with self._lock:
            self._requests.append(request)

    def requests(self) -> list[Request]:
        """All requests so far."""
        with self._lock:
            return list(self._requests)

    def close(self) -> None:
        """Serve no more."""
        self.shutdown()
        self._loop.join(_JOIN_S)
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    timeout = _IDLE_S
    server: RepoServer

    def do_GET(self) -> None:
        self._serve({})

    def do_HEAD(self) -> None:
        self._serve({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        is_json = "json" in self.headers.get("Content-Type", "")
        self._serve(json.loads(body) if is_json else parse_qs(body.decode()))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the signature of http.server
        """Log nothing: tests read `LoopbackHuggingFace.requests`."""

    def _serve(self, asked: Mapping[str, Any]) -> None:
        path = "/".join(unquote(name) if "%2F" not in name else name for name in urlsplit(self.path).path.split("/"))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        reply = self.server.answer(path, token, asked)
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, end, status = 0, len(reply.body), reply.status
        if found and status == 200:
            start, end, status = int(found[1]), min(int(found[2] or end) + bool(found[2]), end), 206
        sends = self.command != "HEAD" and reply.file is not None
        request = Request(self.command, self.path, reply.file if sends else None)
        self.server.note(request)
        self.send_response(status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(reply.body)}")
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        for at in range(start, end if reply.cut is None else min(end, start + reply.cut), _BLOCK_BYTES):
            block = reply.body[at : min(at + _BLOCK_BYTES, end)]
            if reply.cut is not None:
                block = block[: start + reply.cut - at]
            if sends:
                request.bytes_sent += len(block)
            self.wfile.write(block)
