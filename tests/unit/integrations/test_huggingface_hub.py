"""huggingface_hub's own functions while hubdist is installed, against a hub on 127.0.0.1 that counts what leaves it."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hubdist
from hubdist.client.current import _given
from hubdist.integrations.huggingface_hub import install, install_everywhere, uninstall
from hubdist.store.store import Store
from hubdist.testing.hugging_face import LoopbackHuggingFace
from tests.support.hugging_face import use_hub

huggingface_hub = pytest.importorskip("huggingface_hub")

from huggingface_hub import (  # noqa: E402 - by name and before `install`, as programs do
    constants,
    hf_hub_download,
    scan_cache_dir,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (  # noqa: E402 - as above
    GatedRepoError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

FILES = {"config.json": b"{}", "model.safetensors": bytes(300_000), "onnx/model.onnx": b"o" * 5000}
TOTAL = sum(map(len, FILES.values()))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LoopbackHuggingFace]:
    with LoopbackHuggingFace() as running:
        use_hub(running.url, tmp_path, monkeypatch)
        hubdist.init(store=str(tmp_path / "store"), origin_retries=1)
        install()
        yield running
        uninstall()
        hubdist.shutdown()
        _given.clear()


def contents(folder: str) -> dict[str, bytes]:
    root = Path(folder)
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def forget_and_evict(store: Path) -> None:
    """End what this process holds, and evict all snapshots, as a full store does."""
    hubdist.shutdown()
    _given.clear()
    for digest in Store(store).digests():
        assert Store(store).evict(digest)


def in_store(path: str, tmp_path: Path) -> bool:
    return Path(path).resolve().is_relative_to(tmp_path / "store" / "snapshots")


def test_functions_that_were_imported_by_name_answer_from_the_store(hub: LoopbackHuggingFace, tmp_path: Path) -> None:
    commit = hub.add("acme/model", FILES)
    folder = snapshot_download("acme/model")
    assert folder == str(tmp_path / "hub" / "models--acme--model" / "snapshots" / commit)
    assert contents(folder) == FILES
    file = hf_hub_download("acme/model", "model.onnx", subfolder="onnx")
    assert file == f"{folder}/onnx/model.onnx"
    assert in_store(file, tmp_path)
    assert hub.sent() == TOTAL


@pytest.mark.parametrize(
    ("patterns", "paths"),
    [
        ({"allow_patterns": "*.json"}, {"config.json"}),
        ({"allow_patterns": ["onnx/"]}, {"onnx/model.onnx"}),
        ({"ignore_patterns": ["*.safetensors", "*.onnx"]}, {"config.json"}),
        ({"allow_patterns": []}, set()),
    ],
)
def test_patterns_choose_what_they_choose_without_hubdist(
    hub: LoopbackHuggingFace, tmp_path: Path, patterns: dict[str, Any], paths: set[str]
) -> None:
    hub.add("acme/model", FILES)
    found = contents(snapshot_download("acme/model", **patterns))
    assert set(found) == paths
    assert hub.sent() == sum(len(FILES[path]) for path in paths)
    uninstall()
    plain = snapshot_download("acme/model", cache_dir=tmp_path / "plain", **patterns)
    assert (contents(plain) if Path(plain).exists() else {}) == found


def test_a_folder_around_a_model_stays(hub: LoopbackHuggingFace) -> None:
    files = {"tf/saved_model.pb": b"s", "tf/assets/a": b"1"}
    hub.add("acme/model", files)
    assert Path(hf_hub_download("acme/model", "tf/saved_model.pb")).read_bytes() == b"s"
    assert contents(snapshot_download("acme/model")) == files


def test_what_reads_the_cache_finds_the_files_without_network(
    hub: LoopbackHuggingFace, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.add("acme/model", FILES)
    folder = snapshot_download("acme/model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = len(hub.requests())
    assert try_to_load_from_cache("acme/model", "config.json") == f"{folder}/config.json"
    assert snapshot_download("acme/model") == folder
    assert snapshot_download("acme/model", local_files_only=True) == folder
    uninstall()
    assert hf_hub_download("acme/model", "config.json") == f"{folder}/config.json"
    scanned = scan_cache_dir(constants.HF_HUB_CACHE)
    assert [revision.commit_hash for repo in scanned.repos for revision in repo.revisions] == [commit]
    assert not scanned.warnings
    assert len(hub.requests()) == before


def test_links_of_an_evicted_snapshot_are_made_anew(hub: LoopbackHuggingFace, tmp_path: Path) -> None:
    hub.add("acme/model", FILES)
    folder = snapshot_download("acme/model")
    forget_and_evict(tmp_path / "store")
    assert not Path(folder, "config.json").exists()
    assert try_to_load_from_cache("acme/model", "config.json") is None
    hubdist.init(store=str(tmp_path / "store"))
    assert contents(snapshot_download("acme/model")) == FILES


def test_huggingface_hub_alone_mends_links_of_an_evicted_snapshot(hub: LoopbackHuggingFace, tmp_path: Path) -> None:
    hub.add("acme/model", FILES)
    folder = snapshot_download("acme/model")
    forget_and_evict(tmp_path / "store")
    uninstall()
    assert snapshot_download("acme/model") == folder
    assert contents(folder) == FILES
    assert not in_store(f"{folder}/config.json", tmp_path)


def test_a_path_stays_for_as_long_as_the_process_that_got_it(hub: LoopbackHuggingFace, tmp_path: Path) -> None:
    hub.add("acme/model", FILES)
    one = hf_hub_download("acme/model", "config.json")
    hubdist.shutdown()
    _given.clear()  # the process that made the link has ended
    hubdist.init(store=str(tmp_path / "store"))
    folder = snapshot_download("acme/model")  # whose config.json leads into the snapshot of one file
    evicted = [digest for digest in Store(tmp_path / "store").digests() if Store(tmp_path / "store").evict(digest)]
    assert evicted == []
    assert contents(folder)["config.json"] == Path(one).read_bytes()


def test_files_that_huggingface_hub_downloaded_stay(hub: LoopbackHuggingFace, tmp_path: Path) -> None:
    hub.add("acme/model", FILES)
    uninstall()
    own = hf_hub_download("acme/model", "config.json")
    install()
    folder = snapshot_download("acme/model")
    assert f"{folder}/config.json" == own
    assert not in_store(own, tmp_path)
    assert in_store(f"{folder}/model.safetensors", tmp_path)


def test_a_local_dir_gets_copies_and_each_byte_leaves_the_hub_once(hub: LoopbackHuggingFace, tmp_path: Path) -> None:
    hub.add("acme/model", FILES)
    for number in range(2):
        folder = snapshot_download("acme/model", local_dir=tmp_path / f"own{number}")
        found = {path: data for path, data in contents(folder).items() if not path.startswith(".cache")}
        assert found == FILES
        assert not Path(folder, "config.json").is_symlink()
    assert hub.sent() == TOTAL


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"force_download": True}, "force_download is asked for"),
        ({"token": False}, "no token may be sent"),
        ({"token": "hf_other"}, "or another one than"),
        ({"headers": {"x": "y"}}, "headers is asked for"),
    ],
)
def test_what_hubdist_does_not_do_is_left_to_huggingface_hub_and_said_once(
    hub: LoopbackHuggingFace, tmp_path: Path, caplog: pytest.LogCaptureFixture, options: dict[str, Any], words: str
) -> None:
    hub.add("acme/model", FILES)
    caplog.set_level(logging.INFO, "hubdist")
    for _ in range(2):
        file = hf_hub_download("acme/model", "config.json", **options)
    assert not in_store(file, tmp_path)
    lines = [record.message for record in caplog.records if words in record.message]
    assert len(lines) <= 1  # once for each process: another test may have heard it


def test_a_dry_run_brings_nothing(hub: LoopbackHuggingFace) -> None:
    hub.add("acme/model", FILES)
    infos = snapshot_download("acme/model", dry_run=True)
    assert {info.filename for info in infos} == set(FILES)
    assert hub.sent() == 0


def test_force_download_leaves_the_store_alone(hub: LoopbackHuggingFace, tmp_path: Path) -> None:
    hub.add("acme/model", FILES)
    folder = snapshot_download("acme/model")
    stored = Path(folder, "config.json").resolve()
    assert snapshot_download("acme/model", force_download=True) == folder
    assert contents(folder) == FILES
    assert stored.read_bytes() == FILES["config.json"]
    for digest in Store(tmp_path / "store").digests():
        Store(tmp_path / "store").verify(digest)


def test_exceptions_are_those_of_huggingface_hub(hub: LoopbackHuggingFace) -> None:
    hub.add("acme/model", FILES)
    hub.add("acme/gated", FILES, gated=True)
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download("acme/model", "none.json")
    with pytest.raises(RepositoryNotFoundError):
        snapshot_download("acme/none")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download("acme/model", "config.json", revision="none")
    with pytest.raises(GatedRepoError):
        hf_hub_download("acme/gated", "config.json")
    with pytest.raises(LocalEntryNotFoundError):
        hf_hub_download("acme/model", "config.json", local_files_only=True)
    with pytest.raises(ValueError, match="Invalid repo type"):
        snapshot_download("acme/model", repo_type="none")
    with pytest.raises(huggingface_hub.errors.HFValidationError):
        snapshot_download("a/b/c")


@pytest.mark.parametrize("revision", ["v1", "refs/pr/3"])
def test_kinds_and_revisions_are_those_of_the_call(hub: LoopbackHuggingFace, tmp_path: Path, revision: str) -> None:
    commit = hub.add("acme/data", {"a[1]*.txt": b"1"}, kind="dataset", revision=revision)
    file = hf_hub_download("acme/data", "a[1]*.txt", repo_type="dataset", revision=revision)
    assert Path(file).read_bytes() == b"1"
    folder = tmp_path / "hub" / "datasets--acme--data"
    assert (folder / "refs" / revision).read_text() == commit
    assert hf_hub_download("acme/data", "a[1]*.txt", repo_type="dataset", revision=commit) == file


def test_a_frozen_job_cannot_be_passed_by(hub: LoopbackHuggingFace, tmp_path: Path) -> None:
    hub.add("acme/model", FILES)
    hubdist.init(store=str(tmp_path / "store"), frozen=True)
    with pytest.raises(hubdist.errors.NotPinnedError):
        snapshot_download("acme/model")
    assert hub.requests() == []


def test_a_cache_that_cannot_be_written_gives_paths_into_the_store(hub: LoopbackHuggingFace, tmp_path: Path) -> None:
    hub.add("acme/model", FILES)
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert contents(snapshot_download("acme/model", cache_dir=blocked)) == FILES
    assert Path(hf_hub_download("acme/model", "config.json", cache_dir=blocked)).read_bytes() == b"{}"


def test_installing_twice_and_taking_it_back_leaves_no_trace(hub: LoopbackHuggingFace, tmp_path: Path) -> None:
    hub.add("acme/model", FILES)
    install()
    uninstall()
    assert not in_store(hf_hub_download("acme/model", "config.json"), tmp_path)


_LEAN = """
import sys
from hubdist.integrations.huggingface_hub import install
install()
assert not {"huggingface_hub", "pydantic", "ray", "tensorflow"} & set(sys.modules)
import huggingface_hub
cell = huggingface_hub.snapshot_download.__closure__
assert any("answered" in str(each.cell_contents) for each in cell), "installed at the import"
"""


def test_the_hook_imports_nothing_and_acts_at_the_import() -> None:
    done = subprocess.run([sys.executable, "-c", _LEAN], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_a_hook_that_is_there_is_kept() -> None:
    hook = "hubdist.integrations.huggingface_hub.install"
    assert install_everywhere() == {"worker_process_setup_hook": hook}
    both = install_everywhere({"worker_process_setup_hook": "os.getpid", "pip": []})
    assert both["worker_process_setup_hook"].called_hooks == ("os.getpid", hook)
    uninstall()
