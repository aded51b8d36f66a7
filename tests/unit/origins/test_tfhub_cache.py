"""An existing TensorFlow Hub cache is used before the network, but only what is complete and nobody else's."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

import hubdist
from hubdist.config.schema import Config
from hubdist.remote.tfhub_cache import find_on_disk
from hubdist.resolver.resolver import Resolver
from hubdist.resolver.values import Pinned
from hubdist.store.store import Store
from hubdist.testing.hub import LoopbackHub
from tests.support.checkpoints import variables_index

FROM_HUB = {"saved_model.pb": b"from the hub"}
CACHED = {"saved_model.pb": b"from the cache", "assets/words.txt": b"words"}
FROM_CACHE = "TensorFlow Hub cache"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    path = tmp_path / "tfhub"
    path.mkdir(mode=0o700)
    return path


def fill_cache(cache: Path, written: str, files: dict[str, bytes]) -> Path:
    """An entry as tensorflow_hub 0.16 leaves it: `<sha1>/` and `<sha1>.descriptor.txt`."""
    name = hashlib.sha1(written.encode(), usedforsecurity=False).hexdigest()
    for path, data in files.items():
        (cache / name / path).parent.mkdir(parents=True, exist_ok=True)
        (cache / name / path).write_bytes(data)
    for folder in (cache / name, *(path for path in (cache / name).rglob("*") if path.is_dir())):
        folder.chmod(0o755)
    (cache / f"{name}.descriptor.txt").write_text(f"Module: {written}\nDownload Time: then\n")
    return cache / name


def resolve(handle: str, tmp_path: Path, cache: Path | None, **settings: Any) -> tuple[Pinned, dict[str, bytes]]:
    store = Store(tmp_path / "store")
    config = Config(tfhub_cache_dir=None if cache is None else str(cache), origin_retries=0, **settings)
    resolver = Resolver(config, store, None)
    found = resolver.find_or_read(resolver.parse(handle))
    snapshot = store.find(found.digest)
    assert snapshot is not None
    with snapshot:
        return found, {entry.path: (snapshot.path / entry.path).read_bytes() for entry in found.manifest.entries}


@pytest.mark.parametrize("written", ["", "/"])
@pytest.mark.parametrize("asked", ["", "/", "?tf-hub-format=compressed"])
def test_a_complete_entry_is_used_and_the_hub_not_asked(
    hub: LoopbackHub, tmp_path: Path, cache: Path, written: str, asked: str
) -> None:
    handle = hub.add_model("google/words/1", FROM_HUB)
    fill_cache(cache, handle + written, CACHED)
    found, files = resolve(handle + asked, tmp_path, cache)
    assert (found.source, files) == (FROM_CACHE, CACHED)
    assert hub.requests == []


def test_the_environment_names_the_cache(
    hub: LoopbackHub, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = hub.add_model("google/words/1", FROM_HUB)
    fill_cache(cache, handle, CACHED)
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(cache))
    config = Config.load({"store": str(tmp_path / "store")})
    resolver = Resolver(config, Store(tmp_path / "store"), None)
    assert resolver.find_or_read(resolver.parse(handle)).source == FROM_CACHE
    assert hub.requests == []


def test_an_archive_of_a_url_is_found_too(hub: LoopbackHub, tmp_path: Path, cache: Path) -> None:
    handle = hub.url + "/model.tar.gz"
    fill_cache(cache, handle, CACHED)
    assert resolve(handle, tmp_path, cache)[1] == CACHED


def test_the_cache_serves_offline(tmp_path: Path, cache: Path) -> None:
    fill_cache(cache, "https://tfhub.dev/google/words/1", CACHED)
    found, _ = resolve("https://tfhub.dev/google/words/1", tmp_path, cache, offline=True)
    assert found.source == FROM_CACHE


def test_the_cache_is_left_as_it_was(hub: LoopbackHub, tmp_path: Path, cache: Path) -> None:
    handle = hub.add_model("google/words/1", FROM_HUB)
    folder = fill_cache(cache, handle, CACHED)
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    resolve(handle, tmp_path, cache)
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before
    assert (folder / "saved_model.pb").stat().st_nlink == 1


def assert_hub_is_asked(
    hub: LoopbackHub, handle: str, tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found, files = resolve(handle, tmp_path, cache)
    assert (found.source, files) == ("origin", FROM_HUB)
    assert hub.reads(handle) == 1
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "not used" in warnings[0]


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"variables/variables.index": b"index"}, id="only variables"),
        pytest.param({"assets/words.txt": b"words"}, id="only assets"),
        pytest.param({"saved_model.pb": b"x", "variables/variables.data-00000-of-00001": b"x"}, id="no index"),
        pytest.param({"saved_model.pb": b"x", "variables/variables.index": b"cut"}, id="cut index"),
    ],
)
def test_an_incomplete_entry_is_not_used(
    hub: LoopbackHub, tmp_path: Path, cache: Path, files: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    handle = hub.add_model("google/words/1", FROM_HUB)
    fill_cache(cache, handle, files)
    assert_hub_is_asked(hub, handle, tmp_path, cache, caplog)


def test_an_entry_that_tensorflow_hub_is_writing_is_not_used(
    hub: LoopbackHub, tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    handle = hub.add_model("google/words/1", FROM_HUB)
    folder = fill_cache(cache, handle, CACHED)
    folder.with_name(f"{folder.name}.lock").write_text("host.4711")
    assert_hub_is_asked(hub, handle, tmp_path, cache, caplog)


def test_an_entry_without_one_variables_file_is_not_used(
    hub: LoopbackHub, tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = {"variables/variables.data-00000-of-00001": b"x"}
    real = {**CACHED, "variables/variables.index": variables_index(1), **data}
    handle = hub.add_model("google/words/1", FROM_HUB)
    folder = fill_cache(cache, handle, real)
    (folder / "variables" / "variables.data-00000-of-00001").unlink()
    assert_hub_is_asked(hub, handle, tmp_path, cache, caplog)
    other = hub.url + "/google/whole/1"
    fill_cache(cache, other, real)
    found, files = resolve(other, tmp_path, cache)
    assert (found.source, files) == (FROM_CACHE, real)


@pytest.mark.parametrize("which", ["cache", "entry"])
@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_what_others_may_write_to_is_not_used(
    hub: LoopbackHub, tmp_path: Path, cache: Path, which: str, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    handle = hub.add_model("google/words/1", FROM_HUB)
    folder = fill_cache(cache, handle, CACHED)
    (cache if which == "cache" else folder).chmod(mode)
    assert_hub_is_asked(hub, handle, tmp_path, cache, caplog)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
@pytest.mark.root
def test_what_somebody_else_owns_is_not_used(
    hub: LoopbackHub, tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    handle = hub.add_model("google/words/1", FROM_HUB)
    os.chown(fill_cache(cache, handle, CACHED), 65534, 65534)
    assert_hub_is_asked(hub, handle, tmp_path, cache, caplog)


def test_a_cache_that_may_not_be_entered_is_not_used(
    hub: LoopbackHub, tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = hub.add_model("google/words/1", FROM_HUB)
    folder = fill_cache(cache, handle, CACHED)
    stat = Path.stat

    def refuse(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if path == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", refuse)
    assert_hub_is_asked(hub, handle, tmp_path, cache, caplog)


@pytest.mark.parametrize("handle", ["gs://bucket/model", "/models/words", "kaggle://a/b/tensorFlow2/c/1"])
def test_other_kinds_of_handles_are_not_looked_up(tmp_path: Path, cache: Path, handle: str) -> None:
    resolver = Resolver(Config(), Store(tmp_path / "store"), None)
    fill_cache(cache, handle, CACHED)
    assert find_on_disk(resolver.parse(handle), cache) is None


def test_a_cache_that_does_not_exist_is_no_error(hub: LoopbackHub, tmp_path: Path) -> None:
    handle = hub.add_model("google/words/1", FROM_HUB)
    assert resolve(handle, tmp_path, tmp_path / "nothing")[0].source == "origin"


def test_a_cache_by_file_url_is_read_and_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("TFHUB_CACHE_DIR", f"file://{empty}")
    with LoopbackHub() as hub:
        handle = hub.add_model("acme/model/1", {"saved_model.pb": b"model"})
        hubdist.resolve(handle)
        assert hub.reads(handle) == 1
    assert list(empty.iterdir()) == []
    assert Config.load().tfhub_cache_dir == str(empty)
    assert Config.load({"tfhub_cache_dir": f"file://localhost{empty}"}).tfhub_cache_dir == str(empty)
