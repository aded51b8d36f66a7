"""TensorFlow Hub's own cache is filled as tensorflow_hub fills it, and a cache that cannot be filled stops nobody."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubdist.integrations.tensorflow_hub_cache import fill_cache

HANDLE = "https://tfhub.dev/acme/words/1"
NAME = hashlib.sha1(HANDLE.encode(), usedforsecurity=False).hexdigest()


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "model"
    (root / "assets" / "empty").mkdir(parents=True)
    (root / "saved_model.pb").write_bytes(b"graph")
    (root / "assets" / "words.txt").write_bytes(b"one\n")
    for path in [*root.rglob("*"), root]:
        path.chmod(0o555 if path.is_dir() else 0o444)  # as in a store
    yield root
    for path in [root, *root.rglob("*")]:
        path.chmod(0o755)


def test_a_model_and_where_it_comes_from_are_in_the_cache_and_can_be_deleted(tmp_path: Path, model: Path) -> None:
    cache = tmp_path / "new" / "cache"
    fill_cache(cache, HANDLE, model)

    assert sorted(path.name for path in cache.iterdir()) == [NAME, f"{NAME}.descriptor.txt"]
    assert (cache / NAME / "saved_model.pb").read_bytes() == b"graph"
    assert (cache / NAME / "assets" / "words.txt").read_bytes() == b"one\n"
    assert (cache / NAME / "assets" / "empty").is_dir()
    assert f"Module: {HANDLE}\nDownload Time: " in (cache / f"{NAME}.descriptor.txt").read_text()
    shutil.rmtree(cache)


def test_a_saved_model_has_the_directory_of_its_assets_also_without_any(tmp_path: Path) -> None:
    for name in ("saved_model.pb", "other.bin"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
        fill_cache(tmp_path / f"cache-{name}", HANDLE, tmp_path / name)
    assert (tmp_path / "cache-saved_model.pb" / NAME / "assets").is_dir()
    assert not (tmp_path / "cache-other.bin" / NAME / "assets").exists()


def test_what_the_cache_has_is_left_alone(tmp_path: Path, model: Path) -> None:
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "other").touch()
    fill_cache(tmp_path, HANDLE, model)
    assert [path.name for path in (tmp_path / NAME).iterdir()] == ["other"]


def test_an_empty_directory_is_no_hit(tmp_path: Path, model: Path) -> None:
    (tmp_path / NAME).mkdir()
    fill_cache(tmp_path, HANDLE, model)
    assert (tmp_path / NAME / "saved_model.pb").exists()


def test_a_cache_that_cannot_be_filled_is_named_once(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "file"
    cache.touch()
    with caplog.at_level(logging.WARNING, logger="hubdist"):
        fill_cache(cache, HANDLE, model)
        fill_cache(cache, HANDLE, model)
    assert [record.getMessage() for record in caplog.records] == [
        f"hubdist: no copies of models in TensorFlow Hub's cache {cache}: Not a directory"
    ]


def test_a_secret_in_a_handle_is_not_written(tmp_path: Path, model: Path) -> None:
    fill_cache(tmp_path / "cache", "https://me:hunter2@host/model.tar.gz", model)
    (description,) = (tmp_path / "cache").glob("*.txt")
    assert "hunter2" not in description.read_text()
