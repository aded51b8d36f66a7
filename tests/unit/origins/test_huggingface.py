"""Hugging Face through the real huggingface_hub, against a hub on 127.0.0.1 that counts what leaves it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hubdist import errors
from hubdist.config.schema import Config
from hubdist.model.handle import parse_handle
from hubdist.origins.huggingface import hub as hub_module
from hubdist.resolver.resolver import Resolver
from hubdist.resolver.values import Pinned
from hubdist.store.store import Store
from hubdist.testing.hugging_face import LoopbackHuggingFace
from tests.support.archives import targz
from tests.support.hugging_face import use_hub

constants = pytest.importorskip("huggingface_hub.constants")

WEIGHTS = bytes(range(256)) * 2000
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS, "onnx/model.onnx": b"o" * 5000, "onnx/words.txt": b"one"}
TOTAL = sum(map(len, FILES.values()))

Resolve = Callable[..., Pinned]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LoopbackHuggingFace]:
    with LoopbackHuggingFace() as running:
        use_hub(running.url, tmp_path, monkeypatch)
        yield running


@pytest.fixture
def resolve(tmp_path: Path) -> Resolve:
    def resolve(text: str, *, store: str = "store", **settings: Any) -> Pinned:
        """What a handle stands for in a new job."""
        config = Config(store=str(tmp_path / store), origin_retries=1, **settings)
        resolver = Resolver(config, Store(tmp_path / store), tmp_path)
        return resolver.find_or_read(resolver.parse(text))

    return resolve


def contents(pinned: Pinned, root: Path) -> dict[str, bytes]:
    with Store(root).find(pinned.digest) as snapshot:  # type: ignore[union-attr]  # it was just published
        return {entry.path: (snapshot.path / entry.path).read_bytes() for entry in pinned.manifest.entries}


@pytest.mark.parametrize(
    ("place", "files"),
    [
        ("", FILES),
        ("/onnx", {"model.onnx": b"o" * 5000, "words.txt": b"one"}),
        ("/onnx/model.onnx", {"model.onnx": b"o" * 5000}),
    ],
)
def test_a_place_in_a_repository_is_a_model(
    hub: LoopbackHuggingFace, resolve: Resolve, tmp_path: Path, place: str, files: dict[str, bytes]
) -> None:
    hub.add("acme/model", FILES)
    pinned = resolve(f"hf://acme/model{place}")
    assert contents(pinned, tmp_path / "store") == files
    assert hub.sent() == sum(map(len, files.values()))


@pytest.mark.parametrize(
    ("handle", "kind", "repo"),
    [("hf://gpt2", "model", "gpt2"), ("hf://datasets/a/b@v1", "dataset", "a/b"), ("hf://spaces/a/b", "space", "a/b")],
)
def test_all_kinds_of_repositories_are_read(
    hub: LoopbackHuggingFace, resolve: Resolve, tmp_path: Path, handle: str, kind: str, repo: str
) -> None:
    hub.add(repo, {"a.txt": b"1"}, kind=kind, revision="v1" if "@" in handle else "main")
    assert contents(resolve(handle), tmp_path / "store") == {"a.txt": b"1"}


def test_an_archive_in_a_repository_is_unpacked(hub: LoopbackHuggingFace, resolve: Resolve, tmp_path: Path) -> None:
    hub.add("acme/model", {"m.tar.gz": targz({"inner/saved_model.pb": b"s", "b": b"2"})})
    assert contents(resolve("hf://acme/model/m.tar.gz"), tmp_path / "store")["b"] == b"2"
    assert contents(resolve("tar://inner::hf://acme/model/m.tar.gz"), tmp_path / "store") == {"saved_model.pb": b"s"}


def test_a_branch_is_pinned_to_its_commit_and_a_commit_is_read_once(
    hub: LoopbackHuggingFace, resolve: Resolve, tmp_path: Path
) -> None:
    old = hub.add("acme/model", FILES)
    first = resolve("hf://acme/model")
    assert first.commit == f"hf://acme/model@{old}"
    again = resolve("hf://acme/model")
    assert (again.digest, again.commit, again.origin_reads) == (first.digest, first.commit, 0)
    new = hub.add("acme/model", FILES | {"config.json": b'{"new": 1}'})
    moved = resolve("hf://acme/model")
    assert (moved.commit, moved.origin_reads) == (f"hf://acme/model@{new}", 1)
    hub.add("acme/model", FILES)
    assert resolve("hf://acme/model").digest == first.digest
    assert resolve(f"hf://acme/model@{old}").digest == first.digest
    assert hub.sent("config.json") == len(b"{}") + len(b'{"new": 1}')
    assert hub.sent("model.safetensors") == len(WEIGHTS), "the new commit has the same weights"


def test_one_job_reads_one_commit_whatever_moves_meanwhile(hub: LoopbackHuggingFace, tmp_path: Path) -> None:
    old = hub.add("acme/model", FILES)
    config = Config(store=str(tmp_path / "store"))
    resolver = Resolver(config, Store(tmp_path / "store"), tmp_path)
    resolver.find_or_read(resolver.parse("files://include=config.json::hf://acme/model"))
    new = hub.add("acme/model", FILES | {"config.json": b"other"})
    assert resolver.find_or_read(resolver.parse("hf://acme/model")).commit == f"hf://acme/model@{old}"
    assert resolver.read_anew(resolver.parse("hf://acme/model")).commit == f"hf://acme/model@{new}"


def test_a_locked_commit_is_read_although_the_branch_has_moved(
    hub: LoopbackHuggingFace, resolve: Resolve, tmp_path: Path
) -> None:
    old = hub.add("acme/model", FILES)
    lock = tmp_path / "hubdist.lock"
    first = resolve("hf://acme/model", lock_file=str(lock))
    assert json.loads(lock.read_text())["hf://acme/model"]["origin"] == f"hf://acme/model@{old}"
    hub.add("acme/model", {"config.json": b"other"})
    elsewhere = resolve("hf://acme/model", store="other", lock_file=str(lock), frozen=True)
    assert (elsewhere.digest, elsewhere.commit) == (first.digest, f"hf://acme/model@{old}")


def test_a_selection_is_a_model_of_its_own_and_only_its_bytes_leave_the_hub(
    hub: LoopbackHuggingFace, resolve: Resolve, tmp_path: Path
) -> None:
    hub.add("acme/model", FILES)
    chosen = resolve("files://include=*.json&include=onnx/&exclude=*.txt::hf://acme/model")
    assert set(contents(chosen, tmp_path / "store")) == {"config.json", "onnx/model.onnx"}
    assert hub.sent() == 5002
    whole = resolve("hf://acme/model")
    assert whole.digest != chosen.digest
    assert hub.sent() == TOTAL, "the files that the selection brought do not leave the hub again"
    assert contents(whole, tmp_path / "store") == FILES


def test_a_damaged_file_of_the_store_is_downloaded_again(
    hub: LoopbackHuggingFace, resolve: Resolve, tmp_path: Path
) -> None:
    hub.add("acme/model", FILES)
    chosen = resolve("files://include=*.onnx::hf://acme/model")
    with Store(tmp_path / "store").find(chosen.digest) as snapshot:  # type: ignore[union-attr]  # just published
        file = snapshot.path / "onnx" / "model.onnx"
        file.chmod(0o600)
        file.write_bytes(b"x" * 5000)
    assert contents(resolve("hf://acme/model"), tmp_path / "store") == FILES


def test_a_cut_download_goes_on_where_it_ended(
    hub: LoopbackHuggingFace, resolve: Resolve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 64 << 10)  # huggingface_hub drops a part of a chunk
    hub.add("acme/model", {"model.safetensors": WEIGHTS})
    hub.cut_next = 300_000
    assert contents(resolve("hf://acme/model"), tmp_path / "store") == {"model.safetensors": WEIGHTS}
    assert hub.sent() < 1.3 * len(WEIGHTS)


@pytest.mark.parametrize("size", [10, 5000])
def test_other_bytes_than_the_hub_lists_are_refused(
    hub: LoopbackHuggingFace, resolve: Resolve, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    hub.add("acme/model", {"weights": b"w" * size})
    listed = hub._entry

    def other(path: str, data: bytes) -> dict[str, Any]:
        return listed(path, data.replace(b"w", b"v", 1))

    monkeypatch.setattr(hub, "_entry", other)
    with pytest.raises(errors.DigestMismatchError, match="weights is not what the hub lists"):
        resolve("hf://acme/model")


def test_tokens_are_found_as_huggingface_hub_finds_them(
    hub: LoopbackHuggingFace, resolve: Resolve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.add("acme/private", FILES, token="hf_secret")
    with pytest.raises(errors.ModelNotFoundError, match="hf auth login"):
        resolve("hf://acme/private")
    (tmp_path / "token").write_text("hf_secret")
    resolve("hf://acme/private")
    (tmp_path / "token").unlink()
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    resolve("hf://acme/private", store="other")


def test_a_gated_repository_is_an_access_error(hub: LoopbackHuggingFace, resolve: Resolve) -> None:
    hub.add("acme/gated", FILES, gated=True)
    with pytest.raises(errors.AccessDeniedError, match="accept its terms"):
        resolve("hf://acme/gated")


@pytest.mark.parametrize("handle", ["hf://acme/none", "hf://acme/model@none", "hf://acme/model/none"])
def test_what_is_not_there_is_said_so(hub: LoopbackHuggingFace, resolve: Resolve, handle: str) -> None:
    hub.add("acme/model", FILES)
    with pytest.raises(errors.ModelNotFoundError):
        resolve(handle)


def test_offline_huggingface_hub_takes_what_the_store_has(
    hub: LoopbackHuggingFace, resolve: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("acme/model", FILES)
    first = resolve("hf://acme/model")
    before = len(hub.requests())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    offline = resolve("hf://acme/model")
    assert (offline.digest, offline.commit) == (first.digest, first.commit)
    with pytest.raises(errors.NotPinnedError, match="HF_HUB_OFFLINE"):
        resolve("hf://acme/other")
    assert len(hub.requests()) == before


def test_a_missing_package_is_named(resolve: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(errors.HandleError, match=r"pip install 'hubdist\[hf\]'"):
        resolve("hf://acme/model")


def test_the_key_of_a_selection_is_its_own() -> None:
    whole = parse_handle("hf://acme/model")
    one, same, other = (
        parse_handle(f"files://{words}::hf://acme/model")
        for words in ("include=a&include=b", "include=b&include=a&include=a", "include=a")
    )
    assert one == same
    assert len({whole.key, one.key, other.key}) == 3
