"""The cache that a program names, and tensorflow_hub with and without hubdist."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import tensorflow as tf
import tensorflow_hub as hub

import hubdist
from hubdist.integrations import tensorflow_hub as integration
from hubdist.testing.hub import LoopbackHub


def test_a_cache_by_file_url_is_filled_as_tensorflow_hub_fills_it(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFHUB_CACHE_DIR", f"file://{tmp_path}/cache")
    hubdist.init(store=str(tmp_path / "store"))
    hub.load(words)

    name = hashlib.sha1(words.encode(), usedforsecurity=False).hexdigest()
    assert sorted(tf.io.gfile.listdir(f"file://{tmp_path}/cache")) == [name, f"{name}.descriptor.txt"]
    found = sorted(tf.io.gfile.listdir(f"file://{tmp_path}/cache/{name}"))
    assert found == ["assets", "fingerprint.pb", "saved_model.pb", "variables"]


def test_the_flag_names_the_cache_too(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from absl import flags

    monkeypatch.setattr(flags.FLAGS["tfhub_cache_dir"], "_value", str(tmp_path / "cache"))
    hub.resolve(words)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_what_tensorflow_hub_has_cached_is_used_in_place_of_the_hub(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_server: LoopbackHub
) -> None:
    monkeypatch.setenv("TFHUB_CACHE_DIR", f"file://{tmp_path}/cache")
    integration.uninstall()
    assert hub.resolve(words).startswith(f"file://{tmp_path}/cache")
    integration.install()
    hubdist.init(store=str(tmp_path / "store"))

    assert hub.resolve(words).startswith(str(tmp_path / "store"))
    assert hub_server.reads(words) == 1


def test_without_hubdist_tensorflow_hub_downloads_for_itself(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_server: LoopbackHub
) -> None:
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))
    integration.uninstall()
    assert hub.resolve(words).startswith(str(tmp_path / "cache"))
    assert not list((tmp_path / "store" / "snapshots").iterdir())


def test_installing_again_after_the_import_works_too(words: str, tmp_path: Path) -> None:
    integration.uninstall()
    integration.install()
    integration.install()
    assert hub.resolve(words).startswith(str(tmp_path / "store"))
