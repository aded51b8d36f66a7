"""Directories and archives on object storage: gs:// on a real fake-gcs-server, memory:// and missing packages."""

from __future__ import annotations

import contextlib
import gc
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import aiohttp
import fsspec
import pytest

import hubdist
from hubdist import errors
from hubdist.model.handle import parse_handle
from hubdist.origins import OriginSettings, open_origin
from hubdist.system.deadline import Deadlines
from hubdist.testing.memory import MemorySink
from tests.support.archives import tar, targz, zipped
from tests.support.gcs import FakeGcs, fake_gcs, gcs_environment

FILES = {"saved_model.pb": bytes(range(256)) * 40, "assets/words.txt": b"one\ntwo\n", "empty.txt": b""}
BUCKET = "models"


@pytest.fixture(autouse=True)
def no_metadata_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test asks whether it runs on Google's machines."""
    monkeypatch.setenv("NO_GCE_CHECK", "true")


@pytest.fixture
def memory() -> Iterator[Any]:
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


def resolved(handle: str, store: Path, **settings: Any) -> dict[str, bytes]:
    hubdist.init(store=str(store), origin_retries=0, **settings)
    root = Path(hubdist.resolve(handle))
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def fetched(handle: str, scratch: Path) -> dict[str, bytes]:
    sink = MemorySink()
    open_origin(parse_handle(handle), OriginSettings(Deadlines(retries=0)), scratch).fetch(sink)
    return sink.files


def staged(store: Path) -> list[Path]:
    return list((store / "staging").iterdir())


def test_a_directory_is_read_whole(server: FakeGcs, tmp_path: Path) -> None:
    server.put_all(BUCKET, "whole", FILES)
    assert resolved(f"gs://{BUCKET}/whole", tmp_path / "store") == FILES


def test_a_directory_on_the_servers_disk_is_read_whole(tmp_path: Path) -> None:
    with fake_gcs(backend="filesystem") as server:
        server.make_bucket("other")
        server.put_all("other", "deep/model", FILES)
        assert resolved("gs://other/deep/model/", tmp_path / "store") == FILES


def test_a_whole_bucket_is_a_directory(server: FakeGcs, tmp_path: Path) -> None:
    server.make_bucket("a-bucket-alone")
    for name, data in FILES.items():
        server.put("a-bucket-alone", name, data)
    assert resolved("gs://a-bucket-alone", tmp_path / "store") == FILES


def test_names_that_urls_would_quote_come_out_as_they_are(server: FakeGcs, tmp_path: Path) -> None:
    files = {"saved_model.pb": b"x", "assets/a b+c%20d#e.txt": b"quoted"}
    server.put_all(BUCKET, "quoted dir", files)
    assert resolved(f"gs://{BUCKET}/quoted dir", tmp_path / "store") == files


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz", ".zip"])
def test_an_archive_is_unpacked(server: FakeGcs, tmp_path: Path, suffix: str) -> None:
    pack: Callable[[dict[str, bytes]], bytes] = {".tar": tar, ".zip": zipped}.get(suffix, targz)
    server.put(BUCKET, f"archives/x{suffix}", pack(FILES))
    assert resolved(f"gs://{BUCKET}/archives/x{suffix}", tmp_path / "store") == FILES


def test_members_of_archives_are_found(server: FakeGcs, tmp_path: Path) -> None:
    inner = {f"deep/model/{name}": data for name, data in FILES.items()} | {"other.txt": b"other"}
    server.put(BUCKET, "members/x.zip", zipped(inner))
    server.put(BUCKET, "members/x.tar.gz", targz(inner))
    assert fetched(f"zip://deep/model::gs://{BUCKET}/members/x.zip", tmp_path) == FILES
    assert fetched(f"tar://deep/model::gs://{BUCKET}/members/x.tar.gz", tmp_path) == FILES


@pytest.mark.parametrize(
    "handle",
    [
        "gs://no-such-bucket/model",
        "gs://no-such-bucket/model.tar.gz",
        f"gs://{BUCKET}/no-such-model",
        f"gs://{BUCKET}/no-such-model.tar.gz",
        f"zip://inner::gs://{BUCKET}/no-such-model.zip",
    ],
)
def test_what_is_not_there_is_not_found(server: FakeGcs, tmp_path: Path, handle: str) -> None:
    with pytest.raises(errors.ModelNotFoundError) as caught:
        resolved(handle, tmp_path / "store")
    assert caught.value.handle == handle
    assert staged(tmp_path / "store") == []


@pytest.mark.parametrize("name", ["model.onnx", "model.keras", "weights", "a b+c%20d#e.npz", "empty.bin"])
def test_one_object_is_a_model_of_one_file(server: FakeGcs, tmp_path: Path, name: str) -> None:
    data = b"" if name == "empty.bin" else zipped({"weights": b"w" * 5000})
    server.put(BUCKET, f"single/{name}", data)
    assert fetched(f"gs://{BUCKET}/single/{name}", tmp_path) == {name: data}
    assert resolved(f"gs://{BUCKET}/single/{name}", tmp_path / "store", route="direct") == {name: data}


def test_one_object_in_memory_is_a_model_of_one_file(tmp_path: Path, memory: Any) -> None:
    memory.pipe("/bucket/model.gguf", b"GGUF")
    assert fetched("memory://bucket/model.gguf", tmp_path) == {"model.gguf": b"GGUF"}


def test_one_object_that_is_replaced_while_it_is_read_is_an_error(
    server: FakeGcs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put(BUCKET, "single/replaced.bin", b"old")
    replace_at_first_read(monkeypatch, lambda: server.put(BUCKET, "single/replaced.bin", b"new"))
    with pytest.raises(errors.OriginError, match="changed while it was read"):
        fetched(f"gs://{BUCKET}/single/replaced.bin", tmp_path)


def test_of_an_object_and_a_directory_of_one_name_the_directory_is_taken(server: FakeGcs, tmp_path: Path) -> None:
    server.put(BUCKET, "both", b"a file")
    server.put_all(BUCKET, "both", FILES)
    assert fetched(f"gs://{BUCKET}/both", tmp_path) == FILES


def test_an_object_may_be_read_by_who_may_not_list(
    server: FakeGcs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gcsfs

    async def refuse(*args: Any, **options: Any) -> None:
        raise PermissionError("storage.objects.list")

    server.put(BUCKET, "single/unlisted.bin", b"data")
    monkeypatch.setattr(gcsfs.GCSFileSystem, "_find", refuse)
    assert fetched(f"gs://{BUCKET}/single/unlisted.bin", tmp_path) == {"unlisted.bin": b"data"}
    with pytest.raises(errors.AccessDeniedError):
        fetched(f"gs://{BUCKET}/single/nothing.bin", tmp_path)


def test_the_file_of_a_saved_model_means_its_directory(server: FakeGcs, tmp_path: Path) -> None:
    server.put_all(BUCKET, "by-file", FILES)
    assert fetched(f"gs://{BUCKET}/by-file/saved_model.pb", tmp_path) == FILES


def test_versions_are_refused_before_a_byte_is_read(
    server: FakeGcs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"{version}/{name}": data for version in (1, 2, 10) for name, data in FILES.items()}
    server.put_all(BUCKET, "served", files)
    reads: list[None] = []
    replace_at_first_read(monkeypatch, lambda: reads.append(None))
    with pytest.raises(errors.NotAModelError) as caught:
        resolved(f"gs://{BUCKET}/served", tmp_path / "store")
    assert "1, 2, 10" in str(caught.value)
    assert f"gs://{BUCKET}/served/10." in str(caught.value)
    assert reads == []
    assert staged(tmp_path / "store") == []
    assert fetched(f"gs://{BUCKET}/served/2", tmp_path) == FILES


def test_markers_of_directories_are_no_files(server: FakeGcs, tmp_path: Path) -> None:
    server.put_all(BUCKET, "marked", {**FILES, "": b"", "assets/": b"", "nothing/": b""})
    assert fetched(f"gs://{BUCKET}/marked", tmp_path) == FILES


def test_names_that_only_begin_alike_are_not_taken(server: FakeGcs, tmp_path: Path) -> None:
    server.put_all(BUCKET, "alike", FILES)
    server.put(BUCKET, "alike2", b"a file")
    server.put_all(BUCKET, "alike-too", {"saved_model.pb": b"another model"})
    assert fetched(f"gs://{BUCKET}/alike", tmp_path) == FILES


def replace_at_first_read(monkeypatch: pytest.MonkeyPatch, replace: Callable[[], None], *, after: bool = True) -> None:
    """Call `replace` once: right after, or right before, the first bytes were read from gs://."""
    import gcsfs

    read = gcsfs.GCSFileSystem._cat_file
    left = [replace]

    async def read_and_replace(*args: Any, **options: Any) -> bytes:
        if not after and left:
            left.pop()()
        data: bytes = await read(*args, **options)
        if after and left:
            left.pop()()
        return data

    monkeypatch.setattr(gcsfs.GCSFileSystem, "_cat_file", read_and_replace)


@pytest.mark.parametrize("after", [True, False])
def test_an_object_that_is_replaced_while_the_directory_is_read_is_an_error(
    server: FakeGcs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    server.put_all(BUCKET, f"replaced-{after}", FILES)
    new = {name: data[::-1] for name, data in FILES.items()}  # of the same size
    replace_at_first_read(monkeypatch, lambda: server.put_all(BUCKET, f"replaced-{after}", new), after=after)
    with pytest.raises(errors.OriginError, match="changed while it was read"):
        resolved(f"gs://{BUCKET}/replaced-{after}", tmp_path / "store")
    assert staged(tmp_path / "store") == []
    assert list((tmp_path / "store" / "snapshots").iterdir()) == []
    assert resolved(f"gs://{BUCKET}/replaced-{after}", tmp_path / "store") == new


def test_a_file_that_is_added_while_the_directory_is_read_is_an_error(
    server: FakeGcs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put_all(BUCKET, "growing", FILES)
    replace_at_first_read(monkeypatch, lambda: server.put(BUCKET, "growing/variables/late", b"late"))
    with pytest.raises(errors.OriginError, match="changed while it was read"):
        fetched(f"gs://{BUCKET}/growing", tmp_path)


def test_an_archive_that_is_replaced_while_it_is_read_is_an_error(
    server: FakeGcs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A plain tar has no checksum over its files: only the object's version tells of the mix.
    big = {"saved_model.pb": b"old" * (4 << 20), "extra.bin": b"same"}
    server.put(BUCKET, "replaced.tar", tar(big))
    new = tar({**big, "saved_model.pb": b"new" * (4 << 20)})
    replace_at_first_read(monkeypatch, lambda: server.put(BUCKET, "replaced.tar", new))
    with pytest.raises(errors.OriginError, match="changed while it was read"):
        resolved(f"gs://{BUCKET}/replaced.tar", tmp_path / "store")
    assert staged(tmp_path / "store") == []


def test_an_archive_that_is_deleted_while_it_is_read_is_an_error(tmp_path: Path, memory: Any) -> None:
    memory.pipe("/bucket/x.tar", tar({"saved_model.pb": bytes(20 << 20)}))
    read = memory.cat_file

    def read_and_delete(*args: Any, **options: Any) -> bytes:
        data: bytes = read(*args, **options)
        memory.store.clear()
        return data

    with pytest.MonkeyPatch.context() as patch, pytest.raises(errors.ModelNotFoundError):
        patch.setattr(type(memory), "cat_file", lambda self, *args, **options: read_and_delete(*args, **options))
        fetched("memory://bucket/x.tar", tmp_path)


def test_connections_are_closed_after_each_handle(
    server: FakeGcs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gcsfs

    made: list[aiohttp.ClientSession] = []
    make = gcsfs.core.get_client

    async def noted(**options: Any) -> aiohttp.ClientSession:
        made.append(await make(**options))
        return made[-1]

    monkeypatch.setattr(gcsfs.core, "get_client", noted)
    server.put_all(BUCKET, "closed", FILES)
    server.put(BUCKET, "closed.tar.gz", targz(FILES))
    fetched(f"gs://{BUCKET}/closed", tmp_path)
    fetched(f"gs://{BUCKET}/closed.tar.gz", tmp_path)
    with pytest.raises(errors.ModelNotFoundError):
        fetched(f"gs://{BUCKET}/closed-not", tmp_path)
    assert [session.closed for session in made] == [True, True, True]


@contextlib.contextmanager
def silent_server() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("handle", ["gs://bucket/model", "gs://bucket/model.tar.gz"])
def test_a_server_that_never_answers_is_given_up(tmp_path: Path, handle: str) -> None:
    begin = time.monotonic()
    with (
        silent_server() as url,
        gcs_environment(url),
        pytest.raises(errors.TransferTimeoutError) as caught,
    ):
        resolved(handle, tmp_path / "store", stall_timeout_s=1)
    assert time.monotonic() - begin < 10
    assert caught.value.handle == handle
    assert staged(tmp_path / "store") == []
    gc.collect()  # whatever was left open is told by a warning now


class Refusing(threading.Thread):
    """A server that answers every request with one status."""

    def __init__(self, status: str) -> None:
        super().__init__(name="refusing")
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._answer = f"HTTP/1.1 {status}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}".encode()
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def run(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            with connection:
                connection.settimeout(10)
                if not connection.recv(65536):
                    return
                connection.sendall(self._answer)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.create_connection(self._listening.getsockname()):
            pass  # an empty connection ends the thread
        self.join(10)
        self._listening.close()


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
def test_missing_rights_are_told(tmp_path: Path, status: str) -> None:
    with (
        Refusing(status) as refusing,
        gcs_environment(refusing.url),
        pytest.raises(errors.AccessDeniedError) as caught,
    ):
        resolved("gs://bucket/model", tmp_path / "store")
    assert "credentials" in str(caught.value)
    assert caught.value.handle == "gs://bucket/model"


def test_nobody_at_the_other_end_is_an_origin_error(tmp_path: Path) -> None:
    with silent_server() as url:
        pass
    with gcs_environment(url), pytest.raises(errors.TransferError):
        resolved("gs://bucket/model", tmp_path / "store", stall_timeout_s=2)


def test_a_file_system_on_fsspec_is_read(tmp_path: Path, memory: Any) -> None:
    for name, data in FILES.items():
        memory.pipe(f"/bucket/model/{name}", data)
    memory.pipe("/bucket/x.tar.gz", targz(FILES))
    memory.pipe("/bucket/x.zip", zipped({f"inner/{name}": data for name, data in FILES.items()}))
    assert resolved("memory://bucket/model", tmp_path / "store") == FILES
    assert fetched("memory://bucket/x.tar.gz", tmp_path) == FILES
    assert fetched("zip://inner::memory://bucket/x.zip", tmp_path) == FILES


def test_a_file_replaced_in_memory_is_noticed(tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe("/bucket/model/saved_model.pb", b"old")
    read = type(memory).cat_file

    def read_and_replace(self: Any, *args: Any, **options: Any) -> bytes:
        data: bytes = read(self, *args, **options)
        self.pipe("/bucket/model/saved_model.pb", b"new")
        return data

    monkeypatch.setattr(type(memory), "cat_file", read_and_replace)
    with pytest.raises(errors.OriginError, match="changed while it was read"):
        fetched("memory://bucket/model", tmp_path)


def test_hostile_names_are_refused(server: FakeGcs, tmp_path: Path) -> None:
    server.put_all(BUCKET, "hostile", {"saved_model.pb": b"x", "a\\b": b"x"})
    with pytest.raises(errors.IntegrityError):
        resolved(f"gs://{BUCKET}/hostile", tmp_path / "store")
    assert staged(tmp_path / "store") == []


@pytest.mark.parametrize(
    ("handle", "package"), [("s3://bucket/model", "s3fs"), ("az://bucket/x.tar.gz", "adlfs"), ("oci://b/m", "ocifs")]
)
def test_a_missing_package_is_named_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handle: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(errors.HandleError, match=f"pip install {package}") as caught:
        resolved(handle, tmp_path / "store")
    assert caught.value.handle == handle
    assert staged(tmp_path / "store") == []
