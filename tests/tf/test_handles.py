"""Handles as people write them, and archives as people make them, of models that TensorFlow then loads."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

import hubdist
from hubdist import errors
from tests.support.archives import targz

pytestmark = pytest.mark.tf

FILES = {"saved_model.pb": bytes(range(256)) * 40, "assets/words.txt": b"one\ntwo\n"}


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


def test_a_path_is_a_handle_everywhere(tmp_path: Path, models: Path) -> None:
    path = models / "tf2"
    assert resolved(path) == files_of(path)
    assert hubdist.prefetch(path).pins[0].handle == str(path)  # type: ignore[arg-type]
    assert hubdist.prefetch([path]).pins[0].handle == str(path)  # type: ignore[list-item]
    assert hubdist.plan(path).handle == str(path)  # type: ignore[arg-type]
    assert hubdist.load(path)(["one"]).numpy().tolist() == [[2.0, 3.0]]  # type: ignore[arg-type]
    assert hubdist.load(path / "saved_model.pb") is hubdist.load(str(path))  # type: ignore[arg-type]


def test_a_real_checkpoint_is_told_from_a_model(tmp_path: Path, models: Path) -> None:
    import tensorflow as tf

    tf.train.Checkpoint(weight=tf.Variable(1.0)).save(str(tmp_path / "training" / "ckpt"))
    with pytest.raises(errors.NotAModelError, match="training checkpoint"):
        hubdist.load(str(tmp_path / "training"))


@pytest.mark.parametrize(
    "beside",
    [{"README.md": b""}, {"docs/a.txt": b""}, {".x": b"1", "model/.X": b"2"}, {"other/saved_model.pb": b""}],
)
def test_a_folder_beside_other_files_stays_and_the_error_names_it(
    tmp_path: Path, models: Path, beside: dict[str, bytes]
) -> None:
    files = {**{f"model/{name}": data for name, data in FILES.items()}, **beside}
    (tmp_path / "m.tar.gz").write_bytes(targz(files))
    if ".x" not in beside:
        assert resolved(tmp_path / "m.tar.gz") == files
    with pytest.raises(errors.HubdistError) as caught:
        hubdist.load(str(tmp_path / "m.tar.gz"))
    if ".x" not in beside:
        assert f"tar://model::{tmp_path}/m.tar.gz" in str(caught.value)


@pytest.mark.parametrize("place", ["model/model.tar.gz", "model.tar.gz"])
def test_an_archive_that_was_packed_into_itself_is_loaded(tmp_path: Path, models: Path, place: str) -> None:
    write_files(tmp_path / "model", files_of(models / "tf2"))
    packed = tmp_path / place
    packed.write_bytes(b"\x1f\x8b, and the rest was not written yet")
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as archive:
        archive.add(tmp_path / "model", "model")
        archive.add(packed, place)
    packed.write_bytes(whole.getvalue())
    for handle in (str(packed), f"tar://model::{packed}"):
        assert hubdist.load(handle)(["two"]).numpy().tolist() == [[4.0, 6.0]]
