"""`hubdist://`: what fsspec, pandas and pyarrow see of a model, in a process without Ray."""

from __future__ import annotations

import configparser
import errno
import io
import pickle
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.registry import _registry, register_implementation

import hubdist
from hubdist.client.block_cache import BlockCache, BlockKey
from hubdist.client.ranges import shared_readers
from hubdist.integrations.fsspec import HubdistFileSystem, file_url
from hubdist.integrations.fsspec.urls import join_path, split_path
from hubdist.model.manifest import BLOCK_BYTES, Digest
from hubdist.testing.hub import LoopbackHub
from tests.support import REPOSITORY

LARGE = bytes(range(256)) * 4 * 2300  # two blocks and a part
FILES = {
    "saved_model.pb": b"graph",
    "assets/vocab.txt": b"one\ntwo\nthree\n",
    "assets/words.csv": b"word,count\none,1\ntwo,2\n",
    "assets/more/deep.txt": b"deep",
    "weights/empty.bin": b"",
    "weights/part.bin": LARGE,
}
PATHS = sorted(FILES)


@pytest.fixture(autouse=True)
def store(tmp_path: Path) -> Iterator[None]:
    register_implementation("hubdist", HubdistFileSystem, clobber=True)
    hubdist.init(store=str(tmp_path / "store"))
    yield
    HubdistFileSystem.clear_instance_cache()
    shared_readers.cache_clear()
    _registry.pop("hubdist", None)


@pytest.fixture
def model(hub: LoopbackHub) -> str:
    return hub.add_model("acme/words/1", FILES)


def zipped(path: Path, prefix: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in FILES.items():
            archive.writestr(f"{prefix}/{name}", data)
    return path


def read(url: str, **options: Any) -> bytes:
    with fsspec.open(url, **options) as file:
        return bytes(file.read())


@pytest.mark.parametrize(
    ("path", "handle", "inner"),
    [
        ("https://h/m/1!/assets/vocab.txt", "https://h/m/1", "assets/vocab.txt"),
        ("hubdist://https://h/m/1!/assets/", "https://h/m/1", "assets"),
        ("hubdist://https://h/m/1", "https://h/m/1", ""),
        ("https://h/m/1!", "https://h/m/1", ""),
        ("https://user:p@h:1/m?a=b!/x", "https://user:p@h:1/m?a=b", "x"),
        ("/models/mnist!/x", "/models/mnist", "x"),
        ("zip://inner!:https://h/m.zip!/x", "zip://inner::https://h/m.zip", "x"),
        ("zip://inner::https://h/m.zip!/x", "zip://inner::https://h/m.zip", "x"),
        ("gs://b/wow!x!/y", "gs://b/wow!x", "y"),
        ("gs://b/wow!!/x!/y", "gs://b/wow!/x", "y"),
        ("gs://b/m!/odd!/y!z", "gs://b/m", "odd!/y!z"),
    ],
)
def test_a_path_is_a_handle_and_what_is_inside(path: str, handle: str, inner: str) -> None:
    assert split_path(path) == (handle, inner)
    once = HubdistFileSystem._strip_protocol(path)
    assert HubdistFileSystem._strip_protocol(once) == once == join_path(handle, inner)
    assert split_path(once) == (handle, inner)


def test_the_parent_of_a_models_root_is_the_root() -> None:
    assert HubdistFileSystem._parent("https://h/m!/assets/x") == "https://h/m!/assets"
    assert HubdistFileSystem._parent("https://h/m!/assets") == "https://h/m!"
    assert HubdistFileSystem._parent("https://h/m!") == "https://h/m!"


def test_a_file_opens_by_its_url(model: str) -> None:
    assert read(f"hubdist://{model}!/assets/vocab.txt") == FILES["assets/vocab.txt"]
    with fsspec.open(f"hubdist://{model}!/assets/vocab.txt", "rt") as file:
        assert list(file) == ["one\n", "two\n", "three\n"]


def test_what_lists_files_lists_the_models(model: str, tmp_path: Path) -> None:
    fs, root = fsspec.url_to_fs(f"hubdist://{model}!/")
    assert fs.ls(root, detail=False) == [f"{root}/{name}" for name in ("assets", "saved_model.pb", "weights")]
    assert fs.find(root) == [f"{root}/{path}" for path in PATHS]
    assert fs.du(root) == sum(map(len, FILES.values()))
    info = fs.info(f"{root}/weights/part.bin")
    assert (info["size"], info["type"], info["digest"][:7]) == (len(LARGE), "file", "sha256:")
    assert fs.isdir(root)
    assert fs.isdir(f"{root}/assets")
    assert fs.isfile(f"{root}/assets/vocab.txt")
    assert [fs.exists(f"{root}/{path}") for path in ("assets", "assets/vocab.txt", "asset", "vocab.txt")] == [
        True,
        True,
        False,
        False,
    ]
    assert {top: (set(folders), set(files)) for top, folders, files in fs.walk(root)}[f"{root}/assets"] == (
        {"more"},
        {"vocab.txt", "words.csv"},
    )


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("assets/*.txt", ["assets/vocab.txt"]),
        ("**/*.txt", ["assets/more/deep.txt", "assets/vocab.txt"]),
        ("weights/part.???", ["weights/part.bin"]),
        ("*", ["assets", "saved_model.pb", "weights"]),
        ("*/", ["assets", "weights"]),
        ("assets/vocab.txt", ["assets/vocab.txt"]),
        ("nothing*", []),
    ],
)
def test_patterns_are_for_paths_and_never_for_handles(tmp_path: Path, pattern: str, found: list[str]) -> None:
    for path, data in FILES.items():
        file = tmp_path / "[words]*?" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    fs = fsspec.filesystem("hubdist")
    root = join_path(str(tmp_path / "[words]*?"))
    assert [name.removeprefix(f"{root}/") for name in fs.glob(f"{root}/{pattern}")] == found


@pytest.mark.parametrize(
    ("start", "end"), [(0, 10), (BLOCK_BYTES - 5, BLOCK_BYTES + 5), (None, None), (-7, None), (5, -5), (9, 9)]
)
def test_ranges_are_the_files_bytes(model: str, start: int | None, end: int | None) -> None:
    fs = fsspec.filesystem("hubdist")
    assert fs.cat_file(f"{model}!/weights/part.bin", start, end) == LARGE[start:end]


def test_several_ranges_and_files_come_at_once(model: str, tmp_path: Path) -> None:
    fs = fsspec.filesystem("hubdist")
    path = f"{model}!/weights/part.bin"
    assert fs.cat_ranges([path] * 2, [0, BLOCK_BYTES], [4, BLOCK_BYTES + 4]) == [LARGE[:4], LARGE[:4]]
    assert fs.cat(f"{model}!/assets/**/*.txt") == {
        f"{model}!/{path}": FILES[path] for path in PATHS if path.endswith(".txt")
    }
    fs.get(f"{model}!/", str(tmp_path / "copy"), recursive=True)
    copied = {str(path.relative_to(tmp_path / "copy")): path for path in (tmp_path / "copy").rglob("*")}
    assert {name: path.read_bytes() for name, path in copied.items() if path.is_file()} == FILES


def test_member_handles_open_plainly_and_escaped(hub: LoopbackHub, tmp_path: Path) -> None:
    local = zipped(tmp_path / "models.zip", "deep/inner")
    remote = hub.add_file("models.zip", local.read_bytes())
    for archive in (str(local), remote):
        handle = f"zip://deep/inner::{archive}"
        expected = FILES["assets/vocab.txt"]
        assert read(f"hubdist://{handle}!/assets/vocab.txt") == expected
        assert read(file_url(handle, "assets/vocab.txt")) == expected
        assert read(f"simplecache::hubdist://{handle}!/assets/vocab.txt") == expected
        fs, root = fsspec.url_to_fs(f"hubdist://{handle}!/assets")
        names = fs.ls(root, detail=False)
        assert names == [join_path(handle, f"assets/{name}") for name in ("more", "vocab.txt", "words.csv")]
        assert fs.cat_file(names[1]) == expected
        assert read(fs.unstrip_protocol(names[1])) == expected


def test_other_file_systems_read_archives_inside_of_models(hub: LoopbackHub, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("a.txt")
        member.size = 2
        archive.addfile(member, io.BytesIO(b"hi"))
    handle = hub.add_model("acme/packed/1", {"saved_model.pb": b"", "inside.tar": packed.getvalue()})
    assert read(f"tar://a.txt::hubdist://{handle}!/inside.tar") == b"hi"


def test_what_is_missing_is_said_with_its_url(model: str, hub: LoopbackHub) -> None:
    fs = fsspec.filesystem("hubdist")
    with pytest.raises(FileNotFoundError, match=r"no such file.*words/1!/assets/none"):
        fs.cat_file(f"{model}!/assets/none")
    with pytest.raises(IsADirectoryError):
        fs.open(f"{model}!/assets")
    with pytest.raises(FileNotFoundError):
        fs.ls(f"{hub.url}/acme/none/1")
    assert not fs.exists(f"{hub.url}/acme/none/1")
    with pytest.raises(hubdist.errors.HandleError):
        fs.exists("unheard-of://x!/y")


@pytest.mark.parametrize(
    "write",
    [
        lambda fs, path: fs.open(path, "wb"),
        lambda fs, path: fs.open(path, "ab"),
        lambda fs, path: fs.open(path, "w"),
        lambda fs, path: fs.pipe_file(path, b"x"),
        lambda fs, path: fs.pipe({path: b"x"}),
        lambda fs, path: fs.write_text(path, "x"),
        lambda fs, path: fs.touch(path),
        lambda fs, path: fs.rm(path),
        lambda fs, path: fs.rm_file(path),
        lambda fs, path: fs.rmdir(path),
        lambda fs, path: fs.mkdir(path),
        lambda fs, path: fs.makedirs(path, exist_ok=True),
        lambda fs, path: fs.copy(path, f"{path}2"),
        lambda fs, path: fs.mv(path, f"{path}2"),
        lambda fs, path: fs.put_file(__file__, path),
        lambda fs, path: fs.put(__file__, path),
    ],
)
def test_models_are_read_only(model: str, write: Any) -> None:
    fs = fsspec.filesystem("hubdist")
    with pytest.raises(OSError, match="read-only") as refused:
        write(fs, f"{model}!/assets/vocab.txt")
    assert refused.value.errno == errno.EROFS


def test_the_file_system_and_open_files_can_be_pickled(model: str) -> None:
    fs = fsspec.filesystem("hubdist", cache_bytes=4 << 20)
    assert pickle.loads(pickle.dumps(fs)).cat_file(f"{model}!/saved_model.pb") == b"graph"
    with fs.open(f"{model}!/assets/vocab.txt") as file:
        file.seek(4)
        with pickle.loads(pickle.dumps(file)) as again:
            assert again.read(3) == b"two"


def test_a_refreshed_handle_shows_its_new_files_and_open_files_stay(hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/moving/1", {"saved_model.pb": b"old"})
    fs = fsspec.filesystem("hubdist")
    with fs.open(f"{handle}!/saved_model.pb") as file:
        hub.add_model("acme/moving/1", {"saved_model.pb": b"newer"})
        hubdist.refresh(handle)
        assert fs.cat_file(f"{handle}!/saved_model.pb") == b"newer"
        assert file.read() == b"old"


def test_a_damaged_file_is_not_given(model: str) -> None:
    path = Path(hubdist.resolve(model), "weights", "part.bin")
    path.chmod(0o600)
    path.write_bytes(b"!" + LARGE[1:])
    with pytest.raises(hubdist.errors.IntegrityError):
        fsspec.filesystem("hubdist").cat_file(f"{model}!/weights/part.bin", 0, 4)


def test_the_file_systems_of_all_threads_share_the_blocks_that_are_kept(model: str) -> None:
    fs = fsspec.filesystem("hubdist")
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(fsspec.filesystem, "hubdist").result()
    assert other is not fs
    assert other._readers is fs._readers
    path = f"{model}!/saved_model.pb"
    assert fs.cat_file(path) == other.cat_file(path) == FILES["saved_model.pb"]


def test_nothing_is_counted_as_received_that_the_own_store_has(model: str) -> None:
    fs = fsspec.filesystem("hubdist")
    fs.cat_file(f"{model}!/weights/part.bin")
    assert fs.received_bytes == 0


def test_pandas_and_pyarrow_read_from_models(model: str) -> None:
    pandas = pytest.importorskip("pandas")
    arrow_fs = pytest.importorskip("pyarrow.fs")
    arrow_csv = pytest.importorskip("pyarrow.csv")
    url = f"hubdist://{model}!/assets/words.csv"
    assert pandas.read_csv(url)["count"].tolist() == [1, 2]
    system = arrow_fs.PyFileSystem(arrow_fs.FSSpecHandler(fsspec.filesystem("hubdist")))
    path = HubdistFileSystem._strip_protocol(url)
    with system.open_input_stream(path) as stream:
        assert arrow_csv.read_csv(stream)["count"].to_pylist() == [1, 2]
    with system.open_input_file(path) as file:
        assert file.read_at(4, 5) == FILES["assets/words.csv"][5:9]
    selected = system.get_file_info(arrow_fs.FileSelector(f"{model}!", recursive=True))
    assert sorted(info.path for info in selected if info.is_file) == [f"{model}!/{path}" for path in PATHS]


def test_the_entry_point_names_the_file_system(tmp_path: Path) -> None:
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if "integrations.fsspec" in line]
    name, _, target = line.replace(" ", "").partition("=")
    # As an installer writes it, and as fsspec reads it in a process that has imported nothing of hubdist.
    found = configparser.ConfigParser()
    found["fsspec.specs"] = {name: target.strip('"')}
    info = tmp_path / "hubdist_entry-0.dist-info"
    info.mkdir()
    with (info / "entry_points.txt").open("w", encoding="utf-8") as file:
        found.write(file)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hubdist-entry\nVersion: 0\n", encoding="utf-8")
    code = "import fsspec; print(fsspec.get_filesystem_class('hubdist').__module__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"},
    )
    assert done.stdout.strip() == "hubdist.integrations.fsspec.file_system", done.stderr


def test_a_block_cache_keeps_what_was_used_last() -> None:
    cache = BlockCache(max_bytes=30)
    keys = [BlockKey(Digest("0" * 64), 0, number) for number in range(4)]
    for key in keys[:3]:
        cache.keep(key, bytes(10))
    cache.get(keys[0])
    cache.keep(keys[3], bytes(10))
    assert [key in cache for key in keys] == [True, False, True, True]
    cache.keep(keys[3], bytes(25))
    assert cache.total_bytes == 25
    cache.keep(keys[0], bytes(31))
    assert cache.total_bytes == 0
