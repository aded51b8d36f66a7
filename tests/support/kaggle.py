"""A server on 127.0.0.1 that speaks the part of Kaggle's interface that kagglehub uses for models.

kagglehub can only be pointed at names and ports of its own makers by its environment variable, so the table of its
endpoints is patched; all else is the real package.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

FILES = {
    "saved_model.pb": bytes(range(256)) * 40,
    "assets/words.txt": b"one\ntwo\n",
    "variables/big": bytes(300_000),
}
HANDLE = "kaggle://owner/model/tensorFlow2/var/1"


@dataclass
class Kaggle:
    """What the server has and does, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    bundle: bytes = b""
    status: int = 200
    cut: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    silent: threading.Event | None = None
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    url: str = ""

    def reads(self, request: str) -> int:
        return sum(call == request for call, _ in self.calls)


class _Handler(BaseHTTPRequestHandler):
    kaggle: Kaggle

    def do_POST(self) -> None:
        name = self.path.rpartition("/")[2]
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.kaggle.calls.append((name, asked))
        if self.kaggle.silent is not None:
            self.kaggle.silent.wait(30)
        if self.kaggle.status != 200:
            self._answer(self.kaggle.status, json.dumps({"code": self.kaggle.status, "message": "no"}).encode())
        elif name == "ListModelInstanceVersionFiles":
            listed: dict[str, Any] = {"files": [{"name": path} for path in self.kaggle.files]}
            if self.kaggle.bundle:
                listed["nextPageToken"] = "more"
            self._answer(200, json.dumps(listed).encode())
        elif name == "GetModelInstance":
            self._answer(200, json.dumps({"versionNumber": 7}).encode())
        else:
            path = asked.get("path", "")
            self.send_response(302)
            self.send_header("Location", f"{self.kaggle.url}/storage/{path}")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def do_GET(self) -> None:
        path = self.path.removeprefix("/storage/")
        data = self.kaggle.files[path] if path else self.kaggle.bundle
        self._answer(200, data, "application/octet-stream", cut=self.kaggle.cut)

    def _answer(self, status: int, data: bytes, kind: str = "application/json", cut: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in self.kaggle.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data if cut is None else data[:cut])

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def loopback_kaggle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Kaggle]:
    """The server, asked by kagglehub in this process, without credentials of the user's.

    Args:
        monkeypatch: Takes it back.
        tmp_path: What stands for the home.
    """
    from kagglesdk import kaggle_env

    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_ENVIRONMENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no credentials of the user's
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kagglehub"))
    state = Kaggle()
    handler = type("Handler", (_Handler,), {"kaggle": state})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, state.url)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        if state.silent is not None:
            state.silent.set()
        for left in threading.enumerate():
            if left.name == "hubdist-kaggle":
                left.join(10)
        server.shutdown()
        thread.join()
