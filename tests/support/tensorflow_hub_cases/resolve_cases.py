"""`hub.resolve`, and what `hub.load` says of a handle whose files cannot be had."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
import tensorflow_hub as hub

import hubdist
from hubdist.testing.hub import LoopbackHub, Status
from tests.support.archives import targz, zipped
from tests.support.tensorflow_hub_cases.fixtures import TEXTS


def added_as_people_do(folder: Path) -> bytes:
    """An archive made by `tar.add` of each directory, which takes its files with it, and then of each file."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for path in sorted(folder.rglob("*")):
            archive.add(path, path.relative_to(folder).as_posix())
    return packed.getvalue()


def test_a_handle_becomes_a_directory_of_hubdists_store(words: str, tmp_path: Path, hub_server: LoopbackHub) -> None:
    path = hub.resolve(words)
    assert path == hub.resolve(words) == hubdist.resolve(words)
    assert path.startswith(str(tmp_path / "store"))
    assert sorted(each.name for each in Path(path).iterdir()) == [
        "assets",
        "fingerprint.pb",
        "saved_model.pb",
        "variables",
    ]
    assert hub_server.reads(words) == 1


@pytest.mark.parametrize("name", ["files.tar", "files.tar.gz", "files.tgz"])
def test_archives_of_any_files_are_unpacked(hub_server: LoopbackHub, name: str) -> None:
    files = {"file1": b"1", "file2": b"2"}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path, data in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    data = packed.getvalue() if name.endswith(".tar") else targz(files)
    path = Path(hub.resolve(hub_server.add_file(name, data)))
    assert {each.name: each.read_bytes() for each in path.iterdir()} == files


def test_a_handle_that_is_redirected_to_its_archive_is_followed(hub_server: LoopbackHub, exported: Path) -> None:
    handle = hub_server.add_model("acme/elsewhere/1", exported, redirect_to_storage=True)
    assert Path(hub.resolve(handle), "saved_model.pb").exists()


def test_a_path_on_this_node_is_given_back_as_it_is(exported: Path) -> None:
    assert hub.resolve(str(exported)) == str(exported)
    assert hub.resolve(f"file://{exported}") == f"file://{exported}"


@pytest.mark.parametrize("path", ["/nowhere/at/all", "nowhere/at/all", "file:///nowhere/at/all"])
def test_a_path_that_is_nowhere_is_an_os_error(path: str) -> None:
    with pytest.raises(OSError, match="nowhere/at/all"):
        hub.resolve(path)


@pytest.mark.parametrize("call", [hub.load, hub.KerasLayer])
@pytest.mark.parametrize("handle", [0, None, b"https://tfhub.dev/x/1", Path("/x")])
def test_what_is_no_string_is_a_value_error(call: Any, handle: object) -> None:
    with pytest.raises(ValueError, match=r"^Expected a string, got |^Loaded object is not callable"):
        call(handle)


def test_bytes_that_are_no_archive_are_an_os_error_in_the_words_of_tensorflow_hub(hub_server: LoopbackHub) -> None:
    handle = hub_server.add_file("bad_archive.tar.gz", b"bad_archive")
    with pytest.raises(OSError, match=r"bad_archive\.tar\.gz does not appear to be a valid module") as caught:
        hub.load(handle)
    assert isinstance(caught.value.__cause__, hubdist.errors.IntegrityError)


def test_a_member_that_comes_twice_with_the_same_bytes_is_one_file(hub_server: LoopbackHub, exported: Path) -> None:
    packed = added_as_people_do(exported)
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        names = archive.getnames()
    assert len(names) > len(set(names))
    handle = hub_server.add_file("test_module.tgz", packed)
    assert hub.load(handle)(TEXTS, False).shape == (3, 2)


def test_a_member_that_comes_twice_with_other_bytes_is_an_os_error(hub_server: LoopbackHub) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for data in (b"first", b"other"):
            member = tarfile.TarInfo("saved_model.pb")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    with pytest.raises(OSError, match="does not appear to be a valid module"):
        hub.resolve(hub_server.add_file("two.tar.gz", packed.getvalue()))


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_hub_that_says_no_is_an_os_error(hub_server: LoopbackHub, words: str, status: int) -> None:
    hub_server.fail_next(words, *[Status(status)] * 8)
    with pytest.raises(OSError):
        hub.load(words)


def test_a_host_that_does_not_answer_is_an_os_error() -> None:
    with LoopbackHub() as gone:
        handle = f"{gone.url}/acme/words/1"
    with pytest.raises(OSError, match="acme/words/1"):
        hub.load(handle)


def test_other_archives_and_handles_of_hubdist_work_too(hub_server: LoopbackHub, exported: Path) -> None:
    files = {f"inner/{path.relative_to(exported)}": path.read_bytes() for path in exported.rglob("*") if path.is_file()}
    handle = f"zip://inner::{hub_server.add_file('models.zip', zipped(files))}"
    assert hub.load(handle)(TEXTS, False).shape == (3, 2)
