"""Objects that are stored with a Content-Encoding: read as Google's tools read them, in ranges and as a whole."""

from __future__ import annotations

import gzip
import hashlib
import os
import tracemalloc
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hubdist
from hubdist import errors
from hubdist.model.chunks import Chunk, cut_chunks
from hubdist.model.handle import parse_handle
from hubdist.model.manifest import EntryDigester, Manifest
from hubdist.origins import OriginSettings, open_origin
from hubdist.remote import Tree, gcs_contents, inflated_copies, open_tree
from hubdist.remote.compressed_objects import Inflated, KnownSizes
from hubdist.remote.copy_reader import CopyReader, copy_remote
from hubdist.remote.gcs_client import GcsClient
from hubdist.remote.snapshot_copy import RemoteCopy, check_copy, list_copy, probe
from hubdist.shared_cache.cache import SharedCache
from hubdist.store.store import Store
from hubdist.system.deadline import Deadlines
from hubdist.testing.memory import MemorySink
from tests.support.archives import tar, targz, zipped
from tests.support.gcs import FakeGcs, gcs_environment
from tests.support.gcs_proxy import GcsProxy

BUCKET = "encoded"
DEADLINES = Deadlines(stall_s=20, retries=0)
DATA = os.urandom(50_000) + bytes(3_000_000) + os.urandom(50_000)
FILES = {"saved_model.pb": DATA, "variables/data-0": os.urandom(2_000_000), "assets/words.txt": b"a\nb\n", "empty": b""}


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> str:
    return hashlib.sha1(request.node.name.encode()).hexdigest()[:12]


@pytest.fixture
def tree(server: FakeGcs, folder: str) -> Iterator[Tree]:
    with open_tree(f"gs://{BUCKET}/{folder}", DEADLINES) as opened:
        yield opened


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test has sizes that another one measured."""
    monkeypatch.setattr(gcs_contents, "_known_sizes", KnownSizes())


class Requests(list[str]):
    """The requests that a server got, for use with `GcsProxy`."""

    def note(self, _: int, when: str, request: str) -> None:
        if when == "before":
            self.append(unquote(request))

    def reads(self) -> int:
        return len([line for line in self if "alt=media" in line])


def fetched(handle: str, scratch: Path, max_bytes: int | None = None) -> dict[str, bytes]:
    sink = MemorySink()
    open_origin(parse_handle(handle), OriginSettings(DEADLINES, max_bytes), scratch).fetch(sink)
    return sink.files


def manifest_of(files: Mapping[str, bytes]) -> Manifest:
    entries = []
    for path, data in files.items():
        digester = EntryDigester(path)
        digester.update(data)
        entries.append(digester.entry())
    return Manifest.of(entries)


# The stored bytes and their content


class Bytes:
    """A stream of bytes that come in small parts."""

    def __init__(self, data: bytes, part: int = 7) -> None:
        self._data = data
        self._part = part

    def read(self, size: int, /) -> bytes:
        count = min(size, self._part)
        data, self._data = self._data[:count], self._data[count:]
        return data


def whole(stream: Inflated, size: int = 1000) -> bytes:
    return b"".join(iter(lambda: stream.read(size), b""))


@settings(deadline=None, max_examples=100)
@given(
    parts=st.lists(st.binary(max_size=2000), min_size=1, max_size=3),
    size=st.integers(1, 3000),
    part=st.integers(1, 3000),
)
def test_what_was_compressed_comes_out(parts: list[bytes], size: int, part: int) -> None:
    stored = b"".join(gzip.compress(each) for each in parts)
    assert whole(Inflated(Bytes(stored, part), "x"), size) == b"".join(parts)


@settings(deadline=None, max_examples=100)
@given(data=st.binary(max_size=3000).filter(lambda data: not data.startswith(b"\x1f\x8b")), part=st.integers(1, 3000))
def test_what_is_not_a_gzip_stays_as_it_is(data: bytes, part: int) -> None:
    assert whole(Inflated(Bytes(data, part), "x")) == data


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


GZIPPED = gzip.compress(os.urandom(5000))
DAMAGED = {
    "short": GZIPPED[:-1],
    "only a head": GZIPPED[:2],
    "followed by something else": GZIPPED + b"more",
    "another checksum": flipped(GZIPPED, -8 % len(GZIPPED)),
    "another length": flipped(GZIPPED, -4 % len(GZIPPED)),
    "another kind": flipped(GZIPPED, 2),
}


@pytest.mark.parametrize("stored", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_gzip_is_told_with_the_objects_name(server: FakeGcs, tree: Tree, folder: str, stored: bytes) -> None:
    server.put(BUCKET, f"{folder}/file", stored, encoding="gzip")
    with pytest.raises(errors.IntegrityError, match=f"gs://{BUCKET}/{folder}/file has Content-Encoding: gzip, but"):
        tree.listing()


# Listings


def test_a_listing_has_the_sizes_of_the_contents(server: FakeGcs, tree: Tree, folder: str) -> None:
    server.put_gzipped(BUCKET, folder, FILES)
    server.put(BUCKET, f"{folder}/plain", b"12345")
    found = tree.listing()
    assert {path: file.size for path, file in found.items()} == {
        **{path: len(data) for path, data in FILES.items()},
        "plain": 5,
    }
    assert all(file.version for file in found.values())
    assert tree.listing() == found
    assert {path: file.size for path, file in tree.listing("assets").items()} == {"words.txt": 4}


def test_the_md5_of_the_stored_bytes_is_not_taken_for_that_of_the_content(
    server: FakeGcs, tree: Tree, folder: str
) -> None:
    server.put_gzipped(BUCKET, folder, FILES)
    assert {file.md5 for file in tree.listing().values()} == {""}


def test_each_version_is_measured_once(server: FakeGcs, folder: str) -> None:
    server.put_gzipped(BUCKET, folder, FILES)
    requests = Requests()
    with GcsProxy(server.url, requests.note) as proxy, gcs_environment(proxy.url):
        for _ in range(3):
            list_copy(f"gs://{BUCKET}/{folder}", DEADLINES)
        assert requests.reads() == len(FILES)
        server.put_gzipped(BUCKET, folder, {"empty": b"not any more"})
        assert list_copy(f"gs://{BUCKET}/{folder}", DEADLINES).files["empty"].size == 12
        assert requests.reads() == len(FILES) + 1


def test_measuring_keeps_little_in_memory(server: FakeGcs, tree: Tree, folder: str) -> None:
    server.put_gzipped(BUCKET, folder, {"zeros": bytes(100 << 20)})
    tracemalloc.start()
    try:
        assert tree.listing()["zeros"].size == 100 << 20
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "deflate"])
def test_another_encoding_is_refused_with_the_objects_name(
    server: FakeGcs, tree: Tree, folder: str, tmp_path: Path, encoding: str
) -> None:
    server.put(BUCKET, f"{folder}/file", b"anything", encoding=encoding)
    version = str(server.generation(BUCKET, f"{folder}/file"))
    for read in (
        tree.listing,
        lambda: tree.load("file"),
        lambda: tree.read("file", 0, 100, version),
        lambda: fetched(f"gs://{BUCKET}/{folder}", tmp_path),
    ):
        with pytest.raises(errors.OriginError, match=f"{folder}/file is stored with Content-Encoding: {encoding}"):
            read()


@pytest.mark.parametrize("encoding", ["GZIP", "x-gzip"])
def test_other_names_of_gzip_are_known(server: FakeGcs, tree: Tree, folder: str, encoding: str) -> None:
    server.put(BUCKET, f"{folder}/file", gzip.compress(b"content"), encoding=encoding)
    assert tree.read("file", 1, 7, tree.listing()["file"].version) == b"ontent"


# Ranges


@pytest.mark.parametrize("stored", ["gzip", "not gzip", "no-transform", "plain"])
def test_ranges_are_those_of_the_content(
    server: FakeGcs, tree: Tree, folder: str, stored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = gzip.compress(DATA, 1) if stored in ("gzip", "no-transform") else DATA
    server.put(BUCKET, f"{folder}/file", data, encoding="" if stored == "plain" else "gzip")
    if stored == "no-transform":  # the server then never inflates, as if all requests accepted gzip
        get = GcsClient._get
        monkeypatch.setattr(
            GcsClient,
            "_get",
            lambda self, path, version, headers: get(self, path, version, {**headers, "Accept-Encoding": "gzip"}),
        )
    file = tree.listing()["file"]
    assert file.size == len(DATA)
    edges = st.sampled_from([0, 1, len(data) - 1, len(data), len(DATA) - 1, len(DATA)]) | st.integers(0, len(DATA))

    @settings(deadline=None, max_examples=60)
    @given(edges=st.tuples(edges, edges).map(sorted), versioned=st.booleans(), buffer_bytes=st.integers(1, 200))
    def check(edges: list[int], versioned: bool, buffer_bytes: int) -> None:
        start, end = (min(edge, len(DATA)) for edge in edges)
        version = file.version if versioned else ""
        assert tree.read("file", start, end, version) == DATA[start:end]
        came = bytearray()
        for at, part in tree.stream("file", start, end, memoryview(bytearray(buffer_bytes * 1000)), version):
            assert at == start + len(came)
            came += part
        assert came == DATA[start:end]
        with pytest.raises(errors.LengthMismatchError, match=f"{folder}/file"):
            tree.read("file", start, len(DATA) + 1, version)

    check()
    assert tree.load("file") == DATA


def test_ranges_need_no_listing(server: FakeGcs, tree: Tree, folder: str) -> None:
    server.put_gzipped(BUCKET, folder, FILES)
    assert tree.read("saved_model.pb", 49_990, 50_010) == DATA[49_990:50_010]
    assert tree.load("assets/words.txt") == b"a\nb\n"
    assert tree.load("empty") == b""
    assert tree.load("nothing") is None


def test_many_readers_of_one_object_make_one_copy(server: FakeGcs, folder: str) -> None:
    server.put_gzipped(BUCKET, folder, {"file": DATA})
    requests = Requests()
    with GcsProxy(server.url, requests.note) as proxy, gcs_environment(proxy.url), ThreadPoolExecutor(8) as pool:
        with open_tree(f"gs://{BUCKET}/{folder}", DEADLINES) as tree:
            version = tree.look("file").file.version  # type: ignore[attr-defined]
            assert tree.read("file", 0, 1, version) == DATA[:1]
            before = requests.reads()
            ranges = [(start, start + 100_000) for start in range(0, 3_000_000, 100_000)]
            found = list(pool.map(lambda each: tree.read("file", *each, version), ranges))
        assert found == [DATA[start:end] for start, end in ranges]
        assert requests.reads() == before == 2  # the one that told that it is encoded, and the one for the copy


def test_a_copy_that_breaks_off_goes_on(server: FakeGcs, folder: str) -> None:
    server.put_gzipped(BUCKET, folder, {"file": DATA})
    failed: list[str] = []

    def fail_each_once(_: int, when: str, request: str) -> None:
        if when == "after" and request not in failed:
            failed.append(request)
            raise ConnectionResetError

    with (
        GcsProxy(server.url, fail_each_once) as proxy,
        gcs_environment(proxy.url),
        open_tree(f"gs://{BUCKET}/{folder}", Deadlines(retries=2, first_wait_s=0.01)) as tree,
    ):
        assert tree.read("file", 10, 3_000_000) == DATA[10:3_000_000]
    assert failed


@pytest.mark.parametrize("when", ["before the first range", "after the first range"])
def test_a_version_that_is_gone_is_told(server: FakeGcs, folder: str, when: str) -> None:
    server.put_gzipped(BUCKET, folder, {"file": DATA})
    with open_tree(f"gs://{BUCKET}/{folder}", DEADLINES) as tree:
        version = tree.listing()["file"].version
        if when == "after the first range":
            tree.read("file", 0, 1, version)
        server.put_gzipped(BUCKET, folder, {"file": DATA[::-1]})
        if when == "after the first range":  # the copy is of the version that was asked for
            assert tree.read("file", 0, 100, version) == DATA[:100]
        else:
            with pytest.raises(errors.IntegrityError, match=f"{folder}/file was replaced"):
                tree.read("file", 0, 1, version)
        assert tree.read("file", 0, 100) == DATA[::-1][:100]


# Limits


def test_a_content_of_more_than_max_bytes_is_refused(server: FakeGcs, folder: str, tmp_path: Path) -> None:
    server.put_gzipped(BUCKET, folder, {"saved_model.pb": b"x", "bomb": bytes(30 << 20)})
    handle = f"gs://{BUCKET}/{folder}"
    with open_tree(handle, DEADLINES, max_bytes=20 << 20) as tree:
        with pytest.raises(errors.StoreFullError, match=f"{folder}/bomb.*max_store_bytes"):
            tree.listing()
        with pytest.raises(errors.StoreFullError, match=f"{folder}/bomb.*max_store_bytes"):
            tree.read("bomb", 0, 1)
    hubdist.init(store=str(tmp_path / "store"), max_store_bytes=20 << 20, origin_retries=0)
    with pytest.raises(errors.StoreFullError):
        hubdist.resolve(handle)
    assert list((tmp_path / "store" / "staging").iterdir()) == []


def test_a_disk_without_room_for_a_copy_is_told_with_what_to_do(
    server: FakeGcs, tree: Tree, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put_gzipped(BUCKET, folder, {"file": bytes(10 << 20)})
    room = inflated_copies.SpaceBudget
    monkeypatch.setattr(inflated_copies, "SpaceBudget", lambda parent, _: room(parent, 5 << 20))
    assert tree.listing()["file"].size == 10 << 20  # which needs no copy
    with pytest.raises(errors.StoreFullError, match=f"{folder}/file.*TMPDIR"):
        tree.read("file", 0, 1)


def test_a_closed_tree_gives_nothing_of_its_copies(server: FakeGcs, folder: str) -> None:
    server.put_gzipped(BUCKET, folder, {"file": DATA})
    with open_tree(f"gs://{BUCKET}/{folder}", DEADLINES) as tree:
        version = tree.listing()["file"].version
        tree.read("file", 0, 1, version)
    with pytest.raises(errors.OriginError, match="was ended"):
        tree.read("file", 0, 1, version)


def test_where_only_gcsfs_may_read_it_is_told_what_to_do(server: FakeGcs, folder: str) -> None:
    server.put_gzipped(BUCKET, folder, {"file": DATA})
    with open_tree(f"gs://{BUCKET}/{folder}", DEADLINES) as tree:
        tree._fsspec.files.session_kwargs = {"trust_env": True}  # type: ignore[attr-defined]
        with pytest.raises(errors.OriginError, match=f"{folder}/file is stored.*Store the file plainly"):
            tree.listing()


# Origins


def test_a_directory_is_the_model_that_it_is_when_stored_plainly(server: FakeGcs, folder: str, tmp_path: Path) -> None:
    server.put_all(BUCKET, f"{folder}/plain", FILES)
    server.put_gzipped(BUCKET, f"{folder}/gzipped", FILES)
    hubdist.init(store=str(tmp_path / "store"), origin_retries=0)
    expected = hubdist.resolve(f"gs://{BUCKET}/{folder}/plain")
    assert hubdist.resolve(f"gs://{BUCKET}/{folder}/gzipped") == expected  # named by its digest


def test_the_driver_reads_each_object_once(server: FakeGcs, folder: str, tmp_path: Path) -> None:
    server.put_gzipped(BUCKET, folder, FILES)
    requests = Requests()
    with GcsProxy(server.url, requests.note) as proxy, gcs_environment(proxy.url):
        assert fetched(f"gs://{BUCKET}/{folder}", tmp_path) == FILES
    assert requests.reads() == len(FILES)


PACKED = {".tar": tar(FILES), ".tar.gz": targz(FILES), ".zip": zipped(FILES)}


@pytest.mark.parametrize("suffix", PACKED)
def test_an_archive_is_unpacked(server: FakeGcs, folder: str, tmp_path: Path, suffix: str) -> None:
    server.put_gzipped(BUCKET, folder, {f"x{suffix}": PACKED[suffix]})
    assert fetched(f"gs://{BUCKET}/{folder}/x{suffix}", tmp_path) == FILES


def test_an_archive_whose_own_gzip_is_its_encoding_is_unpacked(server: FakeGcs, folder: str, tmp_path: Path) -> None:
    server.put(BUCKET, f"{folder}/x.tar.gz", targz(FILES), encoding="gzip")
    assert fetched(f"gs://{BUCKET}/{folder}/x.tar.gz", tmp_path) == FILES


def test_members_of_archives_are_found(server: FakeGcs, folder: str, tmp_path: Path) -> None:
    inner = {f"deep/model/{name}": data for name, data in FILES.items()}
    server.put_gzipped(BUCKET, folder, {"x.zip": zipped(inner), "x.tar.gz": targz(inner)})
    assert fetched(f"zip://deep/model::gs://{BUCKET}/{folder}/x.zip", tmp_path) == FILES
    assert fetched(f"tar://deep/model::gs://{BUCKET}/{folder}/x.tar.gz", tmp_path) == FILES


@pytest.mark.parametrize("name", ["model", "x.tar"])
def test_an_object_that_is_replaced_while_it_is_read_is_an_error(
    server: FakeGcs, folder: str, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"saved_model.pb": DATA, "extra.bin": b"same"}
    put = {
        "model": lambda files: server.put_gzipped(BUCKET, f"{folder}/model", files),
        "x.tar": lambda files: server.put_gzipped(BUCKET, folder, {"x.tar": tar(files)}),
    }[name]
    put(files)
    read, left = Inflated.read, [DATA[::-1]]

    def read_and_replace(self: Inflated, size: int, /) -> bytes:
        data = read(self, size)
        if left:
            put({**files, "saved_model.pb": left.pop()})
        return data

    monkeypatch.setattr(Inflated, "read", read_and_replace)
    with pytest.raises((errors.OriginError, errors.IntegrityError), match=r"changed while it was read|was replaced"):
        fetched(f"gs://{BUCKET}/{folder}/{name}", tmp_path)


def test_a_change_of_the_encoding_alone_is_noticed(
    server: FakeGcs, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hubdist.remote.fsspec_tree import RemoteTree

    server.put_gzipped(BUCKET, folder, {"saved_model.pb": b"x"})
    look, seen = RemoteTree._object, []

    def look_later_without(self: RemoteTree, path: str, info: dict[str, Any]) -> Any:
        seen.append(path)
        return look(self, path, {**info, "contentEncoding": "" if len(seen) > 1 else "gzip"})

    monkeypatch.setattr(RemoteTree, "_object", look_later_without)
    with pytest.raises(errors.OriginError, match="changed while it was read"):
        fetched(f"gs://{BUCKET}/{folder}", tmp_path)


# Copies by nodes


def copied(copy: RemoteCopy, manifest: Manifest, store: Path, *, ordered: bool) -> dict[str, bytes]:
    made = Store(store)
    with made.stage_chunks(manifest) as stage:
        assert (
            copy_remote(copy, manifest, stage.write_chunk, DEADLINES, in_flight_bytes=4 << 20, ordered=ordered)
            == manifest.total_bytes
        )
        with made.publish(stage) as snapshot:
            return {entry.path: (snapshot.path / entry.path).read_bytes() for entry in manifest.entries}


@pytest.mark.parametrize("ordered", [False, True], ids=["as to the store", "as to memory"])
def test_a_node_copies_in_parallel_ranges(server: FakeGcs, folder: str, tmp_path: Path, ordered: bool) -> None:
    files = {**FILES, "variables/large": os.urandom(1000) * 20_000}
    server.put_gzipped(BUCKET, folder, files)
    copy = list_copy(f"gs://{BUCKET}/{folder}", DEADLINES)
    manifest = manifest_of(files)
    assert copy.fits(manifest)
    probe(copy, DEADLINES, timeout_s=20)
    assert copied(copy, manifest, tmp_path, ordered=ordered) == files
    check_copy(copy, DEADLINES)


def test_a_node_reads_single_chunks(server: FakeGcs, folder: str) -> None:
    server.put_gzipped(BUCKET, folder, FILES)
    manifest = manifest_of(FILES)
    reader = CopyReader(list_copy(f"gs://{BUCKET}/{folder}", DEADLINES), manifest, DEADLINES)
    try:
        for chunk in cut_chunks(manifest, 1 << 20):
            buffer = memoryview(bytearray(chunk.size))
            reader.read(chunk, buffer)
            assert buffer == content_of(chunk, manifest)
    finally:
        reader.close()


def content_of(chunk: Chunk, manifest: Manifest) -> bytes:
    return b"".join(FILES[manifest.entries[each.entry_index].path][each.start : each.end] for each in chunk.pieces)


def test_a_copy_with_another_content_is_refused_with_both_digests(server: FakeGcs, folder: str, tmp_path: Path) -> None:
    server.put_gzipped(BUCKET, folder, {**FILES, "saved_model.pb": flipped(DATA, 1_000_000)})
    with pytest.raises(errors.DigestMismatchError, match=f"gs://{BUCKET}/{folder}/saved_model.pb"):
        copied(list_copy(f"gs://{BUCKET}/{folder}", DEADLINES), manifest_of(FILES), tmp_path, ordered=False)


def test_a_directory_of_tensorflow_hub_in_a_shared_cache_is_used(server: FakeGcs, folder: str, tmp_path: Path) -> None:
    files = {"saved_model.pb": DATA, "assets/words.txt": b"a\nb\n"}
    handle = parse_handle("https://host.example/m/1")
    sha1 = hashlib.sha1(handle.text.encode(), usedforsecurity=False).hexdigest()
    server.put_gzipped(BUCKET, f"{folder}/{sha1}", files)
    cache = SharedCache(f"gs://{BUCKET}/{folder}", DEADLINES, in_flight_bytes=64 << 20)
    copy = cache.find_tfhub(handle)
    assert copy is not None
    assert copied(copy, manifest_of(files), tmp_path, ordered=False) == files
    server.put(BUCKET, f"{folder}/{sha1}/saved_model.pb", GZIPPED[:-1], encoding="gzip")
    assert cache.find_tfhub(handle) is None
