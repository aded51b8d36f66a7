"""Who an origin or a shared cache is asked as, in words without secrets, and that `plan` says so."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import hubdist
from hubdist.model.access import OriginAccess
from hubdist.model.handle import parse_handle
from hubdist.origins.identity import origin_identity
from hubdist.remote.identity import google_words, identity_of_files
from hubdist.system.deadline import Deadlines
from hubdist.testing.memory import MemorySource

KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI"


def who(text: str, **access: Any) -> str:
    return origin_identity(parse_handle(text, custom_schemes={"own"}), Deadlines(), OriginAccess(**access))


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("botocore")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    (tmp_path / "credentials").write_text(
        f"[default]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n"
        f"[models]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n"
    )
    (tmp_path / "config").write_text(
        "[profile reader]\nrole_arn=arn:aws:iam::123456789012:role/reader\nsource_profile=models\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("variables", "files", "words"),
    [
        ({"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}, {}, "with the key of variable AWS_ACCESS_KEY_ID"),
        ({}, {}, "with the key of AWS profile default"),
        ({"AWS_PROFILE": "models"}, {}, "with the key of AWS profile models"),
        (
            {"AWS_PROFILE": "reader"},
            {},
            "as role arn:aws:iam::123456789012:role/reader of AWS profile reader",
        ),
        ({}, {"anon": True}, "anonymously"),
        ({}, {"key": KEY}, "with the key of fsspec's configuration"),
    ],
)
def test_amazons_identity(
    aws: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], files: dict[str, Any], words: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    found = identity_of_files("s3", SimpleNamespace(**{"anon": False, "key": None, "profile": None, **files}))

    assert found == words
    assert KEY not in found


def test_amazons_identity_without_credentials(aws: Path) -> None:
    (aws / "credentials").unlink()

    assert identity_of_files("s3", SimpleNamespace(anon=False, key=None, profile=None)) == "without credentials"


def test_googles_identity() -> None:
    oauth = pytest.importorskip("google.oauth2.credentials")
    user = oauth.Credentials("token", refresh_token="secret", client_id="id")

    assert google_words(None) == "anonymously"
    assert google_words(SimpleNamespace(service_account_email="a@b.example")) == "as service account a@b.example"
    assert google_words(SimpleNamespace(service_account_email="default")) == "with this node's credentials"
    assert google_words(SimpleNamespace(account="bob@b.example")) == "as user bob@b.example"
    assert google_words(user) == "as the user of `gcloud auth application-default login`"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"sas_token": "?sig=secret"}, "with a SAS token for account models"),
        ({"account_key": "secret"}, "with an account key for account models"),
        ({"client_id": "app", "client_secret": "secret"}, "as application app for account models"),
        ({"credential": object()}, "with Azure's default credentials of this node for account models"),
        ({}, "anonymously"),
    ],
)
def test_azures_identity(files: dict[str, Any], words: str) -> None:
    assert identity_of_files("abfss", SimpleNamespace(account_name="models", **files)) == words


def test_a_client_that_fails_hides_no_error() -> None:
    assert identity_of_files("gs", object()) == "with this node's credentials"
    assert identity_of_files("oci", object()) == "with this node's credentials"


def test_kaggles_identity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("kagglehub")
    handle = "kaggle://google/bert/tensorFlow2/small/1"
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))

    assert who(handle) == "anonymously"
    monkeypatch.setenv("KAGGLE_USERNAME", "bob")
    monkeypatch.setenv("KAGGLE_KEY", SECRET)
    assert who(handle) == "as Kaggle user bob"
    monkeypatch.setenv("KAGGLE_API_TOKEN", SECRET)
    assert who(handle) == "with a Kaggle API token"


def test_the_identity_at_paths_own_schemes_and_members_of_archives(tmp_path: Path) -> None:
    assert who(str(tmp_path)).endswith(f"(uid {os.geteuid()})")
    assert who("own://model") == "by the function for own://"
    assert who("zip://a/b::https://me:word@hub.example.com/m.zip") == "with the login in the URL"


def test_plan_says_who_would_ask(tmp_path: Path) -> None:
    hubdist.init(
        store=str(tmp_path / "store"),
        shared_cache=str(tmp_path / "cache"),
        origins={"own": lambda _: MemorySource({"a": b"1"})},
        origin_headers={"hub.example.com": {"X-Key": "env:UNSET_TOKEN_OF_A_TEST"}},
        netrc=False,
    )
    try:
        own, private = hubdist.plan("own://model"), hubdist.plan("https://hub.example.com/m/1")
    finally:
        hubdist.shutdown()

    assert own.identity is not None
    assert own.identity.startswith("by the function for own://, on node ")
    assert f"the origin would be asked {own.identity}" in str(own)
    assert own.cache_identity is not None
    assert "(uid " in own.cache_identity
    assert "not at all" in str(private)
    assert "UNSET_TOKEN_OF_A_TEST" in str(private)


def test_plan_asks_nobody_offline(tmp_path: Path) -> None:
    hubdist.init(store=str(tmp_path / "store"), offline=True)
    try:
        assert hubdist.plan("https://hub.example.com/m/1").identity is None
    finally:
        hubdist.shutdown()


def test_a_path_that_may_not_be_read_names_the_user(tmp_path: Path) -> None:
    from hubdist.errors import AccessDeniedError
    from hubdist.remote.file_system import os_errors

    refused = pytest.raises(AccessDeniedError, match=r"by this user, asked as user \S+ \(uid \d+\)")
    with refused, os_errors(tmp_path, on_driver=True):
        raise PermissionError
