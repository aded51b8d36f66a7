"""`hubdist lock`: what it writes, what it asks, and how it ends."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hubdist.testing.hub import LoopbackHub
from tests.support.archives import targz
from tests.support.command_line import json_of, run_hubdist

OLD = {"saved_model.pb": b"old"}
NEW = {"saved_model.pb": b"newer"}


class Folder:
    """A directory with a lock file, and a store of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / "hubdist.lock"

    def lock(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        store = f"store={self.path}/store"
        return run_hubdist("lock", "--address", "local", "--set", store, *arguments, folder=self.path)

    def states(self, *arguments: str) -> dict[str, str]:
        return {each["handle"]: each["state"] for each in json_of(self.lock("--json", *arguments))["handles"]}

    @property
    def entries(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = json.loads(self.file.read_text())
        return found


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "work").mkdir()
    return Folder(tmp_path / "work")


def test_named_handles_are_added_and_kept_until_they_are_upgraded(folder: Folder, hub: LoopbackHub) -> None:
    handle, other = hub.add_model("acme/a/1", OLD), hub.add_model("acme/b/1", OLD)
    assert folder.states(handle) == {handle: "added"}
    (entry,) = folder.entries.values()
    assert (entry["origin"], entry["bytes"]) == (handle, 3)
    hub.add_model("acme/a/1", NEW)
    text = folder.file.read_text()
    assert folder.states(handle) == {handle: "kept"}
    assert folder.file.read_text() == text
    assert folder.states(other, handle) == {other: "added", handle: "kept"}
    assert folder.states("--upgrade", handle) == {handle: "upgraded"}
    assert folder.entries[handle]["bytes"] == 5
    assert folder.states("--upgrade") == {handle: "up to date", other: "up to date"}


def test_an_upgrade_that_finds_the_same_bytes_leaves_the_file_as_it_is(folder: Folder, hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/a/1", OLD)
    folder.lock(handle)
    entries = folder.entries
    entries[handle]["resolved"] = "2020-01-01T00:00:00Z"
    folder.file.write_text(json.dumps(entries))
    before = folder.file.read_bytes()
    assert folder.states("--upgrade") == {handle: "up to date"}
    assert folder.file.read_bytes() == before


def test_without_handles_the_models_of_the_settings_are_taken(folder: Folder, hub: LoopbackHub) -> None:
    handle, other = hub.add_model("acme/a/1", OLD), hub.add_model("acme/b/1", NEW)
    (folder.path / "hubdist.yaml").write_text(f"models: [{handle}, {{handle: {other}}}]\nlock_file: pins.lock\n")
    assert folder.lock("--config", "hubdist.yaml").returncode == 0
    assert sorted(json.loads((folder.path / "pins.lock").read_text())) == [handle, other]
    assert folder.lock("--config", "hubdist.yaml", "--check").returncode == 0
    assert folder.lock("--config", "hubdist.yaml", "--check", "--lock-file", "other.lock").returncode == 1


def test_a_check_changes_nothing_and_ends_with_1_if_the_file_is_out_of_date(folder: Folder, hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/a/1", OLD)
    folder.lock(handle)
    text = folder.file.read_text()
    assert folder.lock("--check").returncode == 0
    missing = folder.lock("--check", "--set", f"models=[{handle}, /nowhere]")
    assert missing.returncode == 1
    assert b"missing" in missing.stdout
    assert b"hint: `hubdist lock" in missing.stderr
    hub.add_model("acme/a/1", NEW)
    changed = folder.lock("--check", "--json")
    assert changed.returncode == 1
    assert [each["state"] for each in json_of(changed)["handles"]] == ["out of date"]
    assert folder.file.read_text() == text


def test_a_digest_of_the_settings_that_the_file_does_not_pin_is_out_of_date(folder: Folder, hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/a/1", OLD)
    folder.lock(handle)
    models = f"models=[{{handle: {handle}, digest: sha256:{'0' * 64}}}]"
    assert folder.states("--check", "--set", models) == {handle: "out of date"}
    refused = folder.lock("--upgrade", "--set", models)
    assert refused.returncode == 5
    assert b"the configuration pins" in refused.stderr


def test_settings_that_are_locked_or_frozen_do_not_keep_the_command_from_its_work(
    folder: Folder, hub: LoopbackHub
) -> None:
    handle = hub.add_model("acme/a/1", OLD)
    for setting in ("locked=true", "frozen=true"):
        assert folder.lock(handle, "--set", setting, "--set", "lock_file=hubdist.lock").returncode == 0
        assert list(folder.entries) == [handle]
        folder.file.unlink()


def test_one_handle_that_fails_does_not_keep_the_others_from_the_file(folder: Folder, hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/a/1", OLD)
    done = folder.lock(f"{hub.url}/acme/nothing/1", handle)
    assert done.returncode == 7
    assert b"acme/nothing/1" in done.stderr
    assert list(folder.entries) == [handle]
    assert folder.lock(f"{hub.url}/acme/nothing/1").returncode == 3


def test_no_secret_is_in_the_file_or_printed(folder: Folder, hub: LoopbackHub) -> None:
    url = hub.add_file("m.tar.gz", targz(OLD))
    secretive = [url.replace("http://", "http://me:hunter2@"), f"{url}?X-Goog-Signature=hunter2&a=1"]
    done = folder.lock(*secretive)
    assert done.returncode == 0
    assert len(folder.entries) == 2
    assert b"hunter2" not in folder.file.read_bytes() + done.stdout + done.stderr
    assert set(folder.states("--check").values()) == {"not asked"}
    assert set(folder.states("--check", *secretive).values()) == {"up to date"}
    hub.add_file("m.tar.gz", targz(NEW))
    assert folder.lock("--check", secretive[1]).returncode == 1


def test_wrong_use_ends_with_2(folder: Folder) -> None:
    (folder.path / "damaged.lock").write_text("{")
    assert folder.lock().returncode == 2
    assert folder.lock("/m", "--check", "--upgrade").returncode == 2
    assert folder.lock("nothing://m").returncode == 2
    damaged = folder.lock("/m", "--lock-file", "damaged.lock")
    assert damaged.returncode == 2
    assert b"cannot be read" in damaged.stderr


def test_offline_pins_what_the_store_has_and_asks_nobody(folder: Folder, hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/a/1", OLD)
    folder.lock(handle)
    folder.file.unlink()
    reads = hub.reads(handle)
    assert folder.lock(handle, "--set", "offline=true").returncode == 0
    assert hub.reads(handle) == reads
    assert folder.lock(handle, "--check", "--set", "offline=true").returncode == 3
