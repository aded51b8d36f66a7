"""Handles and archives as people write and make them: one file, a path, versions, an archive from a Mac."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hubdist
from hubdist import errors
from hubdist.model.handle import parse_handle
from hubdist.model.listing import model_folder, not_a_model_error, saved_model_folders, served_versions
from hubdist.remote.snapshot_copy import list_copy
from hubdist.resolver.direct_source import direct_url
from hubdist.system.deadline import Deadlines
from hubdist.testing.hub import HtmlPage, LoopbackHub, Reset, ShortBody
from hubdist.testing.memory import MemorySource
from tests.support.archives import tar, targz, zipped

FILES = {"saved_model.pb": bytes(range(256)) * 40, "assets/words.txt": b"one\ntwo\n"}
ONE_FILE = {
    "model.onnx": b"\x08\x07\x12\x04test" + bytes(2000),
    "weights.h5": b"\x89HDF\r\n\x1a\n" + bytes(2000),
    "model.gguf": b"GGUF\x03\0\0\0" + bytes(2000),
    "model.keras": zipped({"metadata.json": b"{}", "model.weights.h5": b"w" * 500}),
    "weights.npz": zipped({"w.npy": b"x"}),
    "movenet.tflite": b"\x20\0\0\0TFL3",
    "model.safetensors": b"\2\0\0\0\0\0\0\0{}",
    "model.pt": zipped({"model/data.pkl": b"x"}),
    "vectors.bin.gz": gzip.compress(b"vectors", mtime=0),
    "wheel.whl": zipped({"package/__init__.py": b""}),
    "empty.bin": b"",
}


@pytest.fixture(autouse=True)
def store(tmp_path: Path) -> Path:
    hubdist.init(store=str(tmp_path / "store"), origin_retries=0)
    return tmp_path / "store"


def write_files(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def files_of(place: str | Path) -> dict[str, bytes]:
    root = Path(place)
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def resolved(handle: str | Path) -> dict[str, bytes]:
    return files_of(hubdist.resolve(handle))  # type: ignore[arg-type]  # a path is a handle, too


def refused(handle: str | Path, kind: type[errors.HubdistError], store: Path) -> errors.HubdistError:
    with pytest.raises(kind) as caught:
        hubdist.resolve(handle)  # type: ignore[arg-type]
    assert caught.value.handle is not None
    assert list((store / "staging").iterdir()) == []
    assert list((store / "snapshots").iterdir()) == []
    return caught.value


# One file


@pytest.mark.parametrize("name", [*ONE_FILE, "weights", "model.v1.2", "model.unknown"])
def test_a_file_by_path_is_a_model_of_one_file(tmp_path: Path, name: str) -> None:
    data = ONE_FILE.get(name, b"weights")
    (tmp_path / name).write_bytes(data)
    assert resolved(f"{tmp_path}/{name}") == {name: data}


@pytest.mark.parametrize("name", ONE_FILE)
def test_a_file_by_url_is_a_model_of_one_file(hub: LoopbackHub, name: str) -> None:
    url = hub.add_file(f"files/{name}", ONE_FILE[name])
    assert resolved(f"{url}?download=true") == {name: ONE_FILE[name]}
    assert hub.reads(url) == 1


@pytest.mark.parametrize("pack", [tar, targz, zipped])
def test_a_hubs_handle_without_an_ending_is_its_archive(hub: LoopbackHub, pack: Callable[..., bytes]) -> None:
    assert resolved(hub.add_file("google/mobilenet_v2_1.00_224/4", pack(FILES))) == FILES
    assert resolved(hub.add_file("google/efficientnet_b0.1", pack(FILES))) == FILES


def test_the_name_of_a_file_by_url_is_as_it_was_before_it_was_quoted(hub: LoopbackHub) -> None:
    url = hub.add_file("files/my%20n%C3%A9t.onnx", b"data")
    assert resolved(url) == {"my nét.onnx": b"data"}


def test_a_tflite_file_of_a_hub_is_a_model_of_one_file(hub: LoopbackHub) -> None:
    url = hub.add_file("google/movenet/4", b"TFL3")
    assert resolved(f"{url}?lite-format=tflite") == {"model.tflite": b"TFL3"}


def test_a_file_that_the_server_packs_on_its_way_is_unpacked(hub: LoopbackHub) -> None:
    packed = gzip.compress(ONE_FILE["model.onnx"], mtime=0)
    url = hub.add_file("model.onnx", packed, headers={"Content-Encoding": "gzip"})
    assert resolved(url) == {"model.onnx": ONE_FILE["model.onnx"]}
    url = hub.add_file("model.bin.gz", packed, headers={"Content-Encoding": "gzip"})
    assert resolved(url) == {"model.bin.gz": packed}


@pytest.mark.parametrize("fault", [ShortBody(900), Reset(900), HtmlPage()])
def test_a_file_by_url_arrives_whole_or_not_at_all(hub: LoopbackHub, store: Path, fault: ShortBody | Reset) -> None:
    url = hub.add_file("model.onnx", ONE_FILE["model.onnx"])
    hub.fail_next(url, fault)
    refused(url, errors.OriginError, store)
    assert resolved(url) == {"model.onnx": ONE_FILE["model.onnx"]}


def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hubdist.store.stage import StreamStage

    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    os.utime(path, (0, 0))
    begin = StreamStage.open_file

    def write_and_begin(stage: StreamStage, name: str) -> object:
        path.write_bytes(b"new")
        return begin(stage, name)

    monkeypatch.setattr(StreamStage, "open_file", write_and_begin)
    assert "changed while it was read" in str(refused(path, errors.OriginError, store))


def test_one_file_is_not_a_directory_that_nodes_could_read(tmp_path: Path, hub: LoopbackHub) -> None:
    (tmp_path / "model.onnx").write_bytes(b"data")
    deadlines = Deadlines(retries=0)
    for text in (f"{tmp_path}/model.onnx", hub.add_file("model.onnx", b"data")):
        assert direct_url(parse_handle(text), deadlines, ask_hub=False) is None
        with pytest.raises(errors.OriginError, match="one file"):
            direct_url(parse_handle(text), deadlines, ask_hub=True)
    with pytest.raises(errors.HubdistError):
        list_copy(f"{tmp_path}/model.onnx", deadlines)


@pytest.mark.parametrize("ending", [".tar.bz2", ".tar.xz", ".7z"])
def test_an_archive_of_another_format_is_refused_by_its_name(tmp_path: Path, store: Path, ending: str) -> None:
    (tmp_path / f"model{ending}").write_bytes(b"BZh9")
    error = refused(tmp_path / f"model{ending}", errors.HandleError, store)
    assert ".tar.gz" in str(error)


def test_an_archive_of_another_format_is_named_for_what_it_is(tmp_path: Path, store: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        archive.addfile(tarfile.TarInfo("saved_model.pb"))
    (tmp_path / "model.tar.gz").write_bytes(packed.getvalue())
    assert "packed by xz" in str(refused(tmp_path / "model.tar.gz", errors.IntegrityError, store))


def test_a_hub_that_answers_something_else_is_told_about_endings(hub: LoopbackHub, store: Path) -> None:
    url = hub.add_file("google/model/1", b"TFL3" * 200)
    assert "ends in its name" in str(refused(url, errors.IntegrityError, store))


# Paths


def test_a_path_behind_a_link_leads_where_the_system_goes(tmp_path: Path) -> None:
    write_files(tmp_path / "disk2" / "model", {"which.txt": b"right"})
    write_files(tmp_path / "model", {"which.txt": b"wrong"})
    (tmp_path / "disk2" / "v1").mkdir()
    (tmp_path / "current").symlink_to(tmp_path / "disk2" / "v1")
    assert resolved(f"{tmp_path}//./current/../model") == {"which.txt": b"right"}


def test_a_relative_path_means_the_directory_at_the_time_of_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        write_files(tmp_path / name / "model", {"which.txt": name.encode()})
    monkeypatch.chdir(tmp_path / "a")
    assert resolved("model") == {"which.txt": b"a"}
    monkeypatch.chdir(tmp_path / "b")
    assert resolved("./model") == {"which.txt": b"b"}


def test_an_absolute_path_needs_no_directory_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path / "model", FILES)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert resolved(tmp_path / "model") == FILES


@pytest.mark.parametrize(
    ("path", "kind", "says"),
    [
        ("/" + "a" * 300, errors.HandleError, "too long"),
        (os.fsdecode(b"/models/\xff"), errors.HandleError, "not UTF-8"),
        ("circle", errors.HandleError, "circle"),
        ("pipe", errors.HandleError, "neither a file nor a directory"),
    ],
)
def test_what_is_not_a_path_is_a_typed_error(
    tmp_path: Path, path: str, kind: type[errors.HubdistError], says: str
) -> None:
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(kind, match=says):
        hubdist.resolve(str(tmp_path / path))


def test_a_path_that_may_not_be_looked_at_is_a_typed_error(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Path.stat

    def refuse(path: Path, **options: bool) -> os.stat_result:
        if "locked" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return look(path, **options)

    monkeypatch.setattr(Path, "stat", refuse)
    error = refused(tmp_path / "locked" / "model", errors.AccessDeniedError, store)
    assert "the right to read it" in str(error)


def test_a_name_of_a_hub_without_its_scheme_is_understood(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, meant in {
        "google/nnlm/tensorFlow2/en-dim50": "kaggle://google/nnlm/tensorFlow2/en-dim50",
        "google/bert": "hf://google/bert",
    }.items():
        assert f"write {meant}." in str(refused(name, errors.ModelNotFoundError, store))
    write_files(tmp_path / "google" / "bert", FILES)
    assert resolved("google/bert") == FILES


# The file of a SavedModel, and versions


def test_the_file_of_a_saved_model_means_its_directory(tmp_path: Path) -> None:
    write_files(tmp_path / "model", FILES)
    (tmp_path / "x.zip").write_bytes(zipped({f"deep/{name}": data for name, data in FILES.items()}))
    assert resolved(f"{tmp_path}/model/saved_model.pb") == FILES
    assert resolved(f"zip://deep/saved_model.pb::{tmp_path}/x.zip") == FILES


def test_versions_are_refused_before_they_are_copied(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("1", "2", "10"):
        write_files(tmp_path / "served" / version, FILES)
    (tmp_path / "served" / ".DS_Store").write_bytes(b"Bud1")
    opened: list[Path] = []
    begin = Path.open

    def note_and_open(path: Path, *args: Any, **options: Any) -> Any:
        opened.append(path)
        return begin(path, *args, **options)

    monkeypatch.setattr(Path, "open", note_and_open)
    with pytest.raises(errors.NotAModelError) as caught:
        hubdist.load(str(tmp_path / "served"))
    assert "1, 2, 10" in str(caught.value)
    assert f"{tmp_path}/served/10." in str(caught.value)
    assert [path for path in opened if path.is_relative_to(tmp_path / "served")] == []
    monkeypatch.undo()
    refused(tmp_path / "served", errors.NotAModelError, store)
    assert resolved(f"{tmp_path}/served/2") == FILES


def test_versions_of_a_users_origin_are_refused_before_they_are_read(store: Path) -> None:
    source = MemorySource({f"{version}/{name}": data for version in (1, 2) for name, data in FILES.items()})
    hubdist.init(store=str(store), origins={"registry": lambda _: source})
    refused("registry://model", errors.NotAModelError, store)
    assert source.reads == 0


def test_one_version_alone_is_the_model(tmp_path: Path) -> None:
    write_files(tmp_path / "served" / "3", FILES)
    assert resolved(tmp_path / "served") == FILES


@pytest.mark.parametrize(
    "paths",
    [
        ["1/saved_model.pb"],
        ["1/saved_model.pb", "2/variables/variables.index"],
        ["1/saved_model.pb", "latest/saved_model.pb"],
        ["1/saved_model.pb", "2/saved_model.pb", "README.md"],
        ["1/model.onnx", "2/model.onnx"],
        ["saved_model.pb", "1/saved_model.pb", "2/saved_model.pb"],
        ["²/saved_model.pb", "1/saved_model.pb"],
    ],
)
def test_other_directories_are_not_versions(paths: list[str]) -> None:
    assert served_versions(paths) == []


# What files are that are not a SavedModel


@pytest.mark.parametrize(
    ("paths", "says"),
    [
        (["checkpoint", "ckpt-1.index", "ckpt-1.data-00000-of-00001"], "training checkpoint.*tf.train.Checkpoint"),
        (["model.ckpt.index", "model.ckpt.data-00000-of-00002"], "training checkpoint"),
        (["model.json", "group1-shard1of2.bin", "group1-shard2of2.bin"], r"TensorFlow\.js.*tensorflowjs"),
        (["net.tflite", "labels.txt"], r"TFLite.*tf\.lite\.Interpreter.*net\.tflite"),
        (["model.keras"], r"Keras model.*keras\.models\.load_model"),
        (["net.onnx"], "ONNX.*onnxruntime"),
        (["config.json", "tf_model.h5"], "Transformers.*from_pretrained"),
        (["1/saved_model.pb", "2/saved_model.pb"], "versions.*: 1, 2.*/models/m/2"),
        (["a/b/saved_model.pb", "c/saved_model.pb"], "a/b, c.*/models/m/a/b"),
        (["weights"], r"weights.*\.tar\.gz"),
        ([f"{number}" for number in range(9)], r"9 files.*hubdist\.resolve"),
    ],
)
def test_files_of_another_kind_are_named_and_what_reads_them(paths: list[str], says: str) -> None:
    error = not_a_model_error(paths, "/models/m")
    assert error.handle == "/models/m"
    with pytest.raises(errors.NotAModelError, match=says):
        raise error


def test_versions_where_no_handle_can_name_one() -> None:
    error = not_a_model_error(["1/saved_model.pb", "2/saved_model.pb"], "kaggle://o/m/f/v")
    assert "tf.saved_model.load(hubdist.resolve(handle) + '/2')" in str(error)


_PATHS = st.lists(st.sampled_from(["saved_model.pb", "a", "1", "2", ".x", "B.zip", "b.ZIP"]), min_size=1, max_size=3)


@given(st.lists(_PATHS.map("/".join), min_size=1, max_size=8, unique=True))
def test_any_listing_has_at_most_one_meaning(paths: list[str]) -> None:
    folder = model_folder(paths)
    if folder is not None:
        assert f"{folder}/saved_model.pb" in paths
        assert saved_model_folders(paths) == [folder]
        moved = [path.removeprefix(f"{folder}/") for path in paths]
        assert len({path.casefold() for path in moved}) == len({path.casefold() for path in paths})
        assert served_versions(paths) == []
    if "saved_model.pb" not in paths:
        assert not_a_model_error(paths, "/m").advice


# Archives as people make them


@pytest.mark.parametrize(
    "beside",
    [
        {"model.tar.gz": b"half of itself"},
        {".gitattributes": b"* binary"},
        {".git/config": b"[core]", "model.tar.gz": b""},
        {"pax_global_header": b"52 comment"},
        {"PaxHeaders.12/model": b"30 mtime=1"},
        {"model/model.tar.gz": b"half of itself"},
        {"._model": b"\0\5\x16\7", "__MACOSX/._model": b"\0\5\x16\7", ".DS_Store": b"Bud1"},
    ],
)
@pytest.mark.parametrize("pack", [targz, zipped])
def test_a_folder_around_a_model_is_found_beside_what_archives_carry_along(
    hub: LoopbackHub, pack: Callable[..., bytes], beside: dict[str, bytes]
) -> None:
    files = {f"model/{name}": data for name, data in FILES.items()}
    found = resolved(hub.add_file("model.tar.gz", pack({**beside, **files})))
    assert {name: found.get(name) for name in FILES} == FILES
    macos = {name for name in beside if "._" in name or "DS_Store" in name}
    assert set(found) - set(FILES) == {name.removeprefix("model/") for name in set(beside) - macos}


def test_one_file_in_an_archive_is_a_model_of_one_file(tmp_path: Path) -> None:
    (tmp_path / "all.zip").write_bytes(zipped({"a/model.onnx": b"x", "a/other": b"y"}))
    assert resolved(f"zip://a/model.onnx::{tmp_path}/all.zip") == {"model.onnx": b"x"}
