"""kagglehub's own `model_download` while hubdist is installed, against a server on 127.0.0.1."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hubdist
from hubdist import errors
from hubdist.integrations.kagglehub import SETUP_HOOK, install, install_everywhere, uninstall
from tests.support.archives import targz
from tests.support.kaggle import FILES, Kaggle, loopback_kaggle

pytest.importorskip("kagglehub")

from kagglehub import model_download
from kagglehub.exceptions import KaggleApiHTTPError

NAME = "owner/model/tensorFlow2/var"


@pytest.fixture
def kaggle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Kaggle]:
    with loopback_kaggle(monkeypatch, tmp_path) as state:
        hubdist.init(store=str(tmp_path / "store"), origin_retries=0)
        install()
        yield state
        uninstall()
        hubdist.shutdown()


def contents(folder: str) -> dict[str, bytes]:
    root = Path(folder)
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", [NAME, f"{NAME}/1"])
def test_a_model_comes_from_the_store_and_its_bytes_come_once(kaggle: Kaggle, tmp_path: Path, name: str) -> None:
    found = model_download(name)
    assert model_download(name) == found
    assert contents(found) == FILES
    assert Path(found).is_relative_to(tmp_path / "store")
    assert kaggle.reads("DownloadModelInstanceVersion") == len(FILES)
    uninstall()
    assert contents(model_download(name)) == contents(found)


@pytest.mark.parametrize("many", [False, True])
def test_one_file_comes_alone(kaggle: Kaggle, many: bool) -> None:
    kaggle.bundle = targz(FILES) if many else b""
    found = model_download(f"{NAME}/1", path="assets/words.txt")
    assert Path(found).read_bytes() == FILES["assets/words.txt"]
    assert [asked.get("path") for call, asked in kaggle.calls if call.startswith("Download")] == ["assets/words.txt"]


def test_one_file_of_a_model_that_is_there_is_taken_from_it(kaggle: Kaggle) -> None:
    whole = model_download(f"{NAME}/1")
    assert Path(model_download(f"{NAME}/1", path="assets/words.txt")).read_bytes() == FILES["assets/words.txt"]
    assert kaggle.reads("DownloadModelInstanceVersion") == len(FILES)
    damaged = Path(whole, "saved_model.pb")
    damaged.chmod(0o600)
    damaged.write_bytes(b"x" * len(FILES["saved_model.pb"]))
    assert Path(model_download(f"{NAME}/1", path="saved_model.pb")).read_bytes() == FILES["saved_model.pb"]
    assert kaggle.reads("DownloadModelInstanceVersion") == len(FILES) + 1


def test_a_folder_around_a_model_stays(kaggle: Kaggle) -> None:
    kaggle.files = {"model/saved_model.pb": b"s", "model/assets/a": b"1"}
    assert contents(model_download(NAME)) == kaggle.files
    assert Path(model_download(NAME, path="model/saved_model.pb")).read_bytes() == b"s"


@pytest.mark.parametrize("option", ["force_download", "output_dir"])
def test_what_hubdist_does_not_do_is_left_to_kagglehub(kaggle: Kaggle, tmp_path: Path, option: str) -> None:
    wanted = {"force_download": True, "output_dir": str(tmp_path / "own")}[option]
    found = model_download(f"{NAME}/1", **{option: wanted})  # type: ignore[arg-type]  # one of two types
    assert contents(found).items() >= FILES.items()
    assert not Path(found).is_relative_to(tmp_path / "store")


@pytest.mark.parametrize("status", [403, 404])
def test_exceptions_are_those_of_kagglehub(kaggle: Kaggle, status: int) -> None:
    kaggle.status = status
    with pytest.raises(KaggleApiHTTPError):
        model_download(f"{NAME}/1")
    with pytest.raises(ValueError, match="Invalid model handle"):
        model_download("owner")


def test_a_frozen_job_cannot_be_passed_by(kaggle: Kaggle, tmp_path: Path) -> None:
    hubdist.init(store=str(tmp_path / "store"), frozen=True)
    with pytest.raises(errors.NotPinnedError):
        model_download(f"{NAME}/1")
    assert kaggle.calls == []


def test_the_hook_imports_nothing() -> None:
    code = "import sys; from hubdist.integrations.kagglehub import install; install()"
    check = "assert not {'kagglehub', 'ray', 'tensorflow'} & set(sys.modules)"
    then = "import kagglehub.registry as r; assert 'Hubdist' in type(r.model_resolver._impls[-1]).__name__"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; {check}; {then}"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_runtime_env_names_the_hook() -> None:
    assert install_everywhere({"pip": []}) == {"pip": [], "worker_process_setup_hook": SETUP_HOOK}
    uninstall()
