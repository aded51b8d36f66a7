"""Exports and imports whose processes are killed, again and again: the next one goes on, and the end is the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import hubdist
from hubdist.model.handle import parse_handle
from hubdist.model.manifest import BLOCK_BYTES
from hubdist.store.pins import Pins
from hubdist.store.store import Store
from tests.support.export_killed import killed
from tests.support.store_models import content

MIB = 1 << 20
PLACES = 10


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 24 MiB in three files and some small ones."""
    root = tmp_path_factory.mktemp("model")
    for name, mib in (("saved_model.pb", 1), ("one", 14), ("two", 9)):
        (root / name).write_bytes(os.urandom(mib * MIB))
    (root / "assets").mkdir()
    for number in range(20):
        (root / "assets" / str(number)).write_bytes(b"%d" % number)
    return root


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's export, by a process that nobody killed."""
    root = tmp_path_factory.mktemp("whole")
    assert not killed("export", root / "export.tar", root / "store", str(model), "never")
    return root / "export.tar"


def imported(store: Path, model: Path) -> None:
    """Check that a store has the model, and nothing else."""
    opened = Store(store)
    digest = Pins(store / "pins" / "last").find(parse_handle(str(model)))
    assert digest is not None
    assert opened.digests() == [digest]
    opened.verify(digest)
    snapshot = opened.find(digest)
    assert snapshot is not None
    with snapshot:
        assert content(snapshot.path) == content(model)
    assert list((store / "staging").iterdir()) == []


def test_an_export_that_is_killed_at_ten_places_goes_on_each_time(model: Path, whole: Path, tmp_path: Path) -> None:
    size = whole.stat().st_size
    part = tmp_path / "export.tar.part"
    for number in range(1, PLACES + 1):
        at = size * number // (PLACES + 1)
        before = part.stat() if part.exists() else None
        assert killed("export", tmp_path / "export.tar", tmp_path / "store", str(model), f"bytes:{at}")
        assert at <= part.stat().st_size <= at + 2 * BLOCK_BYTES
        assert before is None or before.st_ino == part.stat().st_ino
        assert not (tmp_path / "export.tar").exists()
    assert not killed("export", tmp_path / "export.tar", tmp_path / "store", str(model), "never")
    assert (tmp_path / "export.tar").read_bytes() == whole.read_bytes()
    assert not part.exists()


def test_an_import_that_is_killed_at_ten_places_goes_on_each_time(model: Path, whole: Path, tmp_path: Path) -> None:
    size, store = whole.stat().st_size, tmp_path / "store"
    for number in range(1, PLACES + 1):
        assert killed("import", whole, store, str(model), f"bytes:{size * number // (PLACES + 1)}")
        assert Store(store).digests() == []
    hubdist.init(store=str(store))
    report = hubdist.import_models(whole)
    assert report.kept_bytes > report.total_bytes * 8 // 10
    imported(store, model)


@pytest.mark.parametrize("where", ["ftruncate:1", "write:1", "write:30", "fsync:1", "rename:1"])
def test_an_export_may_die_in_any_call(model: Path, whole: Path, tmp_path: Path, where: str) -> None:
    export = (tmp_path / "export.tar", tmp_path / "store", str(model))
    assert killed("export", *export, where)
    assert not export[0].exists() or export[0].read_bytes() == whole.read_bytes()
    assert not killed("export", *export, "never")
    assert export[0].read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    "where",
    [
        "mkdir:3",
        "open:5",
        "pwrite:1",
        "pwrite:40",
        "fsync:2",
        "fsync:10",
        "rename:1",
        "rename:5",
        "rename:24",
        "rmdir:1",
    ],
)
def test_an_import_may_die_in_any_call(model: Path, whole: Path, tmp_path: Path, where: str) -> None:
    store = tmp_path / "store"
    assert killed("import", whole, store, str(model), where)
    for digest in Store(store).digests():
        Store(store).verify(digest)
    assert not killed("import", whole, store, str(model), "never")
    imported(store, model)


def test_what_came_before_a_kill_is_not_believed(model: Path, whole: Path, tmp_path: Path) -> None:
    size, export = whole.stat().st_size, tmp_path / "export.tar"
    assert killed("export", export, tmp_path / "from", str(model), f"bytes:{size * 9 // 10}")
    with (tmp_path / "export.tar.part").open("r+b") as part:
        part.seek(size // 2)
        part.write(b"\0\0\0\0")
    assert not killed("export", export, tmp_path / "from", str(model), "never")
    assert export.read_bytes() == whole.read_bytes()
    assert killed("import", export, tmp_path / "to", str(model), f"bytes:{size * 9 // 10}")
    (stage,) = (tmp_path / "to" / "staging").iterdir()
    for file in (stage / "coming").iterdir():
        if file.stat().st_size > MIB:
            with file.open("r+b") as written:
                written.write(b"\0\0\0\0")
    assert not killed("import", export, tmp_path / "to", str(model), "never")
    imported(tmp_path / "to", model)
