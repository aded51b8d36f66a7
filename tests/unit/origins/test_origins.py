"""Each kind of handle from its origin into the store: the right files, typed errors, nothing left, no secrets."""

from __future__ import annotations

import gzip
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

import hubdist
from hubdist import errors
from hubdist.store.stage import StreamStage
from hubdist.testing.hub import HtmlPage, LoopbackHub, Reset, ShortBody, Status, WrongBytes
from hubdist.testing.memory import MemorySource
from tests.support.archives import tar, targz, zipped

FILES = {
    "saved_model.pb": bytes(range(256)) * 400,
    "assets/words.txt": b"one\ntwo\n",
    "empty.txt": b"",
    "noise.bin": os.urandom(50_000),
}
SECRET = "canary0123"
Packer = Callable[[dict[str, bytes]], bytes]
PACKERS: dict[str, Packer] = {".tar": tar, ".tar.gz": targz, ".tgz": targz, ".zip": zipped}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def below(files: dict[str, bytes], folder: str) -> dict[str, bytes]:
    return {f"{folder}/{name}": data for name, data in files.items()}


def write_files(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def resolved(handle: str | Path, store: Path, **settings: Any) -> dict[str, bytes]:
    hubdist.init(store=str(store), origin_retries=0, **settings)
    root = Path(hubdist.resolve(str(handle)))
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def refused(handle: str | Path, store: Path, kind: type[errors.HubdistError], **settings: Any) -> errors.HubdistError:
    """The error of a handle, after what must hold for all of them."""
    hubdist.init(store=str(store), **{"origin_retries": 0, **settings})
    with pytest.raises(kind) as caught:
        hubdist.resolve(str(handle))
    assert caught.value.handle == str(handle)
    assert str(handle) in str(caught.value)
    assert list((store / "staging").iterdir()) == []
    assert list((store / "snapshots").iterdir()) == []
    return caught.value


# Hubs and archives by URL.


@pytest.mark.parametrize("redirect", [False, True])
def test_a_hubs_model_is_read_once(hub: LoopbackHub, store: Path, redirect: bool) -> None:
    handle = hub.add_model("google/words/1", FILES, redirect_to_storage=redirect)
    assert resolved(handle, store) == FILES
    assert resolved(f"{handle}/?tf-hub-format=compressed", store) == FILES
    assert hub.reads(handle) == 1


@pytest.mark.parametrize("suffix", PACKERS)
def test_an_archive_by_url_is_unpacked(hub: LoopbackHub, store: Path, suffix: str) -> None:
    url = hub.add_file(f"models/x{suffix}", PACKERS[suffix](FILES))
    assert resolved(url, store) == FILES


@pytest.mark.parametrize("suffix", PACKERS)
def test_an_archive_is_told_by_its_bytes_and_not_by_its_name(hub: LoopbackHub, store: Path, suffix: str) -> None:
    url = hub.add_file("models/x.tar.gz", PACKERS[suffix](FILES))
    assert resolved(url, store) == FILES


@pytest.mark.parametrize("suffix", PACKERS)
def test_an_archive_that_comes_gzipped_unasked_is_unpacked(hub: LoopbackHub, store: Path, suffix: str) -> None:
    url = hub.add_file(f"x{suffix}", gzip.compress(PACKERS[suffix](FILES)), headers={"Content-Encoding": "gzip"})
    assert resolved(url, store) == FILES


@pytest.mark.parametrize("suffix", PACKERS)
def test_an_archive_that_is_only_said_to_be_gzipped_is_unpacked(hub: LoopbackHub, store: Path, suffix: str) -> None:
    url = hub.add_file(f"x{suffix}", PACKERS[suffix](FILES), headers={"Content-Encoding": "gzip"})
    assert resolved(url, store) == FILES


def test_a_damaged_gzip_around_an_archive_is_told(hub: LoopbackHub, store: Path) -> None:
    url = hub.add_file("x.tar", gzip.compress(tar(FILES))[:-1], headers={"Content-Encoding": "gzip"})
    with pytest.raises(errors.IntegrityError, match=r"x\.tar has Content-Encoding: gzip, but"):
        resolved(url, store)


def test_an_archive_without_content_length_is_unpacked(hub: LoopbackHub, store: Path) -> None:
    assert resolved(hub.add_file("x.zip", zipped(FILES), chunked=True), store) == FILES


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("marker", ["saved_model.pb", "saved_model.pbtxt"])
def test_a_single_folder_around_a_saved_model_is_stripped(
    hub: LoopbackHub, store: Path, suffix: str, marker: str
) -> None:
    files = {marker: b"model", "assets/words.txt": b"words"}
    assert resolved(hub.add_file(f"x{suffix}", PACKERS[suffix](below(files, "folder"))), store) == files


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"folder/weights.bin": b"1", "folder/config.json": b"{}"}, id="no SavedModel"),
        pytest.param({"folder/deep/saved_model.pb": b"1"}, id="too deep"),
        pytest.param({"folder/saved_model.pb": b"1", "README": b"2"}, id="a file beside it"),
        pytest.param({"a/saved_model.pb": b"1", "b/saved_model.pb": b"2"}, id="two folders"),
    ],
)
def test_other_folders_stay(hub: LoopbackHub, store: Path, files: dict[str, bytes]) -> None:
    assert resolved(hub.add_file("x.tar.gz", targz(files)), store) == files


# Members of archives.


@pytest.mark.parametrize(("scheme", "suffix"), [("zip", ".zip"), ("tar", ".tar"), ("tar", ".tar.gz"), ("tar", ".tgz")])
def test_a_directory_in_an_archive_by_url(hub: LoopbackHub, store: Path, scheme: str, suffix: str) -> None:
    packed = PACKERS[suffix](below(FILES, "deep/model") | {"deep/model2/no": b"", "deep/other": b""})
    url = hub.add_file(f"x{suffix}", packed)
    assert resolved(f"{scheme}://deep/model::{url}", store) == FILES


@pytest.mark.parametrize(("scheme", "name"), [("zip", "wheel.whl"), ("tar", "x.tar.gz")])
def test_a_directory_in_a_local_archive_of_any_name(tmp_path: Path, store: Path, scheme: str, name: str) -> None:
    pack = zipped if scheme == "zip" else targz
    (tmp_path / name).write_bytes(pack(below(FILES, "deep/model") | {"other": b""}))
    assert resolved(f"{scheme}://deep/model::{tmp_path / name}", store) == FILES


def test_an_archive_of_a_url_without_a_suffix(hub: LoopbackHub, store: Path) -> None:
    url = hub.add_file("download/42", zipped(below(FILES, "inner")))
    assert resolved(f"zip://inner::{url}", store) == FILES


def test_all_of_an_archive(tmp_path: Path, store: Path) -> None:
    (tmp_path / "x.zip").write_bytes(zipped(FILES))
    assert resolved(f"zip://::{tmp_path / 'x.zip'}", store) == FILES


def test_an_archive_of_the_other_format_is_refused(tmp_path: Path, store: Path) -> None:
    (tmp_path / "x.zip").write_bytes(targz(FILES))
    assert "handle says zip" in str(refused(f"zip://::{tmp_path / 'x.zip'}", store, errors.IntegrityError))


def test_a_directory_that_the_archive_lacks(tmp_path: Path, store: Path) -> None:
    (tmp_path / "x.zip").write_bytes(zipped(FILES))
    refused(f"zip://nothing::{tmp_path / 'x.zip'}", store, errors.HubdistError)


def test_an_archive_on_an_fsspec_file_system(tmp_path: Path, store: Path) -> None:
    memory = fsspec.filesystem("memory")
    try:
        memory.pipe("/bucket/x.tar.gz", targz(FILES))
        assert resolved("memory://bucket/x.tar.gz", store) == FILES
    finally:
        memory.store.clear()
        memory.pseudo_dirs[:] = [""]


# The driver's disk.


def test_a_local_directory(tmp_path: Path, store: Path) -> None:
    assert resolved(write_files(tmp_path / "model", FILES), store) == FILES


def test_a_file_url(tmp_path: Path, store: Path) -> None:
    write_files(tmp_path / "model", FILES)
    assert resolved(f"file://{tmp_path}/model", store) == FILES


def test_a_relative_path(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path / "model", FILES)
    monkeypatch.chdir(tmp_path)
    assert resolved("model", store) == FILES


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_local_archive(tmp_path: Path, store: Path, suffix: str) -> None:
    (tmp_path / f"x{suffix}").write_bytes(PACKERS[suffix](FILES))
    assert resolved(tmp_path / f"x{suffix}", store) == FILES


def test_links_in_a_local_directory_are_followed(tmp_path: Path, store: Path) -> None:
    model = write_files(tmp_path / "model", {"saved_model.pb": b"model"})
    write_files(tmp_path / "elsewhere", {"words.txt": b"words"})
    (model / "linked.txt").symlink_to(tmp_path / "elsewhere" / "words.txt")
    (model / "assets").symlink_to(tmp_path / "elsewhere")
    files = {"saved_model.pb": b"model", "linked.txt": b"words", "assets/words.txt": b"words"}
    assert resolved(model, store) == files
    assert not any(path.is_symlink() for path in (store / "snapshots").rglob("*"))


def test_a_cycle_of_links_is_refused(tmp_path: Path, store: Path) -> None:
    model = write_files(tmp_path / "model", FILES)
    (model / "again").symlink_to(model)
    refused(model, store, errors.HubdistError)


def test_a_link_to_nothing_is_refused(tmp_path: Path, store: Path) -> None:
    model = write_files(tmp_path / "model", FILES)
    (model / "broken").symlink_to(tmp_path / "nothing")
    refused(model, store, errors.HubdistError)


def test_a_pipe_in_a_local_directory_is_refused(tmp_path: Path, store: Path) -> None:
    model = write_files(tmp_path / "model", FILES)
    os.mkfifo(model / "pipe")
    refused(model, store, errors.HandleError)


@pytest.mark.parametrize("name", ["nothing", "nothing.tar.gz", "file.bin/below"])
def test_a_path_that_does_not_exist(tmp_path: Path, store: Path, name: str) -> None:
    (tmp_path / "file.bin").write_bytes(b"data")
    refused(tmp_path / name, store, errors.ModelNotFoundError)


def test_a_pipe_instead_of_a_local_archive_is_refused_without_waiting(tmp_path: Path, store: Path) -> None:
    os.mkfifo(tmp_path / "x.tar.gz")
    refused(tmp_path / "x.tar.gz", store, errors.HandleError)


@pytest.mark.parametrize("name", ["saved_model.pb", "assets", "x.tar.gz"])
def test_what_may_not_be_read_on_the_disk(tmp_path: Path, store: Path, name: str) -> None:
    model = write_files(tmp_path / "model", FILES)
    archive = model / "x.tar.gz"
    archive.write_bytes(targz(FILES))
    (model / name).chmod(0)
    try:
        if os.access(model / name, os.R_OK):
            pytest.skip("this user may read everything")
        refused(archive if name == archive.name else model, store, errors.AccessDeniedError)
    finally:
        (model / name).chmod(0o700)


def test_a_refusal_of_the_disk_is_an_access_error(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_files(tmp_path / "model", FILES)
    opened = Path.open

    def refuse(path: Path, *args: Any, **options: Any) -> Any:
        if path.is_relative_to(model):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    refused(model, store, errors.AccessDeniedError)


@pytest.mark.parametrize("name", ["model", "x.tar"])
def test_a_path_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_files(tmp_path / "model", FILES)
    (tmp_path / "x.tar").write_bytes(tar(FILES))
    for path in (tmp_path / "x.tar", tmp_path / "model" / "saved_model.pb"):
        os.utime(path, (0, 0))  # long ago, for the clock of a disk is coarse
    begin = StreamStage.open_file

    def write_and_begin(stage: StreamStage, path: str) -> Any:
        if path == "empty.txt":
            write_files(tmp_path / "model", {"saved_model.pb": FILES["saved_model.pb"][::-1]})
            (tmp_path / "x.tar").write_bytes(tar({**FILES, "noise.bin": bytes(50_000)}))
        return begin(stage, path)

    monkeypatch.setattr(StreamStage, "open_file", write_and_begin)
    assert "changed while it was read" in str(refused(tmp_path / name, store, errors.OriginError))


def test_an_empty_directory_is_no_model(tmp_path: Path, store: Path) -> None:
    (tmp_path / "model" / "assets").mkdir(parents=True)
    refused(tmp_path / "model", store, errors.IntegrityError)


def test_a_file_that_is_not_an_archive_but_named_so(tmp_path: Path, store: Path) -> None:
    (tmp_path / "model.tar").write_bytes(b"\0" * 2000)
    assert "rename" in str(refused(tmp_path / "model.tar", store, errors.IntegrityError))


# The user's own origins.


def test_an_origin_that_the_user_registers(store: Path) -> None:
    asked = []

    def make(handle: str) -> MemorySource:
        asked.append(handle)
        return MemorySource(FILES)

    assert resolved("registry://models/words", store, origins={"registry": make}) == FILES
    assert asked == ["registry://models/words"]


def test_the_typed_errors_of_a_users_origin_reach_the_caller(store: Path) -> None:
    def make(handle: str) -> MemorySource:
        raise errors.AccessDeniedError("the registry wants a token")

    refused("registry://models/words", store, errors.AccessDeniedError, origins={"registry": make})


def test_a_users_origin_that_lies_about_sizes_is_refused(store: Path) -> None:
    class Short(MemorySource):
        def read(self, path: str, start: int, end: int) -> bytes:
            return super().read(path, start, end)[:-1]

    refused(
        "registry://model", store, errors.LengthMismatchError, origins={"registry": lambda _: Short({"a": b"data"})}
    )


def test_a_users_origin_cannot_write_outside(store: Path) -> None:
    origins = {"registry": lambda _: MemorySource({"../../escaped": b"data"})}
    refused("registry://model", store, errors.IntegrityError, origins=origins)
    assert not list(store.rglob("escaped"))


# Faults.


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
@pytest.mark.parametrize("flip_at", [0, 11, 300, 40_000])
def test_wrong_bytes_are_never_a_model(hub: LoopbackHub, store: Path, suffix: str, flip_at: int) -> None:
    url = hub.add_file(f"x{suffix}", PACKERS[suffix](FILES))
    hub.fail_next(url, WrongBytes(flip_at))
    hubdist.init(store=str(store), origin_retries=0)
    try:
        root = Path(hubdist.resolve(url))
    except errors.HubdistError as error:
        assert isinstance(error, errors.IntegrityError)
        assert error.handle == url
        assert list((store / "staging").iterdir()) == []
    else:  # the byte meant nothing, such as the archive's time
        assert {name: (root / name).read_bytes() for name in FILES} == FILES


def test_a_web_page_instead_of_a_model(hub: LoopbackHub, store: Path) -> None:
    handle = hub.add_model("google/words/1", FILES)
    hub.fail_next(handle, HtmlPage())
    assert "web page" in str(refused(handle, store, errors.OriginError))
    assert resolved(handle, store) == FILES


@pytest.mark.parametrize("fault", [ShortBody(9_000), Reset(9_000), ShortBody(0)])
@pytest.mark.parametrize("suffix", PACKERS)
def test_a_truncated_body(hub: LoopbackHub, store: Path, fault: ShortBody | Reset, suffix: str) -> None:
    url = hub.add_file(f"x{suffix}", PACKERS[suffix](FILES))
    hub.fail_next(url, fault)
    refused(url, store, errors.OriginError)
    assert resolved(url, store) == FILES


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_truncated_archive_in_a_whole_body(hub: LoopbackHub, store: Path, suffix: str) -> None:
    packed = PACKERS[suffix](FILES)
    refused(hub.add_file(f"x{suffix}", packed[: len(packed) // 2]), store, errors.IntegrityError)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (401, errors.AccessDeniedError),
        (403, errors.AccessDeniedError),
        (404, errors.ModelNotFoundError),
        (410, errors.ModelNotFoundError),
        (500, errors.OriginError),
        (503, errors.OriginError),
    ],
)
def test_refusals_are_typed(hub: LoopbackHub, store: Path, code: int, kind: type[errors.HubdistError]) -> None:
    handle = hub.add_model("google/words/1", FILES)
    hub.fail_next(handle, Status(code))
    refused(handle, store, kind)


def test_a_busy_origin_is_asked_again_and_at_last_given_up(hub: LoopbackHub, store: Path) -> None:
    handle = hub.add_model("google/words/1", FILES)
    hub.fail_next(handle, *[Status(503, retry_after=0)] * 4)
    refused(handle, store, errors.OriginError, origin_retries=1)
    assert len(hub.requests) == 2
    hubdist.init(store=str(store), origin_retries=2)
    hubdist.resolve(handle)
    assert len(hub.requests) == 5
    assert hub.reads(handle) == 1


def test_a_failure_of_one_handle_does_not_touch_another(hub: LoopbackHub, store: Path) -> None:
    bad, good = hub.add_model("bad/1", FILES), hub.add_model("good/1", FILES)
    hub.fail_next(bad, Status(404))
    hubdist.init(store=str(store), origin_retries=0)
    with pytest.raises(errors.ModelNotFoundError):
        hubdist.resolve(bad)
    assert Path(hubdist.resolve(good), "saved_model.pb").read_bytes() == FILES["saved_model.pb"]
    hubdist.resolve(bad)


def test_a_model_with_a_variables_file_missing_is_not_published(tmp_path: Path, store: Path) -> None:
    model = write_files(tmp_path / "model", FILES | {"variables/variables.data-00000-of-00001": b"data"})
    refused(model, store, errors.IntegrityError)


# Several processes, and secrets.

_PROCESS = """
import sys, hubdist
print("ready", flush=True)
print(hubdist.resolve(sys.argv[1]), flush=True)
"""


def test_processes_that_resolve_one_handle_at_once_read_it_once(hub: LoopbackHub, store: Path) -> None:
    handle = hub.add_model("google/words/1", FILES)
    gate = hub.hold(handle)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _PROCESS, handle],
            env={**os.environ, "HUBDIST_STORE": str(store)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        gate.wait_reached(30)
        gate.set()
        paths = {process.communicate(timeout=60)[0].strip() for process in processes}
        assert [process.returncode for process in processes] == [0, 0, 0, 0]
    finally:
        for process in processes:
            process.kill()
            process.communicate(timeout=10)
    assert len(paths) == 1
    assert Path(paths.pop(), "saved_model.pb").read_bytes() == FILES["saved_model.pb"]
    assert hub.reads(handle) == 1


def assert_no_secret(store: Path, *texts: str) -> None:
    for text in texts:
        assert SECRET not in text
    for path in store.rglob("*"):
        assert SECRET not in path.name
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("kind", ["hub", "archive", "member"])
def test_secrets_stay_out_of_files_logs_and_errors(
    hub: LoopbackHub, tmp_path: Path, store: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    if kind == "hub":
        url = hub.add_model("google/words/1", FILES, redirect_to_storage=True)
    else:
        url = hub.add_file("x.tar.gz", targz(FILES))
    handle = url.replace("http://", f"http://user{SECRET}:{SECRET}@") + f"?X-Signature={SECRET}&{SECRET}"
    if kind == "member":
        handle = f"tar://::{handle}"
    caplog.set_level(logging.DEBUG)
    logging.getLogger("urllib3").setLevel(logging.INFO)  # its own debug lines are the user's choice
    settings = {"store": str(store), "origin_retries": 0, "lock_file": str(store / "hubdist.lock")}
    for fault in (Status(401), Status(404), Status(503), HtmlPage(), ShortBody(100), WrongBytes(0)):
        hub.fail_next(f"/storage{url.removeprefix(hub.url)}.tar.gz" if kind == "hub" else url, fault)
        hubdist.init(**settings)
        with pytest.raises(errors.HubdistError) as caught:
            hubdist.resolve(handle)
        assert_no_secret(store, str(caught.value), repr(caught.value), repr(caught.value.__dict__))
        assert caught.value.handle is not None
    hubdist.init(**settings)
    assert Path(hubdist.resolve(handle)).is_dir()
    assert_no_secret(store, caplog.text, str(hubdist.status()), repr(hubdist.status()))
    assert "hubdist.lock" in {path.name for path in store.iterdir()}
