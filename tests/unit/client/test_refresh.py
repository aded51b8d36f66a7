"""New weights at the same place, within a running job."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

import hubdist
from hubdist.errors import DigestMismatchError, ModelNotFoundError
from hubdist.testing.hub import LoopbackHub


def write(folder: Path, text: str) -> str:
    """A directory that looks like a SavedModel from outside."""
    folder.mkdir(exist_ok=True)
    (folder / "saved_model.pb").write_text(text)
    return str(folder)


def read(handle: str) -> str:
    return Path(hubdist.resolve(handle), "saved_model.pb").read_text()


def test_a_handle_stands_for_new_bytes_once_it_is_refreshed(tmp_path: Path) -> None:
    handle = write(tmp_path / "model", "old")
    old = Path(hubdist.resolve(handle))
    write(tmp_path / "model", "new!")
    assert read(handle) == "old"
    refreshed = hubdist.refresh(handle)
    assert refreshed.changed
    assert refreshed.before is not None
    assert refreshed.before.startswith("sha256:") and refreshed.before != refreshed.digest
    assert read(handle) == "new!"
    assert (old / "saved_model.pb").read_text() == "old"  # whoever has it keeps it
    assert not hubdist.refresh(handle).changed


def test_a_refresh_of_what_was_not_resolved_resolves_it(tmp_path: Path) -> None:
    handle = write(tmp_path / "model", "first")
    refreshed = hubdist.refresh(handle)
    assert refreshed.before is None
    assert read(handle) == "first"


def test_a_hubs_model_is_read_again_although_the_store_has_it() -> None:
    with LoopbackHub() as hub:
        handle = hub.add_model("acme/model/1", {"saved_model.pb": b"old"})
        assert read(handle) == "old"
        hub.add_model("acme/model/1", {"saved_model.pb": b"new"})
        hubdist.refresh(handle)
        assert read(handle) == "new"
        hubdist.shutdown()
        assert read(handle) == "new"  # and for later jobs


def test_a_refresh_respects_pins(tmp_path: Path) -> None:
    handle = write(tmp_path / "model", "old")
    hubdist.init(lock_file=str(tmp_path / "hubdist.lock"))
    assert read(handle) == "old"
    write(tmp_path / "model", "new!")
    with pytest.raises(DigestMismatchError, match="pins"):
        hubdist.refresh(handle)
    assert read(handle) == "old"


def test_a_refresh_that_fails_changes_nothing(tmp_path: Path) -> None:
    handle = write(tmp_path / "model", "old")
    read(handle)
    (tmp_path / "model" / "saved_model.pb").unlink()
    (tmp_path / "model").rmdir()
    with pytest.raises(ModelNotFoundError):
        hubdist.refresh(handle)
    assert read(handle) == "old"


def test_a_load_after_a_change_that_can_be_seen_warns_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    handle = write(tmp_path / "model", "old")
    read(handle)
    assert not caplog.records
    write(tmp_path / "model", "new!")
    with caplog.at_level(logging.WARNING, "hubdist"):
        assert read(handle) == "old"
        assert read(handle) == "old"
    assert [record.getMessage().count("hubdist.refresh(handle)") for record in caplog.records] == [1]
    caplog.clear()
    hubdist.refresh(handle)
    read(handle)
    assert not caplog.records
