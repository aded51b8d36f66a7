"""The HTTP server of a `LoopbackHub`: its sockets and threads, the record of requests, and gates."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from requests.structures import CaseInsensitiveDict

from hubdist.testing.hub_answers import Answer, Fault, Reset, ShortBody, Stall

_BLOCK_BYTES = 64 << 10
_IDLE_TIMEOUT_S = 30.0
_JOIN_TIMEOUT_S = 10.0

Answerer = Callable[[str, Mapping[str, str]], tuple[Answer, Fault | None, "Gate | None"]]
"""A request's target and headers -> the answer, the fault to produce (or None), and the gate to stop at (or None)."""


@dataclass(frozen=True, slots=True)
class HubRequest:
    """One request that the hub has answered, or is answering.

    Attributes:
        method: GET or HEAD.
        path: Path and query of the request.
        range: The Range header, or None.
        status: The status of the answer.
        bytes_sent: The number of bytes of the body that were handed to the network so far. If the client went away,
            the last block of 64 KiB may not have left.
        authorization: The Authorization header, or None.
        read_of: The path of the handle or file if this request began a whole download of it, or None.
    """

    method: str
    path: str
    range: str | None
    status: int
    bytes_sent: int
    authorization: str | None
    read_of: str | None


class Gate:
    """Stops answers in the middle of their body until it is opened. Made by `LoopbackHub.hold`.

    A gate opens for good: by `set`, or when the hub closes.
    """

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()

    def wait_reached(self, timeout_s: float = 10.0) -> bool:
        """Wait until an answer has stopped at the gate; False if none has within `timeout_s` seconds."""
        return self._reached.wait(timeout_s)

    def is_set(self) -> bool:
        """True if the gate is open."""
        return self._opened.is_set()

    def set(self) -> None:
        """Open the gate for good: answers that wait go on, and later ones do not stop."""
        self._opened.set()

    def pass_through(self) -> None:
        """Wait until the gate is open; the server's threads call this."""
        self._reached.set()
        self._opened.wait()


class HubServer(ThreadingHTTPServer):
    """Serves the answers of an `Answerer`, with one thread that accepts, and a thread for each connection.

    Args:
        answer: Decides on the answer to each request; called in the connection's thread.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answer: Answerer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._requests: list[HubRequest] = []
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._to_reset: set[socket.socket] = set()
        self._gates: list[Gate] = []
        self._loop = threading.Thread(target=self.serve_forever, args=(0.02,), name="loopback-hub", daemon=True)
        self._loop.start()

    def server_bind(self) -> None:
        """Bind the socket without the look-up of a host name that http.server makes, because it may hang."""
        TCPServer.server_bind(self)

    @property
    def url(self) -> str:
        """The server's address, `http://127.0.0.1:<port>`."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def make_gate(self) -> Gate:
        """Make a gate that opens at the latest when the server closes."""
        gate = Gate()
        with self._lock:
            self._gates.append(gate)
        if self.closing.is_set():
            gate.set()
        return gate

    def note(self, request: HubRequest) -> int:
        """Record a request whose answer begins, and return its number."""
        with self._lock:
            self._requests.append(request)
            return len(self._requests) - 1

    def count(self, number: int, size: int) -> None:
        """Count bytes that were sent.

        Args:
            number: The number of the request, from `note`.
            size: The number of bytes.
        """
        with self._lock:
            request = self._requests[number]
            self._requests[number] = replace(request, bytes_sent=request.bytes_sent + size)

    def requests(self) -> list[HubRequest]:
        """All requests so far, in the order in which their answers began."""
        with self._lock:
            return list(self._requests)

    def reset(self, connection: socket.socket) -> None:
        """Let a connection be closed with a TCP RST when its handler returns."""
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with self._lock:
            self._to_reset.add(connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection, and remember both for `close`.

        Args:
            request: The connection's socket.
            client_address: The client's host and port.
        """
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        with self._lock:
            self._connections = {known: user for known, user in self._connections.items() if user.is_alive()}
            # Started under the lock, so that no other call takes it for a thread that has ended.
            thread.start()
            self._connections[request] = thread

    def shutdown_request(self, request: Any) -> None:
        """Close a connection: in good order, or with a TCP RST after `reset`."""
        with self._lock:
            is_reset = request in self._to_reset
            self._to_reset.discard(request)
        if is_reset:
            # No shutdown before: that would send a FIN, and the reader would see a short body.
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def close(self) -> None:
        """Open all gates, close all connections and join all threads; a second call does nothing."""
        self.closing.set()
        self.shutdown()
        self._loop.join(_JOIN_TIMEOUT_S)
        with self._lock:
            gates, connections = list(self._gates), dict(self._connections)
        for gate in gates:
            gate.set()
        for connection, thread in connections.items():
            with contextlib.suppress(OSError):  # it is closed already
                connection.shutdown(socket.SHUT_RDWR)
            thread.join(_JOIN_TIMEOUT_S)
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_TIMEOUT_S
    server: HubServer

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the signature of http.server
        """Log nothing: tests read `LoopbackHub.requests`."""

    def _serve(self) -> None:
        answer, fault, gate = self.server.answer(self.path, CaseInsensitiveDict(self.headers.items()))
        asked_range = self.headers.get("Range")
        is_read = (
            self.command == "GET"
            and bool(answer.counted_as)
            and (asked_range is None or asked_range.replace(" ", "").startswith("bytes=0-"))
        )
        number = self.server.note(
            HubRequest(
                self.command,
                self.path,
                asked_range,
                answer.status,
                0,
                self.headers.get("Authorization"),
                answer.counted_as if is_read else None,
            )
        )
        # The client may go away at any time, and `close` may close the connection.
        with contextlib.suppress(ConnectionError, TimeoutError):
            self._send(answer, fault, gate, number)
        self.close_connection = True

    def _send(self, answer: Answer, fault: Fault | None, gate: Gate | None, number: int) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(answer.body)))
        # One request for each connection, so that a fault in one never touches the next.
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self._send_body(answer, fault, gate, number)

    def _send_body(self, answer: Answer, fault: Fault | None, gate: Gate | None, number: int) -> None:
        at = len(answer.body) // 2
        if isinstance(fault, ShortBody | Reset | Stall):
            at = min(fault.after_bytes, len(answer.body))
        self._write(answer, 0, at, number)
        if gate is not None:
            gate.pass_through()
        if isinstance(fault, Stall):
            self.server.closing.wait(fault.seconds)
        if self.server.closing.is_set():
            return
        if at < len(answer.body) and isinstance(fault, Reset):
            self.server.reset(self.connection)
            return
        if at < len(answer.body) and isinstance(fault, ShortBody):
            return
        self._write(answer, at, len(answer.body), number)
        if answer.chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _write(self, answer: Answer, start: int, end: int, number: int) -> None:
        for offset in range(start, end, _BLOCK_BYTES):
            block = answer.body[offset : min(offset + _BLOCK_BYTES, end)]
            # Counted before it is sent, so that a test that has the bytes finds them in the count.
            self.server.count(number, len(block))
            self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block) if answer.chunked else block)
