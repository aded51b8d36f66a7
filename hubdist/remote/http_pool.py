"""A pool of HTTP connections to one server, for threads that each need their own connection."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import urlsplit

from hubdist.errors import OriginError
from hubdist.system.deadline import Deadlines

_MAX_IDLE = 32
_BLOCK_BYTES = 1 << 20


class HttpPool:
    """Connections to one server; safe for several threads.

    Args:
        deadlines: Longest times to connect and without a byte.
    """

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._tls: ssl.SSLContext | None = None
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []
        self._busy: set[http.client.HTTPConnection] = set()
        self._closed = False

    @contextlib.contextmanager
    def exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: Iterable[bytes] | None
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request and yield the answer. A connection whose answer was read to its end goes back to the pool.

        Args:
            method: The HTTP method.
            url: The URL, always of the same server.
            headers: All headers of the request.
            body: The parts of the request's body, or None.

        Raises:
            OSError, http.client.HTTPException: The exchange failed.
            OriginError: `close` was called.
        """
        parts = urlsplit(url)
        connection = self._take(parts.scheme, parts.netloc)
        reusable = False
        try:
            if connection.sock is None:
                connection.connect()
            connection.sock.settimeout(self._deadlines.stall_s)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may have answered before the end
                connection.request(method, f"{parts.path}?{parts.query}", body, dict(headers))
            with connection.getresponse() as response:
                yield response
                reusable = response.isclosed() and not response.will_close
        finally:
            self._give_back(connection, reusable=reusable)

    def close(self) -> None:
        """Close all connections, also those that other threads wait at."""
        with self._lock:
            self._closed = True
            idle, busy = list(self._idle), list(self._busy)
            self._idle.clear()
        for connection in idle:
            connection.close()
        for connection in busy:
            if connection.sock is not None:
                with contextlib.suppress(OSError):
                    # Wakes the thread that waits at the socket. The base class's shutdown, because that of an SSL
                    # socket would drop the TLS state while the other thread may still read.
                    socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

    def _take(self, scheme: str, netloc: str) -> http.client.HTTPConnection:
        with self._lock:
            if self._closed:
                raise OriginError(f"reading from {netloc} was ended")
            connection = self._idle.pop() if self._idle else self._connection(scheme, netloc)
            self._busy.add(connection)
        return connection

    def _connection(self, scheme: str, netloc: str) -> http.client.HTTPConnection:
        timeout_s = self._deadlines.connect_s
        if scheme == "http":
            return http.client.HTTPConnection(netloc, timeout=timeout_s, blocksize=_BLOCK_BYTES)
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return http.client.HTTPSConnection(netloc, timeout=timeout_s, context=self._tls, blocksize=_BLOCK_BYTES)

    def _give_back(self, connection: http.client.HTTPConnection, *, reusable: bool) -> None:
        with self._lock:
            self._busy.discard(connection)
            if reusable and not self._closed and len(self._idle) < _MAX_IDLE:
                self._idle.append(connection)
                return
        connection.close()
