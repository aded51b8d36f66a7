"""What a killed process has left: the next one checks it, keeps what is right, and comes to the same end."""

from __future__ import annotations

import fcntl
import io
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubdist.errors import IntegrityError, StoreError
from hubdist.export_file.importing import import_export
from hubdist.export_file.reading import ExportReader
from hubdist.model.manifest import BLOCK_BYTES
from hubdist.store.left_stages import stage_again, unmark
from hubdist.store.store import Store
from tests.support.examples import examples
from tests.support.exports import Exporter, import_bytes
from tests.support.store_models import content, staged

MODELS = {
    "https://h/a/1": {"saved_model.pb": b"graph" * 700_000, "assets/words.txt": b"one\ntwo\n", "empty": b""},
    "https://h/b/1": {"saved_model.pb": b"other" * 100_000, "same": b"one\ntwo\n"},
}


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Exporter:
    return Exporter(tmp_path_factory.mktemp("from"), MODELS)


@pytest.fixture(scope="module")
def whole(exporter: Exporter) -> bytes:
    return exporter.data()


# Export


@settings(max_examples=examples(80), deadline=None)
@given(data=st.data())
def test_an_export_goes_on_with_what_is_right_of_what_it_finds(
    exporter: Exporter, whole: bytes, data: st.DataObject
) -> None:
    end = data.draw(st.integers(0, len(whole)))
    left = bytearray(whole[:end])
    wrong = data.draw(st.none() | st.integers(0, max(0, end - 1)))
    if wrong is not None and left:
        left[wrong] ^= 0x40
    right = end if wrong is None or not left else wrong
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "export.tar")
        path.with_name("export.tar.part").write_bytes(left + data.draw(st.sampled_from([b"", b"garbage"])))
        kept = exporter.write(path)
        assert path.read_bytes() == whole
        assert right - BLOCK_BYTES < kept <= right
        assert [file.name for file in Path(folder).iterdir()] == ["export.tar"]


def test_what_is_left_of_another_export_is_not_kept(exporter: Exporter, whole: bytes, tmp_path: Path) -> None:
    other = Exporter(tmp_path / "store", {"https://h/c/1": {"saved_model.pb": b"x" * 3_000_000}})
    (tmp_path / "export.tar.part").write_bytes(other.data())
    assert exporter.write(tmp_path / "export.tar") == 0
    assert (tmp_path / "export.tar").read_bytes() == whole


def test_an_old_file_stays_until_the_new_one_is_whole(exporter: Exporter, whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "export.tar"
    path.write_bytes(b"old")

    def look(done: int, total: int) -> None:
        assert path.read_bytes() == b"old"
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exporter.write(path, look)
    assert path.read_bytes() == b"old"
    assert exporter.write(path) > len(whole) // 2
    assert path.read_bytes() == whole


def test_two_processes_do_not_write_one_file(exporter: Exporter, tmp_path: Path) -> None:
    with (tmp_path / "export.tar.part").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="another process writes"):
            exporter.write(tmp_path / "export.tar")


def test_a_link_in_the_place_of_the_unfinished_file_is_not_followed(exporter: Exporter, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "export.tar.part").symlink_to(tmp_path / "precious")
    with pytest.raises(StoreError):
        exporter.write(tmp_path / "export.tar")
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_a_damaged_snapshot_is_not_exported(tmp_path: Path) -> None:
    exporter = Exporter(tmp_path / "store", MODELS)
    (snapshot, *_) = exporter.snapshots.values()
    file = snapshot.path / "saved_model.pb"
    file.chmod(0o600)
    with file.open("r+b") as opened:
        opened.seek(2_000_000)
        opened.write(b"\0")
    with pytest.raises(IntegrityError, match="is damaged"):
        exporter.write(tmp_path / "export.tar")
    assert not (tmp_path / "export.tar").exists()


# Import


def interrupt(whole: bytes, store: Store, at: int) -> None:
    """Import up to a byte, and stop as Ctrl-C does."""

    def stop(done: int, _total: int) -> None:
        if done >= at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_export(ExportReader(io.BytesIO(whole), "export"), store, stop)


@pytest.mark.parametrize("tenth", range(1, 10))
def test_an_import_keeps_what_an_interrupted_one_has_written(whole: bytes, tmp_path: Path, tenth: int) -> None:
    store = Store(tmp_path / "to")
    at = len(whole) * tenth // 10
    interrupt(whole, store, at)
    found, kept = import_bytes(whole, store)
    assert sorted(map(sorted, found)) == sorted(map(sorted, MODELS.values()))
    assert all(files in MODELS.values() for files in found)
    assert at - 2 * BLOCK_BYTES < kept
    assert staged(store) == []


def test_what_was_changed_meanwhile_in_a_left_stage_is_written_anew(whole: bytes, tmp_path: Path) -> None:
    store = Store(tmp_path / "to")
    interrupt(whole, store, len(whole) - 2_000)
    for stage in staged(store):
        for file in (stage / "coming").iterdir():
            with file.open("r+b") as opened:
                opened.write(b"\0")
                opened.seek(0, os.SEEK_END)
                opened.write(b"too long")
    found, _ = import_bytes(whole, store)
    assert all(files in MODELS.values() for files in found)
    for digest in store.digests():
        store.verify(digest)


def test_a_stage_of_a_living_process_is_not_taken_up(exporter: Exporter, tmp_path: Path) -> None:
    store = Store(tmp_path / "to")
    manifest = exporter.layout.models[0].manifest
    with stage_again(store, manifest) as (living, _), stage_again(store, manifest) as (other, kept):
        assert kept == 0
        assert living.path != other.path
        assert sorted(staged(store)) == sorted([living.path, other.path])


def test_what_is_left_makes_way_where_the_disk_has_no_room_for_both(
    whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "to")
    interrupt(whole, store, len(whole) // 2)
    room = sum(len(data) for files in MODELS.values() for data in files.values()) + (64 << 10)

    def free(folder: Path) -> int:
        return room - sum(file.stat().st_size for file in folder.parent.rglob("*") if file.is_file())

    monkeypatch.setattr("hubdist.store.quota.free_bytes", free)
    assert free(store.root / "staging") < room * 2 // 3
    found, _ = import_bytes(whole, store)
    assert all(files in MODELS.values() for files in found)
    assert staged(store) == []


def test_a_stage_of_another_model_is_swept_away(exporter: Exporter, tmp_path: Path) -> None:
    store = Store(tmp_path / "to")
    one, other = (model.manifest for model in exporter.layout.models)
    with pytest.raises(KeyboardInterrupt), stage_again(store, one):
        raise KeyboardInterrupt
    assert len(staged(store)) == 1
    with stage_again(store, other) as (stage, kept):
        assert kept == 0
        assert staged(store) == [stage.path]


def test_a_link_in_a_left_stage_is_not_taken(exporter: Exporter, whole: bytes, tmp_path: Path) -> None:
    store = Store(tmp_path / "to")
    manifest = exporter.layout.models[0].manifest
    with pytest.raises(KeyboardInterrupt), stage_again(store, manifest):
        raise KeyboardInterrupt
    (tmp_path / "precious").write_bytes(b"precious")
    (left,) = staged(store)
    for number in range(len(manifest.entries)):
        (left / "coming" / str(number)).symlink_to(tmp_path / "precious")
    found, kept = import_bytes(whole, store)
    assert kept == 0
    assert all(files in MODELS.values() for files in found)
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_a_stage_that_was_about_to_be_published_is_taken_up(exporter: Exporter, tmp_path: Path) -> None:
    """The files have their paths and are read-only by then."""
    store = Store(tmp_path / "to")
    manifest = exporter.layout.models[0].manifest
    (source,) = (each for digest, each in exporter.snapshots.items() if digest == manifest.digest)
    with pytest.raises(KeyboardInterrupt), stage_again(store, manifest):
        raise KeyboardInterrupt
    (left,) = staged(store)
    for path, data in content(source.path).items():
        (left / "files" / path).parent.mkdir(exist_ok=True)
        (left / "files" / path).write_bytes(data)
        (left / "files" / path).chmod(0o444)
    for folder in (left / "files" / "assets", left / "files"):
        if folder.exists():
            folder.chmod(0o555)
    with stage_again(store, manifest) as (stage, kept):
        assert kept == manifest.total_bytes
        unmark(stage)
        with store.publish(stage) as snapshot:
            assert content(snapshot.path) == content(source.path)
            assert sorted(path.name for path in snapshot.path.parent.iterdir()) == ["files", "in-use", "manifest.json"]
    assert staged(store) == []
