"""Whatever a library or a user's function raises, wherever it is called: a typed error, nothing left, no secret."""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import http.client
import inspect
import json
import socket
import ssl
import tarfile
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import fsspec
import gcsfs.retry
import google.auth.exceptions
import kagglehub.exceptions
import pytest
import requests
import urllib3.exceptions
from fsspec.implementations.memory import MemoryFileSystem

import hubdist
from hubdist import errors
from hubdist.config.schema import Config
from hubdist.model.handle import parse_handle
from hubdist.model.source import SourceFile
from hubdist.origins import Origin, OriginSettings, open_origin
from hubdist.origins.http.targets import CheckedAdapter
from hubdist.remote import Tree, open_tree
from hubdist.system import threads
from hubdist.system.deadline import Deadline, Deadlines
from hubdist.system.disk_space import Scratch, SpaceBudget
from hubdist.system.faults import Fault, fault_of
from hubdist.system.foreign import call_foreign
from hubdist.system.mends import TABLE
from hubdist.testing.hub import LoopbackHub
from hubdist.testing.memory import MemorySink, MemorySource
from tests.support.archives import zipped
from tests.support.leaks import texts_of

CANARY = "c4n4ry"
TEXT = f"GET https://bucket.example/m?X-Signature={CANARY} with key {CANARY}"
FILES = {"saved_model.pb": b"x" * 1000}


def response_of(status: int) -> requests.Response:
    response = requests.Response()
    response.status_code, response.url, response.reason = status, TEXT, TEXT
    return response


def like(name: str, *bases: type[Exception], **fields: Any) -> Exception:
    """An exception of a library that need not be installed, by its name and shape."""
    made: Exception = type(name, bases or (Exception,), {"__module__": "somewhere"})(TEXT)
    vars(made).update(fields)
    return made


def of_google(kind: str) -> Exception:
    made: Exception = getattr(google.auth.exceptions, kind)(TEXT)
    return made


def botocore(code: str, status: int) -> Exception:
    return like("ClientError", response={"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}})


def raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


MADE: dict[str, tuple[Callable[[], Exception], Fault]] = {
    "OSError": (lambda: OSError(TEXT), Fault.INTERRUPTED),
    "EIO": (lambda: OSError(errno.EIO, TEXT), Fault.INTERRUPTED),
    "ENOSPC": (lambda: OSError(errno.ENOSPC, TEXT), Fault.FULL),
    "EDQUOT": (lambda: OSError(errno.EDQUOT, TEXT), Fault.FULL),
    "PermissionError": (lambda: PermissionError(TEXT), Fault.DENIED),
    "FileNotFoundError": (lambda: FileNotFoundError(TEXT), Fault.MISSING),
    "IsADirectoryError": (lambda: IsADirectoryError(TEXT), Fault.OTHER),
    "ConnectionResetError": (lambda: ConnectionResetError(TEXT), Fault.INTERRUPTED),
    "BrokenPipeError": (lambda: BrokenPipeError(TEXT), Fault.INTERRUPTED),
    "gaierror": (lambda: socket.gaierror(-2, TEXT), Fault.UNKNOWN_HOST),
    "gaierror again": (lambda: socket.gaierror(socket.EAI_AGAIN, TEXT), Fault.INTERRUPTED),
    "ConnectionRefusedError": (lambda: ConnectionRefusedError(TEXT), Fault.NOT_CONNECTED),
    "TimeoutError": (lambda: TimeoutError(TEXT), Fault.LATE),
    "FSTimeoutError": (lambda: fsspec.FSTimeoutError(TEXT), Fault.LATE),
    "SSLError": (lambda: ssl.SSLError(TEXT), Fault.INTERRUPTED),
    "SSLCertVerificationError": (lambda: ssl.SSLCertVerificationError(TEXT), Fault.UNTRUSTED),
    "ValueError": (lambda: ValueError(TEXT), Fault.OTHER),
    "UnicodeDecodeError": (lambda: UnicodeDecodeError("utf-8", TEXT.encode(), 0, 1, TEXT), Fault.OTHER),
    "JSONDecodeError": (lambda: json.JSONDecodeError(TEXT, TEXT, 0), Fault.OTHER),
    "KeyError": (lambda: KeyError(TEXT), Fault.OTHER),
    "TypeError": (lambda: TypeError(TEXT), Fault.OTHER),
    "AttributeError": (lambda: AttributeError(TEXT), Fault.OTHER),
    "AssertionError": (lambda: AssertionError(TEXT), Fault.OTHER),
    "RuntimeError": (lambda: RuntimeError(TEXT), Fault.OTHER),
    "RecursionError": (lambda: RecursionError(TEXT), Fault.OTHER),
    "MemoryError": (lambda: MemoryError(TEXT), Fault.OTHER),
    "NotImplementedError": (lambda: NotImplementedError(TEXT), Fault.OTHER),
    "StopIteration": (lambda: StopIteration(TEXT), Fault.OTHER),
    "StopAsyncIteration": (lambda: StopAsyncIteration(TEXT), Fault.OTHER),
    "ExceptionGroup": (lambda: ExceptionGroup(TEXT, [OSError(TEXT)]), Fault.OTHER),
    "CancelledError": (lambda: concurrent.futures.CancelledError(TEXT), Fault.OTHER),
    "IncompleteReadError": (lambda: asyncio.IncompleteReadError(TEXT.encode(), 5), Fault.INTERRUPTED),
    "EOFError": (lambda: EOFError(TEXT), Fault.DAMAGED),
    "BadZipFile": (lambda: zipfile.BadZipFile(TEXT), Fault.DAMAGED),
    "tarfile.ReadError": (lambda: tarfile.ReadError(TEXT), Fault.DAMAGED),
    "zlib.error": (lambda: zlib.error(TEXT), Fault.DAMAGED),
    "http.client.IncompleteRead": (lambda: http.client.IncompleteRead(TEXT.encode()), Fault.INTERRUPTED),
    "http.client.BadStatusLine": (lambda: http.client.BadStatusLine(TEXT), Fault.INTERRUPTED),
    "requests 403": (lambda: requests.HTTPError(TEXT, response=response_of(403)), Fault.DENIED),
    "requests 404": (lambda: requests.HTTPError(TEXT, response=response_of(404)), Fault.MISSING),
    "requests 500": (lambda: requests.HTTPError(TEXT, response=response_of(500)), Fault.INTERRUPTED),
    "requests 400": (lambda: requests.HTTPError(TEXT, response=response_of(400)), Fault.OTHER),
    "requests.ConnectionError": (lambda: requests.ConnectionError(TEXT), Fault.INTERRUPTED),
    "requests.ReadTimeout": (lambda: requests.ReadTimeout(TEXT), Fault.LATE),
    "requests.InvalidURL": (lambda: requests.exceptions.InvalidURL(TEXT), Fault.OTHER),
    "urllib3.ProtocolError": (lambda: urllib3.exceptions.ProtocolError(TEXT), Fault.INTERRUPTED),
    "urllib3.LocationParseError": (lambda: urllib3.exceptions.LocationParseError(TEXT), Fault.OTHER),
    "aiohttp.ClientPayloadError": (lambda: aiohttp.ClientPayloadError(TEXT), Fault.INTERRUPTED),
    "aiohttp.ServerDisconnectedError": (lambda: aiohttp.ServerDisconnectedError(TEXT), Fault.INTERRUPTED),
    "gcsfs 503": (lambda: gcsfs.retry.HttpError({"code": 503, "message": TEXT}), Fault.INTERRUPTED),
    "gcsfs 400": (lambda: gcsfs.retry.HttpError({"code": 400, "message": TEXT}), Fault.OTHER),
    "gcsfs.ChecksumError": (lambda: gcsfs.retry.ChecksumError(TEXT), Fault.INTERRUPTED),
    "google.DefaultCredentialsError": (lambda: of_google("DefaultCredentialsError"), Fault.NO_CREDENTIALS),
    "google.TransportError": (lambda: of_google("TransportError"), Fault.INTERRUPTED),
    "kagglehub.CredentialError": (lambda: kagglehub.exceptions.CredentialError(TEXT), Fault.DENIED),
    "kagglehub.NotFoundError": (lambda: kagglehub.exceptions.NotFoundError(TEXT), Fault.MISSING),
    "botocore.NoCredentialsError": (lambda: like("NoCredentialsError"), Fault.NO_CREDENTIALS),
    "botocore.EndpointConnectionError": (lambda: like("EndpointConnectionError"), Fault.INTERRUPTED),
    "botocore 403": (lambda: botocore("AccessDenied", 403), Fault.DENIED),
    "botocore 404": (lambda: botocore("NoSuchKey", 404), Fault.MISSING),
    "botocore SlowDown": (lambda: botocore("SlowDown", 503), Fault.BUSY),
    "botocore Throttling": (lambda: botocore("Throttling", 400), Fault.BUSY),
    "botocore 400": (lambda: botocore("InvalidRequest", 400), Fault.OTHER),
    "s3fs of 400": (lambda: raised_from(OSError(TEXT), botocore("InvalidRequest", 400)), Fault.OTHER),
    "httpx.ConnectError": (lambda: like("ConnectError"), Fault.INTERRUPTED),
    "httpx.ConnectTimeout": (lambda: like("ConnectTimeout"), Fault.LATE),
    "httpx 429": (lambda: like("HTTPStatusError", response=response_of(429)), Fault.BUSY),
    "hf.GatedRepoError": (lambda: like("GatedRepoError", response=response_of(403)), Fault.DENIED),
    "azure.ServiceRequestError": (lambda: like("ServiceRequestError"), Fault.INTERRUPTED),
    "azure.ClientAuthenticationError": (lambda: like("ClientAuthenticationError", status_code=401), Fault.DENIED),
    "azure.ResourceNotFoundError": (lambda: like("ResourceNotFoundError", status_code=404), Fault.MISSING),
    "azure 503": (lambda: like("HttpResponseError", status_code=503), Fault.INTERRUPTED),
    "pyarrow.ArrowInvalid": (lambda: like("ArrowInvalid", ValueError), Fault.OTHER),
    "google.RefreshError": (lambda: of_google("RefreshError"), Fault.REFUSED_CREDENTIALS),
    "botocore ExpiredToken": (
        lambda: raised_from(PermissionError(TEXT), botocore("ExpiredToken", 400)),
        Fault.REFUSED_CREDENTIALS,
    ),
    "botocore RequestTimeTooSkewed": (
        lambda: raised_from(PermissionError(TEXT), botocore("RequestTimeTooSkewed", 403)),
        Fault.CLOCK,
    ),
    "botocore.NoRegionError": (lambda: like("NoRegionError"), Fault.SETTING),
    "requests tunnel": (
        lambda: requests.exceptions.ProxyError(OSError(f"Tunnel connection failed: 407 {TEXT}")),
        Fault.PROXY,
    ),
    "requests tunnel 503": (
        lambda: requests.exceptions.ProxyError(OSError(f"Tunnel connection failed: 503 {TEXT}")),
        Fault.INTERRUPTED,
    ),
    "gcsfs 502": (requests.exceptions.ProxyError, Fault.INTERRUPTED),
    "aiohttp.ClientHttpProxyError": (lambda: like("ClientHttpProxyError", status=407), Fault.PROXY),
    "a stranger's": (lambda: like("Strange", code=TEXT, response={"ResponseMetadata": None, "Error": 1}), Fault.OTHER),
}
TYPES = {fault: row.kind for fault, row in TABLE.items()} | {Fault.FULL: errors.StoreFullError}
named = pytest.mark.parametrize("name", MADE)


@pytest.fixture
def memory() -> Iterator[Any]:
    files = fsspec.filesystem("memory")
    for path, data in FILES.items():
        files.pipe_file(f"/bucket/model/{path}", data)
    files.pipe_file("/bucket/m.zip", zipped(FILES))
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    wait_at_first(monkeypatch, 0.001)


def wait_at_first(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Retries of a job that a configuration describes wait no longer than this before the first one."""
    own = Config.deadlines.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(Config, "deadlines", property(lambda config: replace(own(config), first_wait_s=seconds)))


def check_error(error: errors.HubdistError) -> None:
    assert not [text for text in texts_of(error) if CANARY in text]


def refused(handle: str, store: Path, **settings: Any) -> errors.HubdistError:
    """The error of a handle, after what must hold for all of them."""
    hubdist.init(store=str(store), **{"origin_retries": 0, **settings})
    with pytest.raises(errors.HubdistError) as caught:
        hubdist.resolve(handle)
    check_error(caught.value)
    assert list((store / "staging").iterdir()) == []
    assert list((store / "snapshots").iterdir()) == []
    return caught.value


def raising(make: Callable[[], Exception]) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise make()

    return call


# What kind a failure is.


@named
def test_the_kind_of_a_failure_is_told_by_its_class_and_status(name: str) -> None:
    make, fault = MADE[name]
    assert fault_of(make()) is fault


@named
def test_a_failure_becomes_an_error_of_its_kind_without_its_text(name: str) -> None:
    make, fault = MADE[name]
    with pytest.raises(TYPES[fault], match="the place") as caught:
        call_foreign(raising(make), "the place")
    check_error(caught.value)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_an_own_error_loses_what_it_was_raised_from() -> None:
    def work() -> None:
        try:
            raise OSError(TEXT)
        except OSError as error:
            raise errors.StoreError("the disk") from error

    with pytest.raises(errors.StoreError) as caught:
        call_foreign(work, "the place")
    check_error(caught.value)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_what_is_no_failure_passes(kind: type[BaseException]) -> None:
    with pytest.raises(kind):
        call_foreign(raising(kind), "the place")  # type: ignore[arg-type]


def test_an_error_of_an_unknown_kind_says_where_it_came_from(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"), pytest.raises(errors.OriginError, match=r"raised in line \d+ of .*test_boundary"):
        call_foreign(raising(MADE["KeyError"][0]), "the place")
    assert "raise make()" in caplog.text
    assert CANARY not in caplog.text


# Storage.


@named
@pytest.mark.parametrize("method", ["find", "cat_file", "info", "__init__"])
def test_whatever_a_file_system_raises_while_a_directory_is_read(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, method: str
) -> None:
    make, fault = MADE[name]
    if method == "info":  # is asked where a listing is empty
        monkeypatch.setattr(MemoryFileSystem, "find", lambda *_, **__: {})
    monkeypatch.setattr(MemoryFileSystem, method, raising(make))
    kinds: tuple[type[Exception], ...] = (TYPES[fault],)
    if method == "__init__":  # fsspec's file systems say so by ValueErrors
        kinds = (*kinds, errors.HandleError)
    if method == "find":  # then a single file is looked for
        kinds = (*kinds, errors.ModelNotFoundError)
    assert isinstance(refused("memory://bucket/model", tmp_path / "store"), kinds)


@named
def test_whatever_a_file_system_raises_while_an_archive_is_read(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(MemoryFileSystem, "cat_file", raising(MADE[name][0]))
    assert isinstance(refused("memory://bucket/m.zip", tmp_path / "store"), TYPES[MADE[name][1]])


TREE_CALLS: dict[str, Callable[[Tree, Path], object]] = {
    "listing": lambda tree, _: tree.listing(),
    "load": lambda tree, _: tree.load("saved_model.pb"),
    "read": lambda tree, _: tree.read("saved_model.pb", 0, 5),
    "stream": lambda tree, _: list(tree.stream("saved_model.pb", 0, 5, memoryview(bytearray(5)))),
    "create": lambda tree, _: tree.create("new", b"x"),
    "write": lambda tree, _: tree.write("new", b"x"),
    "upload": lambda tree, file: tree.upload("new", file),
    "delete": lambda tree, _: tree.delete("saved_model.pb"),
}


@pytest.mark.parametrize("call", TREE_CALLS)
@pytest.mark.parametrize("kind", ["memory", "mount"])
@named
def test_whatever_is_raised_below_a_directory_on_storage(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str, call: str
) -> None:
    make, _ = MADE[name]
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "mount").mkdir()
    (tmp_path / "mount" / "saved_model.pb").write_bytes(b"x" * 10)
    url = "memory://bucket/model" if kind == "memory" else str(tmp_path / "mount")
    with open_tree(url, Deadlines(retries=0)) as tree:
        with monkeypatch.context() as patch:
            if kind == "memory":
                for method in ("find", "info", "cat_file", "pipe_file", "put_file", "rm_file"):
                    patch.setattr(MemoryFileSystem, method, raising(make))
            else:
                for owner, method in ((Path, "open"), (Path, "exists"), (Path, "resolve"), (Path, "unlink")):
                    patch.setattr(owner, method, raising(make))
                patch.setattr("os.scandir", raising(make))
            caught: BaseException | None = None
            try:
                TREE_CALLS[call](tree, tmp_path / "file")
            except Exception as error:  # noqa: BLE001 - what kind it is, is the question
                caught = error
        if caught is None:  # a missing file is no failure for these, nor is a missing directory for a listing
            assert MADE[name][1] is Fault.MISSING or isinstance(make(), (FileNotFoundError, NotADirectoryError))
        else:
            assert isinstance(caught, errors.HubdistError)
            check_error(caught)


@named
def test_only_what_may_pass_is_tried_again(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    make, fault = MADE[name]
    tries: list[int] = []

    def cat_file(*_: Any, **__: Any) -> bytes:
        tries.append(1)
        raise make()

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    refused("memory://bucket/model", tmp_path / "store", origin_retries=2)
    assert len(tries) == (3 if fault.may_pass else 1)


# Users' own origins.


class Failing(MemorySource):
    def __init__(self, make: Callable[[], Exception], where: str) -> None:
        super().__init__(FILES)
        self._make, self._where = make, where

    def entries(self) -> list[SourceFile]:
        if self._where == "entries":
            raise self._make()
        return super().entries()

    def read(self, path: str, start: int, end: int) -> bytes:
        if self._where == "read":
            raise self._make()
        return super().read(path, start, end)


@named
@pytest.mark.parametrize("where", ["the function", "entries", "read"])
def test_whatever_a_users_origin_raises(tmp_path: Path, name: str, where: str) -> None:
    make, fault = MADE[name]

    def registry(_: str) -> Failing:
        if where == "the function":
            raise make()
        return Failing(make, where)

    error = refused("registry://model", tmp_path / "store", origins={"registry": registry})
    assert isinstance(error, TYPES[fault])


@pytest.mark.parametrize("wrong", [None, 5, [None], [SourceFile("a", 1)]])
def test_a_users_origin_that_answers_nonsense(tmp_path: Path, wrong: Any) -> None:
    class Nonsense(MemorySource):
        def entries(self) -> Any:
            return wrong

        def read(self, path: str, start: int, end: int) -> Any:
            return None

    refused("registry://model", tmp_path / "store", origins={"registry": lambda _: Nonsense(FILES)})


def test_a_users_origin_is_called_in_one_thread_of_its_own(tmp_path: Path) -> None:
    seen: set[int] = set()

    class Noting(MemorySource):
        def entries(self) -> list[SourceFile]:
            seen.add(threading.get_ident())
            return super().entries()

        def read(self, path: str, start: int, end: int) -> bytes:
            seen.add(threading.get_ident())
            return super().read(path, start, end)

    def registry(_: str) -> Noting:
        seen.add(threading.get_ident())
        return Noting(FILES)

    hubdist.init(store=str(tmp_path / "store"), origins={"registry": registry})
    hubdist.resolve("registry://model")
    assert len(seen) == 1
    assert threading.get_ident() not in seen


# Kaggle and HTTP.


@named
def test_whatever_kagglehub_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    make, fault = MADE[name]
    monkeypatch.setattr(kagglehub, "model_download", raising(make))
    kinds = {**TYPES, Fault.LATE: errors.OriginError, Fault.DAMAGED: errors.OriginError}
    assert isinstance(refused("kaggle://owner/model/tensorFlow2/var/1", tmp_path / "store"), kinds[fault])


@named
@pytest.mark.parametrize("where", ["send", "read"])
def test_whatever_the_http_library_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, where: str
) -> None:
    make, _ = MADE[name]
    with LoopbackHub() as hub:
        handle = hub.add_file("m.zip", zipped(FILES))
        if where == "send":
            monkeypatch.setattr(CheckedAdapter, "send", raising(make))
        else:
            monkeypatch.setattr(urllib3.response.HTTPResponse, "read1", raising(make))
        refused(handle, tmp_path / "store")
        assert CANARY not in str(refused(handle, tmp_path / "store", route="direct"))


def test_every_origin_is_behind_the_boundary() -> None:
    kinds = [kind for direct in Origin.__subclasses__() for kind in (direct, *direct.__subclasses__())]
    assert {kind.__name__ for kind in kinds} >= {"DirectoryOrigin", "CustomOrigin", "ObjectsOrigin", "ArchiveOrigin"}
    assert all("fetch" not in vars(kind) for kind in kinds)


def test_every_call_of_a_directory_on_storage_is_behind_the_boundary() -> None:
    from hubdist.remote.fsspec_tree import RemoteTree
    from hubdist.remote.mounted_tree import MountedTree

    apart = {"close", "url", "open_stream"}  # they call nothing foreign, or what is behind it
    for kind in (MountedTree, RemoteTree):
        for name, method in inspect.getmembers(kind, inspect.isfunction):
            if not name.startswith("_") and name in vars(kind) and name not in apart:
                assert method.__code__.co_filename.endswith("/tree.py"), f"{kind.__name__}.{name}"


# Deadlines.


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What hangs until the test is over."""
    opened = threading.Event()
    yield opened
    opened.set()
    for thread in threading.enumerate():
        if thread.name.startswith("hubdist"):
            thread.join(10)


@pytest.mark.parametrize("method", ["find", "cat_file", "__init__"])
def test_a_file_system_that_hangs_is_given_up(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: threading.Event, method: str
) -> None:
    real = getattr(MemoryFileSystem, method)

    def hang(*arguments: Any, **options: Any) -> Any:
        gate.wait(30)
        return real(*arguments, **options)

    monkeypatch.setattr(MemoryFileSystem, method, hang)
    begin = time.monotonic()
    error = refused("memory://bucket/model", tmp_path / "store", stall_timeout_s=0.2)
    assert isinstance(error, errors.TransferTimeoutError)
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("where", ["the function", "entries", "read"])
def test_a_users_origin_that_hangs_is_given_up(tmp_path: Path, gate: threading.Event, where: str) -> None:
    def wait() -> Exception:
        gate.wait(30)
        return OSError(TEXT)

    def registry(_: str) -> Failing:
        if where == "the function":
            raise wait()
        return Failing(wait, where)

    begin = time.monotonic()
    error = refused("registry://model", tmp_path / "store", origins={"registry": registry}, timeout_s=0.5)
    assert isinstance(error, errors.TransferTimeoutError)
    assert time.monotonic() - begin < 5


@pytest.mark.usefixtures("gate")
def test_many_files_have_one_deadline(memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(50):
        memory.pipe_file(f"/bucket/many/{number}", b"x")
    real = MemoryFileSystem.cat_file

    def slow(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.1)
        return real(*arguments, **options)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", slow)
    begin = time.monotonic()
    error = refused("memory://bucket/many", tmp_path / "store", timeout_s=1)
    assert isinstance(error, errors.TransferTimeoutError)
    assert time.monotonic() - begin < 4


def test_retries_end_at_the_deadline(memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_at_first(monkeypatch, 0.3)
    monkeypatch.setattr(MemoryFileSystem, "cat_file", raising(MADE["ConnectionResetError"][0]))
    begin = time.monotonic()
    refused("memory://bucket/model", tmp_path / "store", timeout_s=1, origin_retries=1000)
    assert time.monotonic() - begin < 4


def test_a_sink_takes_nothing_after_the_deadline() -> None:
    class Clock:
        now = 0.0

        def __call__(self) -> float:
            return self.now

    clock = Clock()

    class Slow(MemorySource):
        def read(self, path: str, start: int, end: int) -> bytes:
            clock.now += 6
            return super().read(path, start, end)

    settings = OriginSettings(Deadlines(), custom={"registry": lambda _: Slow({"a": b"1", "b": b"2"})})
    handle = parse_handle("registry://m", custom_schemes={"registry"})
    origin = open_origin(handle, settings, Path("/nowhere"), Deadline(10, clock))
    sink = MemorySink()
    with pytest.raises(errors.TransferTimeoutError, match="registry://m was not read within 10 s"):
        origin.fetch(sink)
    assert sink.files == {"a": b"1"}


def test_the_number_of_threads_that_are_left_behind_is_bounded(
    monkeypatch: pytest.MonkeyPatch, gate: threading.Event
) -> None:
    monkeypatch.setattr(threads, "MAX_LEFT_BEHIND", 3)
    workers = threads.Workers("hubdist-hang")
    for _ in range(3):
        with pytest.raises(TimeoutError):
            workers.call(lambda: gate.wait(30), 0.01)
    begun: list[int] = []
    for call in (workers.call, threads.Worker("hubdist-hang").call):
        with pytest.raises(TimeoutError, match="earlier calls"):
            call(lambda: begun.append(1), 5)
    with pytest.raises(TimeoutError, match="earlier calls"):
        threads.run_within(lambda: begun.append(1), "hubdist-hang", 5)
    assert not begun
    gate.set()
    for thread in threading.enumerate():
        if thread.name == "hubdist-hang":
            thread.join(10)
    assert workers.call(lambda: 5, 5) == 5  # they have come back
    workers.close()


def test_closing_ends_calls_that_wait(gate: threading.Event) -> None:
    workers = threads.Workers("hubdist-hang")
    entered = threading.Event()

    def hang() -> None:
        entered.set()
        gate.wait(30)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(workers.call, hang, 30)
        assert entered.wait(10)
        workers.close()
        with pytest.raises(TimeoutError):
            waiting.result(5)
    with pytest.raises(TimeoutError):
        workers.call(lambda: None, 5)


# Room beside the model.


def test_what_lies_beside_a_model_counts(tmp_path: Path) -> None:
    room = SpaceBudget(tmp_path, 1000)
    scratch = Scratch(tmp_path, room)
    with scratch.open_file("spool") as spooled:
        spooled.write(b"x" * 900)
        room.claim(900)  # the model has its own share of max_bytes
        with pytest.raises(errors.StoreFullError, match="downloaded"):
            spooled.write(b"x" * 101)
        assert (tmp_path / "spool").stat().st_size == 900
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(errors.StoreFullError, match="the model needs"):
        room.claim(101)


def test_a_model_and_what_lies_beside_it_share_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubdist.system.disk_space.free_bytes", lambda _: 1000)
    room = SpaceBudget(tmp_path, None)
    room.claim_beside(500)
    with pytest.raises(errors.StoreFullError, match="its disk has free"):
        room.claim(500)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_while_a_zip_comes(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real = Path.open

    class Full:
        def __init__(self, file: Any) -> None:
            self._file = file

        def write(self, _: bytes) -> int:
            raise OSError(number, "full")

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    def opened(path: Path, *arguments: Any, **options: Any) -> Any:
        file = real(path, *arguments, **options)
        return Full(file) if path.name == "archive.zip" else file

    monkeypatch.setattr(Path, "open", opened)
    error = refused("memory://bucket/m.zip", tmp_path / "store")
    assert isinstance(error, errors.StoreFullError)
    assert error.path is not None


def test_a_download_of_kagglehub_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: threading.Event) -> None:
    def download(_: str, output_dir: str) -> str:
        Path(output_dir, "big").write_bytes(bytes(2 << 20))
        gate.wait(30)
        return output_dir

    monkeypatch.setattr(kagglehub, "model_download", download)
    error = refused("kaggle://owner/model/tensorFlow2/var/1", tmp_path / "store", max_store_bytes="1MiB")
    assert isinstance(error, errors.StoreFullError)


# The place that a URL names.


class Placed(MemoryFileSystem):
    """A file system with a host, as those of hdfs:// and abfss:// are: its files are those of the host."""

    store: dict[str, Any] = {}  # noqa: RUF012 - as in the class that it stands for
    opened: list[dict[str, Any]] = []  # noqa: RUF012 - what it was made with

    def __init__(self, host: str = "default", **options: Any) -> None:
        super().__init__(**options)
        self.opened.append({"host": host})
        self._host = host

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, Any]:
        return {"host": path.partition("://")[2].partition("/")[0]}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.partition("://")[2].partition("/")[2] if "://" in path else path

    def cat_file(self, path: str, start: Any = None, end: Any = None, **options: Any) -> Any:
        return self._host.encode()

    def find(self, path: str, **_: Any) -> dict[str, Any]:
        return {f"{path}/data": {"name": f"{path}/data", "size": len(self._host), "type": "file"}}


@pytest.mark.parametrize("scheme", ["hdfs", "oci", "abfss"])
def test_the_host_in_a_url_is_a_part_of_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setattr(fsspec, "get_filesystem_class", lambda _: Placed)
    monkeypatch.setattr(fsspec, "filesystem", lambda _, skip_instance_cache, **options: Placed(**options))
    hubdist.init(store=str(tmp_path / "store"), origin_retries=0)
    for host in ("one:8020", "two:8020"):
        root = Path(hubdist.resolve(f"{scheme}://{host}/models/m"))
        assert (root / "data").read_text() == host


def test_hdfs_is_read_through_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrow = pytest.importorskip("pyarrow.fs")
    asked: list[tuple[str, int]] = []

    def hadoop(host: str = "default", port: int = 0, **_: Any) -> Any:
        asked.append((host, port))
        return arrow.LocalFileSystem()

    monkeypatch.setattr(arrow, "HadoopFileSystem", hadoop)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "saved_model.pb").write_bytes(bytes(range(256)) * 40_000)
    hubdist.init(store=str(tmp_path / "store"), origin_retries=0)
    root = Path(hubdist.resolve(f"hdfs://namenode:8020{tmp_path}/model"))
    assert (root / "saved_model.pb").read_bytes() == bytes(range(256)) * 40_000
    assert set(asked) == {("namenode", 8020)}
    with open_tree(f"hdfs://namenode:8020{tmp_path}/model", Deadlines(retries=0)) as tree:
        assert tree.read("saved_model.pb", 3, 5) == b"\x03\x04"
        assert tree.load("saved_model.pb") == bytes(range(256)) * 40_000
        assert tree.create("deep/new", b"x")
        assert not tree.create("deep/new", b"y")
    assert (tmp_path / "model" / "deep" / "new").read_bytes() == b"x"


def test_another_account_than_the_handles_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Azure(MemoryFileSystem):
        service_client = type("Client", (), {"account_name": "other"})

        @staticmethod
        def _get_kwargs_from_urls(path: str) -> dict[str, Any]:
            return {"account_name": "mine"}

    monkeypatch.setattr(fsspec, "get_filesystem_class", lambda _: Azure)
    monkeypatch.setattr(fsspec, "filesystem", lambda _, skip_instance_cache, **options: Azure(**options))
    error = refused("abfss://container@mine.dfs.core.windows.net/m", tmp_path / "store")
    assert isinstance(error, errors.HandleError)
    assert "container@mine" in str(error)
    assert "account other" in str(error)
