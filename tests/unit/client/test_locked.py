"""`frozen` and `locked`, as a program without Ray meets them."""

from __future__ import annotations

from pathlib import Path

import pytest

import hubdist
from hubdist.errors import DigestMismatchError, NotPinnedError
from hubdist.testing.hub import LoopbackHub


@pytest.fixture
def lock(hub: LoopbackHub, tmp_path: Path) -> str:
    """A lock file that pins `acme/known/1`."""
    handle = hub.add_model("acme/known/1", {"saved_model.pb": b"old"})
    hubdist.init(lock_file=str(tmp_path / "hubdist.lock"))
    hubdist.resolve(handle)
    hubdist.shutdown()
    return str(tmp_path / "hubdist.lock")


def test_locked_settings_do_not_begin_if_the_file_lacks_a_listed_model(hub: LoopbackHub, lock: str) -> None:
    models = [f"{hub.url}/acme/known/1", f"{hub.url}/acme/new/1"]
    with pytest.raises(NotPinnedError, match="locked") as caught:
        hubdist.init(lock_file=lock, locked=True, models=models)
    assert caught.value.handle == models[1]
    hubdist.init(lock_file=lock, frozen=True, models=models)  # does not look
    hubdist.init(lock_file=lock, locked=True, models=models[:1])


def test_an_origin_that_has_changed_is_refused_by_locked_and_not_looked_at_by_frozen(
    hub: LoopbackHub, lock: str
) -> None:
    handle = hub.add_model("acme/known/1", {"saved_model.pb": b"new"})
    hubdist.init(lock_file=lock, frozen=True)
    assert Path(hubdist.resolve(handle), "saved_model.pb").read_bytes() == b"old"
    reads = hub.reads(handle)
    hubdist.init(lock_file=lock, locked=True)
    with pytest.raises(DigestMismatchError, match=r"hubdist\.lock pins"):
        hubdist.resolve(handle)
    assert hub.reads(handle) == reads + 1


def test_a_process_reads_the_origin_of_a_handle_once_to_find_out(hub: LoopbackHub, lock: str) -> None:
    handle = f"{hub.url}/acme/known/1"
    before = hub.reads(handle)
    hubdist.init(lock_file=lock, locked=True)
    for _ in range(3):
        hubdist.resolve(handle)
    assert hub.reads(handle) == before + 1
