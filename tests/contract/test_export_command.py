"""`hubdist export` and `hubdist import`: from one machine to another one that has no network."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from hubdist.testing.hub import LoopbackHub
from tests.support.archives import targz
from tests.support.command_line import json_of, run_hubdist
from tests.support.store_models import content

FILES = {"saved_model.pb": b"graph" * 500_000, "assets/words.txt": b"one\ntwo\n"}


class Machine:
    """A machine: a directory with a store."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def run(self, command: str, *arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        store = f"store={self.path}/store"
        return run_hubdist(command, "--address", "local", "--set", store, *arguments, folder=self.path, stdin=stdin)


@pytest.fixture
def here(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "here")


@pytest.fixture
def there(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "there")


def test_an_exported_model_can_be_resolved_offline_by_its_handle(
    hub: LoopbackHub, here: Machine, there: Machine
) -> None:
    handle, archive = hub.add_model("acme/a/1", FILES), hub.add_file("m.tar.gz", targz({"saved_model.pb": b"m"}))
    exported = here.run("export", "models.tar", handle, archive, "--json")
    assert exported.returncode == 0, exported.stderr
    reads = hub.reads(handle)
    assert there.run("resolve", handle, "--set", "offline=true").returncode == 3
    imported = there.run("import", here.path / "models.tar")
    assert imported.returncode == 0, imported.stderr
    paths = imported.stdout.decode().splitlines()[-2:]
    resolved = [there.run("resolve", "-q", each, "--set", "offline=true") for each in (handle, archive)]
    assert [each.returncode for each in resolved] == [0, 0], resolved
    assert sorted(each.stdout.decode().strip() for each in resolved) == sorted(paths)
    assert content(Path(resolved[0].stdout.decode().strip())) == FILES
    assert hub.reads(handle) == reads


def test_a_lock_file_and_frozen_hold_on_the_other_side(hub: LoopbackHub, here: Machine, there: Machine) -> None:
    handle = hub.add_file("m.tar.gz", targz(FILES))
    here.run("lock", handle)
    here.run("export", "models.tar", handle)
    there.run("import", here.path / "models.tar")
    pinned = ("--set", f"lock_file={here.path}/hubdist.lock", "--set", "frozen=true", "--set", "offline=true")
    assert there.run("resolve", handle, *pinned).returncode == 0
    other = hub.add_model("acme/b/1", FILES)
    refused = there.run("resolve", other, *pinned)
    assert refused.returncode == 3
    assert b"hubdist lock" in refused.stderr


def test_a_pipe_carries_an_export(hub: LoopbackHub, here: Machine, there: Machine) -> None:
    handle = hub.add_model("acme/a/1", FILES)
    piped = here.run("export", "-", handle)
    here.run("export", "models.tar", handle)
    assert piped.stdout == (here.path / "models.tar").read_bytes()
    imported = there.run("import", "-", "--json", stdin=piped.stdout)
    (model,) = json_of(imported)["models"]
    assert (model["handles"], content(Path(model["path"]))) == ([handle], FILES)


def test_the_results_are_on_standard_output_and_the_path_last(hub: LoopbackHub, here: Machine) -> None:
    handle = hub.add_model("acme/a/1", FILES)
    for format_ in ("-q", "--format=human"):
        done = here.run("export", format_, "models.tar", handle)
        assert done.stdout.decode().splitlines()[-1] == "models.tar"
    quiet = here.run("import", "-q", "models.tar")
    (path,) = quiet.stdout.decode().splitlines()
    assert content(Path(path)) == FILES
    assert quiet.stderr == b""


def test_a_damaged_file_is_refused_with_its_name_and_the_byte(hub: LoopbackHub, here: Machine, there: Machine) -> None:
    here.run("export", "models.tar", hub.add_model("acme/a/1", FILES))
    data = bytearray((here.path / "models.tar").read_bytes())
    data[2_000_000] ^= 1
    (there.path / "models.tar").write_bytes(data)
    refused = there.run("import", "models.tar")
    assert refused.returncode == 5
    assert b"models.tar is damaged between the bytes" in refused.stderr
    assert refused.stderr.count(b"hint:") == 1
    assert b"`hubdist export`" in refused.stderr
    assert refused.stdout == b""
    assert list((there.path / "store" / "snapshots").iterdir()) == []


def test_a_file_that_is_none_and_one_that_is_missing(there: Machine) -> None:
    (there.path / "notes.txt").write_text("hello")
    assert there.run("import", "notes.txt").returncode == 5
    assert there.run("import", "nothing.tar").returncode == 2


def test_a_handle_that_fails_leaves_no_file(hub: LoopbackHub, here: Machine) -> None:
    done = here.run("export", "models.tar", hub.add_model("acme/a/1", FILES), f"{hub.url}/acme/nothing/1")
    assert done.returncode == 3
    assert [path.name for path in here.path.iterdir()] == ["store"]


def test_no_secret_leaves_the_machine_and_the_handle_is_known_with_any_password(
    hub: LoopbackHub, here: Machine, there: Machine
) -> None:
    url = hub.add_file("m.tar.gz", targz(FILES))
    one, other = (url.replace("http://", f"http://me:{password}@") for password in ("hunter2", "hunter3"))
    signed = f"{url}?X-Goog-Signature=hunter2"
    done = here.run("export", "models.tar", one, signed)
    assert done.returncode == 0, done.stderr
    imported = there.run("import", here.path / "models.tar")
    assert b"hunter" not in (here.path / "models.tar").read_bytes() + done.stderr + imported.stdout + imported.stderr
    for handle in (one, other, signed):
        assert there.run("resolve", handle, "--set", "offline=true").returncode == 0


def test_a_configuration_that_lists_models_does_not_disturb_an_import(
    hub: LoopbackHub, here: Machine, there: Machine
) -> None:
    handle = hub.add_model("acme/a/1", FILES)
    here.run("export", "models.tar", handle)
    (there.path / "hubdist.yaml").write_text(f"lock_file: hubdist.lock\nlocked: true\nmodels: [{handle}, /nowhere]\n")
    for where in ("node", "all"):
        done = there.run("import", here.path / "models.tar", "--config", "hubdist.yaml", "--where", where)
        assert done.returncode == 0, done.stderr
    assert not (there.path / "hubdist.lock").exists()


def test_the_same_command_twice_gives_the_same_file(hub: LoopbackHub, here: Machine) -> None:
    handle = hub.add_model("acme/a/1", FILES)
    digests = set()
    for _ in range(2):
        here.run("export", "models.tar", handle)
        digests.add(hashlib.sha256((here.path / "models.tar").read_bytes()).hexdigest())
    assert len(digests) == 1
