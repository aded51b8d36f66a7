"""Google's credentials: looked up once, within seconds, also where no metadata server answers; renewed in time."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import gcsfs.retry
import google.auth.exceptions
import pytest
from gcsfs.extended_gcsfs import BucketType
from google.auth.compute_engine import _metadata

from hubdist import errors
from hubdist.remote import google_login
from hubdist.remote.gcs_files import _bucket_type
from hubdist.remote.google_login import GoogleLogin
from tests.support.failing_servers import closed_port, deaf


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Credentials:
    """Credentials that end, and count their renewals."""

    def __init__(self, seconds: float | None) -> None:
        self.valid = seconds is not None
        self.expiry = self._in(seconds or 0.0)
        self.renewed = 0

    def refresh(self, request: Any) -> None:
        self.renewed += 1
        self.valid, self.expiry = True, self._in(3600.0)

    @staticmethod
    def _in(seconds: float) -> dt.datetime:
        return (dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)).replace(tzinfo=None)


class Machine(BaseHTTPRequestHandler):
    """The metadata server of one of Google's machines."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        body = b"project"
        if "/token" in self.path:
            body = json.dumps({"access_token": "t0ken", "expires_in": 3600}).encode()
        elif "/service-accounts/" in self.path:
            body = json.dumps({"email": "me@example", "scopes": ["all"]}).encode()
        self.send_response(200)
        self.send_header("Metadata-Flavor", "Google")
        self.send_header("Content-Type", "application/json" if body[:1] == b"{" else "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # no credentials of the user's
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setattr(_metadata, "_NO_GCE_CHECK", False)
    monkeypatch.setattr(google_login, "_PRODUCT", tmp_path / "product_name")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What a metadata server is asked."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Machine) as server:
        server.asked = asked = []  # type: ignore[attr-defined]
        place = f"127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("GCE_METADATA_IP", place)
        monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", place)
        thread = threading.Thread(target=functools.partial(server.serve_forever, 0.02))
        thread.start()
        yield asked
        server.shutdown()
        thread.join(10)


def test_the_account_of_a_google_machine_is_found_and_has_a_token(machine: list[str]) -> None:
    found, project = GoogleLogin().find(on_google=True)
    assert (found.token, project) == ("t0ken", "project")
    assert any("/token" in path for path in machine)


def test_other_storage_has_nothing_to_do_with_the_machines_account(machine: list[str]) -> None:
    assert GoogleLogin().find(on_google=False) == (None, None)
    assert machine == []


@pytest.mark.parametrize("server", ["deaf", "closed"])
def test_a_metadata_server_that_is_not_there_costs_seconds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, server: str
) -> None:
    with deaf() as silent:
        port = silent if server == "deaf" else closed_port()
        monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{port}")
        begin = time.monotonic()
        assert GoogleLogin().find(on_google=True) == (None, None)
        assert time.monotonic() - begin < 3
    assert [record for record in caplog.records if record.name.startswith("google")] == []


def test_credentials_are_looked_up_once_and_soon_again_where_there_are_none() -> None:
    clock, looks = Clock(), []

    def look(on_google: bool) -> tuple[Any, str | None]:
        looks.append(on_google)
        return None, None

    login = GoogleLogin(look, clock)
    for _ in range(3):
        assert login.find(on_google=True) == (None, None)
    clock.now += 31
    login.find(on_google=True)
    assert looks == [True, True]


@pytest.mark.parametrize(("seconds", "renewed"), [(None, 1), (-5, 1), (200, 1), (3000, 0)])
def test_credentials_are_renewed_before_they_end(seconds: float | None, renewed: int) -> None:
    held = Credentials(seconds)
    login = GoogleLogin(lambda _: (held, None))
    for _ in range(2):
        assert login.find(on_google=True) == (held, None)
    assert held.renewed == renewed


def test_a_renewal_that_fails_is_not_a_lack_of_credentials() -> None:
    class Refused(Credentials):
        def refresh(self, request: Any) -> None:
            raise google.auth.exceptions.RefreshError("invalid_grant")

    login = GoogleLogin(lambda _: (Refused(None), None))
    with pytest.raises(google.auth.exceptions.RefreshError):
        login.find(on_google=True)


def test_a_server_that_cannot_be_reached_is_asked_again_after_half_a_minute() -> None:
    clock = Clock()
    login = GoogleLogin(lambda _: (None, None), clock)
    with deaf() as port:
        assert isinstance(login.reach("127.0.0.1", port), errors.TransferTimeoutError)
        begin = time.monotonic()
        assert isinstance(login.reach("127.0.0.1", port), errors.TransferTimeoutError)
        assert time.monotonic() - begin < 1  # it is remembered
    clock.now += 31
    assert "refused" in str(login.reach("127.0.0.1", closed_port()))


LAYOUTS: dict[str, tuple[Any, BucketType]] = {
    "zone": ({"locationType": "zone"}, BucketType.ZONAL_HIERARCHICAL),
    "folders": ({"locationType": "region", "hierarchicalNamespace": {"enabled": True}}, BucketType.HIERARCHICAL),
    "plain": ({"locationType": "region"}, BucketType.NON_HIERARCHICAL),
    "hidden": (OSError("Forbidden: b"), BucketType.UNKNOWN),
    "missing": (FileNotFoundError("b"), BucketType.UNKNOWN),
    "strange": (gcsfs.retry.HttpError({"code": 501, "message": ""}), BucketType.UNKNOWN),
}


def answering(answer: Any, asked: list[str], *, anonymous: bool = False) -> Any:
    """A gcsfs file system that gives one answer to all requests."""

    async def call(_: str, path: str, bucket: str, **__: Any) -> Any:
        asked.append(path.format(bucket))
        if isinstance(answer, Exception):
            raise answer
        return answer

    held = SimpleNamespace(credentials=None if anonymous else object())
    return SimpleNamespace(credentials=held, _call=call)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_type_of_a_bucket_is_asked_once(name: str) -> None:
    answer, kind = LAYOUTS[name]
    asked: list[str] = []
    files, known = answering(answer, asked), {}
    assert [asyncio.run(_bucket_type(files, known, "bucket")) for _ in range(2)] == [kind, kind]
    assert asked == ["b/bucket/storageLayout"]


def test_a_failed_connection_is_not_a_type_of_bucket() -> None:
    files, known = answering(aiohttp.ClientConnectionError("no"), []), {}
    with pytest.raises(aiohttp.ClientConnectionError):
        asyncio.run(_bucket_type(files, known, "bucket"))
    assert known == {}


def test_nobody_without_credentials_asks_for_the_type_of_a_bucket() -> None:
    asked: list[str] = []
    assert asyncio.run(_bucket_type(answering({}, asked, anonymous=True), {}, "bucket")) is BucketType.UNKNOWN
    assert asked == []
