"""Kaggle models through kagglehub, against a server on 127.0.0.1 that speaks the part of its interface that is used.

kagglehub can only be pointed at names and ports of its own makers by its environment variable, so the table of its
endpoints is patched; all else is the real package.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hubdist
from hubdist import errors
from hubdist.config.schema import Config
from hubdist.model.handle import parse_handle
from hubdist.resolver.resolver import Resolver
from hubdist.store.store import Store
from tests.support.archives import targz
from tests.support.kaggle import FILES, HANDLE, Kaggle, loopback_kaggle


@pytest.fixture
def kaggle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Kaggle]:
    with loopback_kaggle(monkeypatch, tmp_path) as state:
        yield state


def resolved(store: Path, handle: str = HANDLE, **settings: Any) -> dict[str, bytes]:
    hubdist.init(store=str(store), **settings)
    root = Path(hubdist.resolve(handle))
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def assert_nothing_left(tmp_path: Path) -> None:
    assert list((tmp_path / "store" / "staging").iterdir()) == []
    assert list((tmp_path / "store" / "snapshots").iterdir()) == []


def test_a_few_files_come_out_right_and_alone(kaggle: Kaggle, tmp_path: Path) -> None:
    assert resolved(tmp_path / "store") == FILES
    assert kaggle.reads("DownloadModelInstanceVersion") == len(FILES)
    assert not (tmp_path / "kagglehub").exists()
    assert list((tmp_path / "store" / "staging").iterdir()) == []


def test_a_bundle_of_many_files_comes_out_right_and_alone(kaggle: Kaggle, tmp_path: Path) -> None:
    kaggle.bundle = targz(FILES)
    assert resolved(tmp_path / "store") == FILES
    assert kaggle.reads("DownloadModelInstanceVersion") == 1


def test_a_bundle_comes_out_where_python_is_older_than_tarfiles_filters(
    kaggle: Kaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def extractall(_: tarfile.TarFile, path: str) -> None:
        raise AssertionError(path)

    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    monkeypatch.setattr(tarfile.TarFile, "extractall", extractall)  # knows no `filter`
    kaggle.bundle = targz(FILES)
    assert resolved(tmp_path / "store") == FILES
    assert list((tmp_path / "store" / "staging").iterdir()) == []


def test_the_models_url_is_the_same_handle(kaggle: Kaggle, tmp_path: Path) -> None:
    url = "https://www.kaggle.com/models/owner/model/frameworks/tensorFlow2/variations/var/versions/1"
    assert resolved(tmp_path / "store", url) == FILES
    calls = len(kaggle.calls)
    assert resolved(tmp_path / "store") == FILES
    assert len(kaggle.calls) == calls


def test_a_numbered_version_is_not_asked_for_again(kaggle: Kaggle, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    first = Resolver(Config(), store, None).find_or_read(parse_handle(HANDLE))
    calls = len(kaggle.calls)
    second = Resolver(Config(), store, None).find_or_read(parse_handle(HANDLE))
    assert (first.source, second.source) == ("origin", "store")
    assert first.digest == second.digest
    assert len(kaggle.calls) == calls


def test_the_newest_version_is_asked_for_in_each_job(kaggle: Kaggle, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    handle = parse_handle("kaggle://owner/model/tensorFlow2/var")
    first = Resolver(Config(), store, None).find_or_read(handle)
    kaggle.files["saved_model.pb"] = b"a newer version"
    second = Resolver(Config(), store, None).find_or_read(handle)
    assert first.digest != second.digest
    assert kaggle.reads("GetModelInstance") == 2


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, errors.AccessDeniedError),
        (403, errors.AccessDeniedError),
        (404, errors.ModelNotFoundError),
        (500, errors.OriginError),
    ],
)
def test_refusals_are_typed(kaggle: Kaggle, tmp_path: Path, status: int, kind: type[errors.HubdistError]) -> None:
    kaggle.status = status
    with pytest.raises(kind) as caught:
        resolved(tmp_path / "store")
    assert caught.value.handle == HANDLE
    assert_nothing_left(tmp_path)


def test_a_cut_download_is_no_model(kaggle: Kaggle, tmp_path: Path) -> None:
    kaggle.cut = 5
    with pytest.raises(errors.OriginError) as caught:
        resolved(tmp_path / "store")
    assert caught.value.handle == HANDLE
    assert_nothing_left(tmp_path)


def test_other_bytes_than_announced_are_no_model(kaggle: Kaggle, tmp_path: Path) -> None:
    kaggle.headers["X-Goog-Hash"] = "md5=1B2M2Y8AsgTpgAmY7PhCfg=="  # of nothing
    with pytest.raises(errors.IntegrityError) as caught:
        resolved(tmp_path / "store")
    assert caught.value.handle == HANDLE
    assert_nothing_left(tmp_path)


def test_a_server_that_never_answers_is_given_up(kaggle: Kaggle, tmp_path: Path) -> None:
    kaggle.silent = threading.Event()
    with pytest.raises(errors.TransferTimeoutError) as caught:
        resolved(tmp_path / "store", stall_timeout_s=0.3)
    assert caught.value.handle == HANDLE
    assert_nothing_left(tmp_path)


def test_no_network_is_an_origin_error(kaggle: Kaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kagglesdk import kaggle_env

    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, f"http://127.0.0.1:{port}")
    with pytest.raises(errors.OriginError, match="refused the connection"):
        resolved(tmp_path / "store", origin_retries=0)
    assert_nothing_left(tmp_path)


def test_a_server_that_has_too_much_to_do_is_asked_again(kaggle: Kaggle, tmp_path: Path) -> None:
    kaggle.status, kaggle.headers = 429, {"Retry-After": "0"}
    with pytest.raises(errors.OriginError, match="too many requests"):
        resolved(tmp_path / "store", origin_retries=1)
    assert len(kaggle.calls) == 2
    assert_nothing_left(tmp_path)


def test_a_missing_kagglehub_is_named_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(errors.HandleError) as caught:
        resolved(tmp_path / "store")
    assert "pip install 'hubdist[kaggle]'" in str(caught.value)
    assert caught.value.handle == HANDLE
    assert_nothing_left(tmp_path)


def test_credentials_are_in_no_error_and_no_file(
    kaggle: Kaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "canary-token")
    kaggle.status = 403
    with caplog.at_level("DEBUG", logger="hubdist"), pytest.raises(errors.AccessDeniedError) as caught:
        resolved(tmp_path / "store")
    assert "canary-token" not in f"{caught.value}{caught.value.__dict__}{caplog.text}"
    kaggle.status = 200
    resolved(tmp_path / "store")
    for path in (tmp_path / "store").rglob("*"):
        assert path.is_dir() or b"canary-token" not in path.read_bytes()


@pytest.mark.root
def test_a_user_without_a_home_is_told_what_to_set(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root, to become a user whom no file knows")
    script = "import hubdist; hubdist.resolve('kaggle://google/nnlm/tensorFlow2/en/1')"
    store = Path(tempfile.mkdtemp(prefix="hubdist-kaggle-"))
    store.chmod(0o777)
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    command = ["setpriv", "--reuid=1000770000", "--regid=0", "--groups=0", "--", sys.executable, "-c", script]
    try:
        done = subprocess.run(
            command,
            env={**environment, "HUBDIST_STORE": str(store)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        shutil.rmtree(store)
    if "Permission denied" in done.stderr or "ModuleNotFoundError" in done.stderr:
        pytest.skip("that user may not read this Python")
    assert "ConfigError: kagglehub cannot be imported" in done.stderr
    assert "Set HOME" in done.stderr
