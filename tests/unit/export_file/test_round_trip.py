"""What is exported is imported, whatever the files are; what was damaged on the way is refused."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubdist.errors import HubdistError, IntegrityError, StoreError, UnsafeArchiveError
from hubdist.export_file.importing import import_export
from hubdist.export_file.layout import ExportLayout, Literal, no_progress
from hubdist.export_file.reading import ExportReader
from hubdist.model.handle import parse_handle
from hubdist.model.manifest import BLOCK_BYTES
from hubdist.model.paths import PathSet
from hubdist.store.pins import Pins
from hubdist.store.store import Store
from tests.support.examples import examples
from tests.support.exports import Exporter, import_bytes

NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc"), exclude_characters="/\\"), min_size=1, max_size=12
).filter(lambda name: name not in (".", ".."))
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
SIZES = st.sampled_from([0, 1, 511, 512, 513, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 2 * BLOCK_BYTES + 7])
SMALL = st.binary(max_size=40)
CONTENTS = st.one_of(SMALL, st.tuples(SMALL, SIZES).map(lambda made: (made[0] or b"x") * (made[1] // 4 + 1)))
TREES = st.dictionaries(PATHS, CONTENTS, min_size=1, max_size=12)
HANDLES = ("https://h/a/1", "gs://bucket/directory with blanks", "/models/ünïcode")


def fits(files: dict[str, bytes]) -> bool:
    paths = PathSet()
    try:
        for path in sorted(files):
            paths.add_file(path)
    except UnsafeArchiveError:
        return False
    return True


@settings(max_examples=examples(60), deadline=None)
@given(trees=st.lists(TREES.filter(fits), min_size=1, max_size=3))
def test_every_tree_comes_out_as_it_went_in(trees: list[dict[str, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        models = dict(zip(HANDLES, trees, strict=False))
        exporter = Exporter(Path(folder, "from"), models)
        store = Store(Path(folder, "to"))
        found, kept = import_bytes(exporter.data(), store)
        assert kept == 0
        assert all(files in trees for files in found)
        assert len(found) == len(exporter.snapshots)
        pins = Pins(store.root / "pins" / "last")
        for handle, files in models.items():
            digest = pins.find(parse_handle(handle))
            assert digest is not None
            snapshot = store.find(digest)
            assert snapshot is not None
            with snapshot:
                paths = {entry.path: (snapshot.path / entry.path).read_bytes() for entry in snapshot.manifest.entries}
                assert paths == files
                assert snapshot.find_damage() is None
                assert snapshot.manifest.blocks_proven
        assert list((store.root / "staging").iterdir()) == []


def test_a_thousand_small_files(tmp_path: Path) -> None:
    files = {f"assets/{number % 7}/{number}": b"%d" % (number // 2) for number in range(1000)}
    found, _ = import_bytes(Exporter(tmp_path / "from", {"https://h/a/1": files}).data(), Store(tmp_path / "to"))
    assert found == [files]


def test_a_second_import_writes_nothing_and_checks_everything(tmp_path: Path) -> None:
    files = {"saved_model.pb": b"graph" * 300_000}
    data = Exporter(tmp_path / "from", {"https://h/a/1": files}).data()
    store = Store(tmp_path / "to")
    import_bytes(data, store)
    found, kept = import_bytes(data, store)
    assert (found, kept) == ([files], len(files["saved_model.pb"]))
    with pytest.raises(IntegrityError):
        import_bytes(data[:-2000] + b"\xff" + data[-1999:], store)


def test_a_handle_of_several_imports_stands_for_the_last(tmp_path: Path) -> None:
    store = Store(tmp_path / "to")
    for text in (b"old", b"new"):
        exporter = Exporter(tmp_path / "from", {"https://h/a/1": {"saved_model.pb": text}})
        import_bytes(exporter.data(), store)
        assert Pins(store.root / "pins" / "last").find(parse_handle("https://h/a/1")) in exporter.snapshots


def test_a_store_without_room_is_an_error_of_the_disk(tmp_path: Path) -> None:
    data = Exporter(tmp_path / "from", {"https://h/a/1": {"saved_model.pb": bytes(3000)}}).data()
    with pytest.raises(StoreError):
        import_bytes(data, Store(tmp_path / "to", max_bytes=2000))


MODELS = {
    "https://h/a/1": {"saved_model.pb": b"graph" * 300_000, "assets/words.txt": b"one\ntwo\n", "empty": b""},
    "https://h/b/1": {"saved_model.pb": b"other" * 100_000, "same": b"one\ntwo\n"},
}


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return Exporter(tmp_path_factory.mktemp("from"), MODELS).data()


def refused(data: bytes) -> HubdistError:
    """The error of an import. If only the end is damaged, all models were right and are there."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder, "store"))
        with pytest.raises(IntegrityError) as caught:
            import_bytes(data, store)
        for digest in store.digests():
            store.verify(digest)
        assert list((store.root / "staging").iterdir()) == []
        return caught.value


@settings(max_examples=examples(150), deadline=None)
@given(data=st.data())
def test_a_changed_byte_is_refused_wherever_it_is(export: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(export) - 1))
    bits = data.draw(st.integers(1, 255))
    error = refused(export[:at] + bytes([export[at] ^ bits]) + export[at + 1 :])
    named = [int(word.strip(",:")) for word in str(error).split() if word.strip(",:").isdigit()]
    assert "export" in str(error)
    assert any(abs(at - offset) <= BLOCK_BYTES + 2048 for offset in named), (at, str(error))


@settings(max_examples=examples(60), deadline=None)
@given(data=st.data())
def test_an_export_that_ends_early_is_refused_and_the_error_names_the_end(export: bytes, data: st.DataObject) -> None:
    end = data.draw(st.integers(0, len(export) - 1))
    assert f"ends at byte {end}" in str(refused(export[:end]))


def test_bytes_behind_the_end_are_refused(export: bytes) -> None:
    error = refused(export + b"\0")
    assert f"byte {len(export)}: there are bytes behind the end" in str(error)


def test_blocks_that_fit_a_forged_manifest_are_not_published(tmp_path: Path) -> None:
    """Whoever wrote the file has put other block digests, and bytes that fit them, under a model's own digest."""
    exporter = Exporter(tmp_path / "from", {"https://h/a/1": {"saved_model.pb": b"right"}})
    forged = Exporter(tmp_path / "forged", {"https://h/a/1": {"saved_model.pb": b"wrong"}})
    header = exporter.layout.header
    blocks = [
        f'"blocks": "{next(iter(each.snapshots.values())).manifest.entries[0].block_digests.hex()}"'.encode()
        for each in (exporter, forged)
    ]
    layout = ExportLayout.parse(header.replace(*blocks))
    out = io.BytesIO()
    for segment in layout.segments():
        out.write(segment.data if isinstance(segment, Literal) else b"wrong")
    store = Store(tmp_path / "to")
    with pytest.raises(IntegrityError, match="the whole file does not"):
        import_bytes(out.getvalue(), store)
    assert store.digests() == []


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """A stream that gives a few bytes at a time is read to its end as well."""
    data = Exporter(tmp_path / "from", {"https://h/a/1": {"saved_model.pb": b"graph" * 300_000}}).data()

    class Slow(io.RawIOBase):
        def __init__(self) -> None:
            self.at = 0
            self.longest = 0

        def read(self, size: int = -1) -> bytes:
            self.longest = max(self.longest, size)
            part = data[self.at : self.at + min(size, 70_000)]
            self.at += len(part)
            return part

    slow = Slow()
    reader = ExportReader(slow, "export")  # type: ignore[arg-type]  # a raw stream will do
    _, snapshots, _ = import_export(reader, Store(tmp_path / "to"), no_progress)
    assert slow.longest <= BLOCK_BYTES
    assert len(snapshots) == 1
