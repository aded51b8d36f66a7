"""Directories on storage: gs:// on a real fake-gcs-server, a mounted directory, fsspec's memory."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hubdist import errors
from hubdist.model.handle import parse_handle
from hubdist.remote import StoredFile, Tree, mounted_tree, open_tree
from hubdist.system.deadline import Deadlines
from tests.support.gcs import FakeGcs, gcs_environment
from tests.support.gcs_proxy import GcsProxy
from tests.support.places import GcsPlace, MountedPlace, Place, put_all

BUCKET = "storage"
DEADLINES = Deadlines(stall_s=20, retries=0)


@pytest.fixture
def tree(place: Place) -> Iterator[Tree]:
    with open_tree(place.url, DEADLINES) as opened:
        yield opened


def test_what_is_not_there_is_empty(tree: Tree) -> None:
    assert tree.listing() == {}
    assert tree.listing("folder") == {}
    assert tree.load("nothing") is None
    tree.delete("nothing")


def test_a_listing_has_paths_sizes_and_versions(tree: Tree, place: Place) -> None:
    put_all(place, "", {"a.txt": b"one", "deep/er/b": b"", "deeper": b"1234"})
    found = tree.listing()
    assert {path: file.size for path, file in found.items()} == {"a.txt": 3, "deep/er/b": 0, "deeper": 4}
    assert all(file.version for file in found.values())
    assert set(tree.listing("deep")) == {"er/b"}
    assert tree.listing() == found


def test_versions_differ_after_a_replacement(tree: Tree, place: Place) -> None:
    place.put("a", b"one")
    before = tree.listing()["a"]
    place.put("a", b"two")
    assert tree.listing()["a"] != before


def test_ranges_are_read(tree: Tree, place: Place) -> None:
    data = bytes(range(256)) * 5000
    place.put("deep/a b+c%20d#e", data)
    file = tree.listing()["deep/a b+c%20d#e"]
    for start, end in ((0, 1), (0, len(data)), (1000, 900_000), (len(data) - 1, len(data)), (5, 5)):
        assert tree.read("deep/a b+c%20d#e", start, end, file.version) == data[start:end]
        assert tree.read("deep/a b+c%20d#e", start, end) == data[start:end]


@pytest.mark.parametrize(("start", "end"), [(0, 11), (10, 11), (90, 100)])
def test_a_file_that_ends_early_is_told(tree: Tree, place: Place, start: int, end: int) -> None:
    place.put("short", b"0123456789")
    with pytest.raises(errors.LengthMismatchError, match="short"):
        tree.read("short", start, end)


@pytest.mark.parametrize("after", ["replaced", "deleted"])
def test_a_version_that_is_gone_is_told_with_the_objects_name(server: FakeGcs, tmp_path: Path, after: str) -> None:
    for place in (GcsPlace(server, BUCKET, f"gone-{after}"), MountedPlace(tmp_path)):
        place.put("deep/object", b"old")
        with open_tree(place.url, DEADLINES) as tree:
            version = tree.listing()["deep/object"].version
            if after == "replaced":
                place.put("deep/object", b"new")
            else:
                place.remove("deep/object")
            expected = errors.ModelNotFoundError if "://" not in place.url and after == "deleted" else None
            with pytest.raises(expected or errors.IntegrityError) as caught:
                tree.read("deep/object", 0, 3, version)
            assert f"{place.url}/deep/object" in str(caught.value)


def test_create_lets_only_the_first_win(tree: Tree, place: Place) -> None:
    assert tree.create("deep/new", b"first")
    assert not tree.create("deep/new", b"second")
    assert tree.load("deep/new") == b"first"
    assert place.files() == {"deep/new": b"first"}


@pytest.mark.parametrize("kind", ["gs", "mount"])
def test_create_lets_one_of_many_win(server: FakeGcs, tmp_path: Path, kind: str) -> None:
    place = GcsPlace(server, BUCKET, "many") if kind == "gs" else MountedPlace(tmp_path / "mount")
    with open_tree(place.url, DEADLINES) as tree, ThreadPoolExecutor(8) as pool:
        assert tree.exclusive
        for number in range(10):
            won = list(pool.map(lambda who, number=number: tree.create(f"{number}", b"%d" % who), range(8)))
            assert sum(won) == 1
            assert tree.load(f"{number}") == b"%d" % won.index(True)


def test_write_replaces(tree: Tree, place: Place) -> None:
    tree.write("deep/file", b"first")
    tree.write("deep/file", b"2")
    assert place.files() == {"deep/file": b"2"}


@pytest.mark.parametrize("size", [0, 100, 20 << 20])
def test_a_file_is_uploaded(tree: Tree, place: Place, tmp_path: Path, size: int) -> None:
    data = bytes(range(251)) * (size // 251) + bytes(size % 251)
    (tmp_path / "local").write_bytes(data)
    assert tree.upload("deep/file", tmp_path / "local")
    assert place.files() == {"deep/file": data}
    (tmp_path / "local").write_bytes(b"other")
    assert not tree.upload("deep/file", tmp_path / "local")
    assert place.files() == {"deep/file": data}
    assert tree.upload("deep/file", tmp_path / "local", create=False)
    assert place.files() == {"deep/file": b"other"}


def test_delete_deletes(tree: Tree, place: Place) -> None:
    put_all(place, "", {"a": b"1", "b": b"2"})
    tree.delete("a")
    assert place.files() == {"b": b"2"}


def test_the_md5_of_google_is_told(server: FakeGcs) -> None:
    place = GcsPlace(server, BUCKET, "md5")
    place.put("file", b"content")
    with open_tree(place.url, DEADLINES) as tree:
        assert tree.listing()["file"].md5 == hashlib.md5(b"content").hexdigest()


def test_equality_of_stored_files_does_not_ask_for_the_md5() -> None:
    assert StoredFile(1, "v", "a") == StoredFile(1, "v")
    assert StoredFile(1, "v") != StoredFile(1, "w")


def test_a_missing_bucket_is_told(server: FakeGcs) -> None:
    with open_tree("gs://no-such-bucket/folder", DEADLINES) as tree:
        with pytest.raises(errors.ModelNotFoundError, match="no-such-bucket"):
            tree.listing()
        with pytest.raises(errors.ModelNotFoundError, match="no-such-bucket"):
            tree.create("a", b"")


@pytest.mark.parametrize("url", ["https://host/x", "kaggle://a/b/c/d", "sftp://host/x", "", "relative/path"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(errors.HandleError):
        open_tree(url, DEADLINES)


def test_a_read_is_tried_again(server: FakeGcs) -> None:
    place = GcsPlace(server, BUCKET, "again")
    place.put("file", b"content")
    failed: list[str] = []

    def fail_once(number: int, when: str, request: str) -> None:
        if when == "after" and not failed:
            failed.append(request)
            raise ConnectionResetError

    with GcsProxy(server.url, fail_once) as proxy, gcs_environment(proxy.url):
        with open_tree(place.url, Deadlines(retries=2)) as tree:
            assert tree.read("file", 0, 7) == b"content"
        assert proxy.count == 2


def test_a_server_that_ignores_ranges_is_refused(server: FakeGcs, monkeypatch: pytest.MonkeyPatch) -> None:
    from hubdist.remote.gcs_client import GcsClient

    place = GcsPlace(server, BUCKET, "ignored")
    place.put("file", b"content")
    get = GcsClient._get
    monkeypatch.setattr(GcsClient, "_get", lambda self, path, version, headers: get(self, path, version, {}))
    with open_tree(place.url, DEADLINES) as tree, pytest.raises(errors.OriginError, match="ignored/file"):
        tree.read("file", 0, 3)


def test_close_ends_reads_that_wait(server: FakeGcs) -> None:
    place = GcsPlace(server, BUCKET, "waiting")
    place.put("file", b"content")
    waits, go_on = threading.Event(), threading.Event()

    def hold(number: int, when: str, request: str) -> None:
        waits.set()
        go_on.wait(20)

    with GcsProxy(server.url, hold) as proxy, gcs_environment(proxy.url), ThreadPoolExecutor(1) as pool:
        tree = open_tree(place.url, Deadlines(stall_s=20, retries=5))
        reading = pool.submit(tree.read, "file", 0, 7)
        assert waits.wait(10)
        begin = time.monotonic()
        tree.close()
        with pytest.raises(errors.TransferError):
            reading.result(10)
        assert time.monotonic() - begin < 5
        go_on.set()


def test_a_mount_that_may_not_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(mounted_tree.os, "open", refuse)
    with open_tree(str(tmp_path), DEADLINES) as tree, pytest.raises(errors.AccessDeniedError, match="written"):
        tree.write("file", b"")


def test_a_mount_without_links_has_files_made_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(mounted_tree.os, "link", refuse)
    with open_tree(f"file://{tmp_path}", DEADLINES) as tree:
        assert tree.create("file", b"first")
        assert not tree.create("file", b"second")
        (tmp_path / "local").write_bytes(b"up")
        assert tree.upload("uploaded", tmp_path / "local")
        assert (tree.load("file"), tree.load("uploaded")) == (b"first", b"up")


def test_writers_do_not_follow_links_out_of_a_mount(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"precious")
    (tmp_path / "mount").mkdir()
    (tmp_path / "mount" / "link").symlink_to(outside)
    with open_tree(str(tmp_path / "mount"), DEADLINES) as tree:
        assert tree.load("link/file") == b"precious"
        for write in (tree.delete, lambda path: tree.write(path, b"x"), lambda path: tree.create(f"{path}2", b"x")):
            with pytest.raises(errors.AccessDeniedError, match="by a link"):
                write("link/file")
    assert [(path.name, path.read_bytes()) for path in outside.iterdir()] == [("file", b"precious")]


def test_an_answer_that_is_cut_off_is_not_taken_for_the_whole() -> None:
    from hubdist.remote.fsspec_tree import RemoteTree

    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nonly a"
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        serving = pool.submit(serve)
        with gcs_environment(f"http://127.0.0.1:{listening.getsockname()[1]}"):
            tree = RemoteTree(parse_handle(f"gs://{BUCKET}/cut"), DEADLINES)
            with tree, pytest.raises(errors.OriginError, match="gs://storage/cut/file"):
                tree.load("file")
        serving.result(10)


def test_a_stream_that_breaks_off_goes_on_from_where_it_is() -> None:
    from hubdist.remote.fsspec_tree import RemoteTree

    data = bytes(range(256)) * 4096
    asked: list[str] = []

    class Breaking(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers["Range"])
            start, end = map(int, asked[-1].removeprefix("bytes=").split("-"))
            self.send_response(206)
            self.send_header("Content-Length", str(end + 1 - start))
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(data)}")
            self.end_headers()
            self.wfile.write(data[start : start + 250_000])

        def log_message(self, *_: object) -> None:
            pass

    came = bytearray()
    with ThreadingHTTPServer(("127.0.0.1", 0), Breaking) as server, ThreadPoolExecutor(1) as pool:
        serving = pool.submit(server.serve_forever, 0.05)
        with (
            gcs_environment(f"http://127.0.0.1:{server.server_address[1]}"),
            RemoteTree(parse_handle(f"gs://{BUCKET}/broken"), Deadlines(retries=1, first_wait_s=0.01)) as tree,
        ):
            for at, part in tree.stream("file", 5, 900_005, memoryview(bytearray(100_000)), "17"):
                assert at == 5 + len(came)
                came += part
        server.shutdown()
        serving.result(10)
    assert came == data[5:900_005]
    assert asked == [f"bytes={start}-900004" for start in (5, 200_005, 400_005, 600_005, 800_005)]


def test_a_mount_shows_no_files_that_are_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    with open_tree(str(tmp_path), DEADLINES) as tree:
        monkeypatch.setattr(mounted_tree.os, "fsync", lambda handle: seen.append(tree.listing()))
        tree.write("deep/file", b"content")
    assert seen[0] == {}
    assert list((tmp_path / "staging").iterdir()) == []
