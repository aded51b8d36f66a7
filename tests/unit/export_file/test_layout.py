"""What an export is, as other programs see it, and which files are refused by their first bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from hubdist.errors import HubdistError, IntegrityError
from hubdist.export_file.layout import ExportedHandle, ExportedModel, ExportLayout, FileBlock, member
from hubdist.export_file.reading import ExportReader
from hubdist.model.handle import parse_handle
from hubdist.model.manifest import Digest, Entry, Manifest
from tests.support.exports import Exporter

SHARED = b"shared" * 300_000
MODELS = {
    "https://h/a/1": {"saved_model.pb": b"a", "variables/one": SHARED, "empty": b""},
    "https://h/b/1": {"saved_model.pb": b"b", "other": SHARED, "nothing": b""},
    "gs://bucket/a": {"saved_model.pb": b"a", "variables/one": SHARED, "empty": b""},
}


@pytest.fixture
def exporter(tmp_path: Path) -> Exporter:
    return Exporter(tmp_path / "store", MODELS)


def test_tar_lists_the_handles_file_and_each_file_once_by_its_digest(exporter: Exporter, tmp_path: Path) -> None:
    exporter.write(tmp_path / "export.tar")
    listed = subprocess.run(
        ["tar", "tf", tmp_path / "export.tar"], check=True, capture_output=True, text=True, timeout=30
    )
    assert listed.stderr == ""
    digests = {hashlib.sha256(data).hexdigest() for files in MODELS.values() for data in files.values()}
    first, second, *files = listed.stdout.split()
    assert (first, second) == ("hubdist-export.json", "hubdist-export.json.sha256")
    assert sorted(files) == sorted(f"files/sha256/{digest}" for digest in digests)


def test_members_hold_what_their_names_say(exporter: Exporter) -> None:
    with tarfile.open(fileobj=io.BytesIO(exporter.data())) as archive:
        members = {each.name: archive.extractfile(each) for each in archive.getmembers()}
        texts = {name: file.read() for name, file in members.items() if file is not None}
    header = texts.pop("hubdist-export.json")
    assert texts.pop("hubdist-export.json.sha256").decode().split() == [
        hashlib.sha256(header).hexdigest(),
        "hubdist-export.json",
    ]
    assert all(name == f"files/sha256/{hashlib.sha256(text).hexdigest()}" for name, text in texts.items())
    models = json.loads(header)["models"]
    handles = [sorted(each["handle"] for each in model["handles"]) for model in models]
    assert sorted(handles) == [["gs://bucket/a", "https://h/a/1"], ["https://h/b/1"]]
    assert [model["manifest"]["digest"] for model in models] == sorted(map(str, exporter.snapshots))


def test_equal_models_give_equal_bytes_wherever_they_are(exporter: Exporter, tmp_path: Path) -> None:
    again = Exporter(tmp_path / "other", dict(reversed(MODELS.items())))
    assert again.data() == exporter.data()
    assert exporter.layout.total_bytes == len(exporter.data())


def test_a_reader_finds_the_layout_in_the_first_two_members(exporter: Exporter) -> None:
    data = exporter.data()
    reader = ExportReader(io.BytesIO(data), "export")
    layout = reader.read_layout()
    assert layout.models == exporter.layout.models
    assert reader.offset == sum(segment.size for segment in exporter.layout.opening())
    assert not any(model.manifest.blocks_proven for model in layout.models)


def test_no_secret_of_a_handle_is_in_an_export() -> None:
    entry = Entry("f", 1, Digest("0" * 64), bytes(32))
    handles = [
        "https://me:hunter2@h/m/1",
        "https://h/m.zip?X-Goog-Signature=hunter2",
        "zip://a::https://h/m.zip?token=hunter2",
    ]
    for text in handles:
        handle = ExportedHandle.of(parse_handle(text))
        layout = ExportLayout([ExportedModel((handle,), Manifest((entry,)))])
        assert b"hunter2" not in layout.header
        assert not handle.whole
        assert ExportLayout.parse(layout.header).models[0].handles == (handle,)


def test_a_member_may_be_larger_than_the_first_tar_could_say() -> None:
    size = 9 << 30
    info = tarfile.TarInfo.frombuf(member("files/sha256/x", size), "ascii", "strict")
    assert info.size == size


def test_the_layout_of_a_large_model_takes_no_memory_for_its_bytes() -> None:
    entry = Entry("f", 20 << 30, Digest("0" * 64), bytes(32 * (20 << 10)))
    layout = ExportLayout([ExportedModel((), Manifest((entry,)))])
    blocks = [segment for segment in layout.segments() if isinstance(segment, FileBlock)]
    assert (len(blocks), blocks[-1].is_last, blocks[0].is_last) == (20 << 10, True, False)
    assert layout.total_bytes > 20 << 30


def changed(exporter: Exporter, change: Any) -> bytes:
    """An export whose first member was changed, and whose second fits."""
    document = json.loads(exporter.layout.header)
    change(document)
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def _other_key(document: dict[str, Any]) -> None:
    document["models"][0]["handles"][0]["key"] = "0" * 32


def _path_as_key(document: dict[str, Any]) -> None:
    document["models"][0]["handles"][0] = {"handle": "https://h/x#../../../../tmp/", "key": "../../../../tmp/x"}


def _other_digest(document: dict[str, Any]) -> None:
    document["models"][0]["manifest"]["digest"] = f"sha256:{'0' * 64}"


def _unsafe_path(document: dict[str, Any]) -> None:
    document["models"][0]["manifest"]["files"][0]["path"] = "../x"


def _no_files(document: dict[str, Any]) -> None:
    document["models"][0]["manifest"] = json.loads(Manifest(()).to_json())


def _other_order(document: dict[str, Any]) -> None:
    document["models"].reverse()


def _twice(document: dict[str, Any]) -> None:
    document["models"].append(document["models"][0])


def _further_field(document: dict[str, Any]) -> None:
    document["note"] = "hello"


def _later_format(document: dict[str, Any]) -> None:
    document["hubdist_export"] = 3


def _no_list(document: dict[str, Any]) -> None:
    document["models"] = 5


def _control_character(document: dict[str, Any]) -> None:
    key = "0" * 32
    document["models"][0]["handles"][0] = {"handle": f"https://h/\x1b[2J#{key[:12]}", "key": key}


@pytest.mark.parametrize(
    "change",
    [
        _other_key,
        _path_as_key,
        _other_digest,
        _unsafe_path,
        _no_files,
        _other_order,
        _twice,
        _further_field,
        _later_format,
        _no_list,
        _control_character,
    ],
)
def test_a_first_member_that_no_export_has_is_refused(exporter: Exporter, change: Any) -> None:
    header = changed(exporter, change)
    assert header != exporter.layout.header
    with pytest.raises(IntegrityError):
        ExportLayout.parse(header)


@pytest.mark.parametrize("data", [b"", b"x", b"x" * 5000, bytes(5000), member("other", 3) + bytes(2000)])
def test_other_files_are_no_exports(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="export"):
        ExportReader(io.BytesIO(data), "export").read_layout()


def test_a_first_member_that_is_too_large_is_not_read_into_memory(exporter: Exporter) -> None:
    with pytest.raises(IntegrityError):
        ExportReader(io.BytesIO(exporter.data()), "export", max_header_bytes=100).read_layout()


def test_files_of_one_digest_have_one_size_and_the_same_blocks() -> None:
    one = Entry("a", 1, Digest("0" * 64), bytes(32))
    with pytest.raises(HubdistError, match="one digest and other blocks"):
        ExportLayout([ExportedModel((), Manifest((one, dataclasses.replace(one, path="b", size=2))))])
