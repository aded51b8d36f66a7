"""`include` and `exclude` on object storage: the chosen files alone are read, and are a model of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

import hubdist
from hubdist import errors
from tests.support.archives import targz, zipped
from tests.support.gcs import FakeGcs, gcs_environment
from tests.support.gcs_proxy import GcsProxy
from tests.support.places import GcsPlace, Place, put_all

BUCKET = "chosen"
FILES = {
    "config.json": b"{}",
    "weights.bin": bytes(range(256)) * 4000,
    "onnx/model.json": b"[1]",
    "onnx/model.onnx": b"onnx" * 1000,
    "assets/a b+c%20d#e.txt": b"one\ntwo\n",
}
JSON = {path: data for path, data in FILES.items() if path.endswith(".json")}


class Reads(list[str]):
    """The requests for the bytes of objects that a server got, for use with `GcsProxy`."""

    def note(self, _: int, when: str, request: str) -> None:
        if when == "before" and "alt=media" in request:
            self.append(unquote(request))

    def paths(self, folder: str) -> list[str]:
        """The files that were read, once for each time."""
        return sorted(path for line in self for path in FILES if f"/{folder}/{path}?" in line)


@pytest.fixture(autouse=True)
def store(tmp_path: Path) -> Path:
    hubdist.init(store=str(tmp_path / "store"), origin_retries=0)
    return tmp_path / "store"


@pytest.fixture
def reads(server: FakeGcs) -> Iterator[Reads]:
    """What this process reads of the storage server."""
    seen = Reads()
    with GcsProxy(server.url, seen.note) as proxy, gcs_environment(proxy.url):
        yield seen


@pytest.fixture
def folder(request: pytest.FixtureRequest, server: FakeGcs) -> str:
    """A folder of the bucket, with all files."""
    name = hashlib.sha1(request.node.name.encode()).hexdigest()[:12]
    server.put_all(BUCKET, name, FILES)
    return name


def files_in(root: str) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(Path(root).rglob("*")) if path.is_file()
    }


def digest_of(root: str) -> str:
    """The digest of what `resolve` gave: a snapshot's directory is named by it."""
    return Path(root).parent.name


def test_the_chosen_files_are_the_model_on_every_storage(place: Place) -> None:
    put_all(place, "", FILES)
    assert files_in(hubdist.resolve(place.url, include="*.json")) == JSON
    assert files_in(hubdist.resolve(place.url, include=["onnx/", "config.json"], exclude="*.onnx")) == JSON
    others = files_in(hubdist.resolve(place.url, exclude=["*.json", "onnx/"]))
    assert set(others) == {"weights.bin", "assets/a b+c%20d#e.txt"}


def test_a_choice_in_the_handle_is_that_of_the_call(place: Place) -> None:
    put_all(place, "", FILES)
    called = hubdist.resolve(place.url, include=["onnx/", "*.json"], exclude="*.onnx")
    assert hubdist.resolve(f"files://include=*.json&include=onnx/&exclude=*.onnx::{place.url}") == called
    assert hubdist.resolve(f"files://exclude=*.onnx&include=onnx/&include=*.json::{place.url}") == called


def test_a_choice_has_the_digest_of_a_model_of_its_files_alone(place: Place, tmp_path: Path) -> None:
    put_all(place, "", FILES)
    for path, data in JSON.items():
        (tmp_path / "alone" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "alone" / path).write_bytes(data)
    chosen = hubdist.resolve(place.url, include="*.json")
    assert digest_of(chosen) == digest_of(hubdist.resolve(str(tmp_path / "alone")))
    assert digest_of(chosen) == digest_of(hubdist.resolve(place.url, include=["config.json", "onnx/*.json"]))


def test_another_choice_and_the_whole_are_other_models(place: Place) -> None:
    put_all(place, "", FILES)
    asked = [{"include": "*.json"}, {"include": "*.bin"}, {"exclude": "*.json"}, {}]
    assert len({digest_of(hubdist.resolve(place.url, **choice)) for choice in asked}) == len(asked)
    assert files_in(hubdist.resolve(place.url)) == FILES


def test_a_choice_of_nothing_is_an_error_that_names_it_and_leaves_nothing(place: Place, store: Path) -> None:
    put_all(place, "", FILES)
    for _ in range(2):  # also where the first answer is known
        with pytest.raises(errors.ModelNotFoundError, match=r"no file of .* is chosen by include=\*\.none") as caught:
            hubdist.resolve(place.url, include="*.none")
        assert place.url in str(caught.value)
    assert list((store / "snapshots").iterdir()) == []
    assert list((store / "staging").iterdir()) == []
    assert files_in(hubdist.resolve(place.url)) == FILES


def test_files_that_are_not_chosen_are_not_read_from_the_bucket(folder: str, reads: Reads) -> None:
    hubdist.resolve(f"gs://{BUCKET}/{folder}", include=["*.json", "assets/"])
    assert reads.paths(folder) == sorted([*JSON, "assets/a b+c%20d#e.txt"])
    del reads[:]
    hubdist.resolve(f"gs://{BUCKET}/{folder}", exclude=["*.bin", "onnx/"])
    assert "weights.bin" not in reads.paths(folder)
    assert not [path for path in reads.paths(folder) if path.startswith("onnx/")]


def test_a_choice_of_nothing_reads_nothing_from_the_bucket(folder: str, reads: Reads) -> None:
    with pytest.raises(errors.ModelNotFoundError):
        hubdist.resolve(f"gs://{BUCKET}/{folder}", include="*.none")
    assert reads == []


def test_what_is_not_chosen_does_not_count_to_the_stores_limit(folder: str, tmp_path: Path) -> None:
    hubdist.init(store=str(tmp_path / "small"), max_store_bytes=len(FILES["weights.bin"]), origin_retries=0)
    with pytest.raises(errors.StoreFullError):
        hubdist.resolve(f"gs://{BUCKET}/{folder}")
    assert files_in(hubdist.resolve(f"gs://{BUCKET}/{folder}", include="*.json")) == JSON


@pytest.mark.parametrize("scheme", ["zip", "tar"])
def test_a_choice_of_an_archive_in_the_bucket(server: FakeGcs, folder: str, scheme: str) -> None:
    inner = {f"in/{path}": data for path, data in FILES.items()}
    name, packed = ("x.zip", zipped(inner)) if scheme == "zip" else ("x.tar.gz", targz(inner))
    server.put(BUCKET, f"{folder}-archives/{name}", packed)
    handle = f"{scheme}://in::gs://{BUCKET}/{folder}-archives/{name}"
    assert files_in(hubdist.resolve(f"files://include=*.json::{handle}")) == JSON
    with pytest.raises(errors.ModelNotFoundError, match=r"include=\*\.none"):
        hubdist.resolve(handle, include="*.none")


@pytest.mark.tf
def test_a_model_is_loaded_without_the_files_beside_it(server: FakeGcs, models: Path, reads: Reads) -> None:
    place = GcsPlace(server, BUCKET, "loaded")
    put_all(place, "", {**files_in(str(models / "tf2")), "weights.bin": FILES["weights.bin"]})
    model = hubdist.load(place.url, exclude="*.bin")
    assert model(["one", "two"]).numpy().tolist() == [[2.0, 3.0], [4.0, 6.0]]
    assert reads.paths("loaded") == []  # of its files only weights.bin is one of FILES
    assert hubdist.load(f"files://exclude=*.bin::{place.url}") is model
    assert "loaded/saved_model.pb" in "".join(reads)
