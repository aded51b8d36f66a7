"""An HTTP proxy in front of an emulator that lets a test act at the boundaries of each request."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit

_HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length"}


class GcsProxy:
    """Forwards to `target`; before and after each request it calls `at(number, when, request_line)`.

    Numbers begin at 1; `when` is "before" (the server has not seen the request) or "after" (the server has done it,
    the client does not know yet). Only one call of `at` runs at a time.
    """

    def __init__(self, target: str, at: Callable[[int, str, str], object]) -> None:
        self._target = urlsplit(target).netloc
        self._at = at
        self._lock = threading.Lock()
        self.count = 0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except OSError:  # the client was killed
                    self.close_connection = True

            def forward(self) -> None:
                proxy._forward(self)

            do_GET = do_POST = do_PUT = do_DELETE = forward  # noqa: N815 - the names that http.server calls

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="proxy")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def _forward(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        with self._lock:
            self.count += 1
            number = self.count
            self._at(number, "before", handler.requestline)
        connection = http.client.HTTPConnection(self._target, timeout=30)
        try:
            headers = {key: value for key, value in handler.headers.items() if key.lower() not in _HOP_BY_HOP}
            connection.request(handler.command, handler.path, body, {**headers, "Host": self._target})
            with connection.getresponse() as response:
                data = response.read()
                with self._lock:
                    self._at(number, "after", handler.requestline)
                handler.send_response_only(response.status, response.reason)
                for key, value in response.headers.items():
                    if key.lower() not in _HOP_BY_HOP:
                        own = self.url.removeprefix("http://")
                        handler.send_header(key, value.replace(self._target, own) if key == "Location" else value)
                handler.send_header("Content-Length", str(len(data)))
                handler.end_headers()
                handler.wfile.write(data)
        finally:
            connection.close()
