"""A server that notes the headers of every request: tells whether a secret went where it must not go."""

from __future__ import annotations

import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DATA = b"\x00" * 2000
"""What it answers."""


class Recorder:
    """Answers `DATA` to every GET.

    Args:
        tls: For https; None for http.

    Attributes:
        seen: The headers of every request, with names in lower case.
        wants: Answer 403 to requests without a header of this value; None asks for none.
        redirect: Send requests there; None answers them.
        port: Its port on 127.0.0.1.
        url: Its address.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.seen: list[dict[str, str]] = []
        self.wants: str | None = None
        self.redirect: str | None = None
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                recorder.seen.append({name.lower(): value for name, value in self.headers.items()})
                status = 200
                if recorder.wants is not None and recorder.wants not in self.headers.values():
                    status = 403
                elif recorder.redirect is not None:
                    status = 302
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", str(recorder.redirect))
                body = DATA if status == 200 else b""
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.port = int(self._server.server_address[1])
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def last(self) -> dict[str, str]:
        """The headers of the newest request."""
        return self.seen[-1]
