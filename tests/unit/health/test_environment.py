"""`hubdist env` tells what a bug report needs, and no secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hubdist.config.schema import Config
from hubdist.config.variables import ray_access, set_variables
from hubdist.health.environment import changed_settings, describe_environment, file_system_of

SECRETS = {
    "RAY_AUTH_TOKEN": "hidden",
    "HUBDIST_SHARED_CACHE": "https://user:hidden@host/cache",
    "HUBDIST_MODELS": "[https://host/m?sig=hidden]",
    "HTTPS_PROXY": "http://user:hidden@proxy:3128",
    "KAGGLE_KEY": "hidden",
    "RAY_ADDRESS": "ray://user:hidden@head:10001",
    "GOOGLE_APPLICATION_CREDENTIALS": "/hidden",
}


def test_names_are_shown_and_secrets_are_not() -> None:
    found = set_variables({**SECRETS, "UNRELATED": "x", "https_proxy": "hidden"})
    assert "hidden" not in json.dumps(found)
    assert set(found) == {*SECRETS, "https_proxy"}


def test_harmless_values_are_shown() -> None:
    harmless = {
        "RAY_AUTH_MODE": "token",
        "RAY_ADDRESS": "10.0.0.1:6379",
        "HUBDIST_MAX_STORE_BYTES": "20GiB",
        "HUBDIST_STORE": "/data/models",
        "SSL_CERT_FILE": "/etc/ssl/ca.pem",
    }
    assert set_variables(harmless) == harmless


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        ({"RAY_AUTH_TOKEN": "hidden"}, "RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_TOKEN_PATH": "/token"}, "RAY_AUTH_TOKEN_PATH"),
    ],
)
def test_where_the_token_comes_from_is_said(environment: dict[str, str], found: str | None) -> None:
    access = ray_access(environment)
    assert access.token_from == found
    assert "hidden" not in repr(access)


def test_the_token_file_of_the_user_is_found(tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("hidden")
    assert ray_access({"HOME": str(tmp_path)}).token_from == "~/.ray/auth_token"


def test_settings_are_those_that_differ_and_are_redacted() -> None:
    config = Config(
        timeout_s=3600, max_store_bytes="1GiB", models=["https://user:hidden@host/m"], shared_cache="gs://bucket/dir"
    )
    found = changed_settings(config)
    assert set(found) == {"max_store_bytes", "models", "shared_cache"}
    assert "hidden" not in json.dumps(found)


def test_the_mount_that_holds_a_path_tells_its_file_system(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"a / ext4 rw\nb {tmp_path} nfs4 rw\nc {tmp_path}/st tmpfs rw\n")
    assert file_system_of(tmp_path / "store", mounts) == "nfs4"
    assert file_system_of(Path("/elsewhere"), mounts) == "ext4"
    assert file_system_of(tmp_path, tmp_path / "none") == "unknown"


def test_all_of_it_is_json() -> None:
    found = json.loads(json.dumps(describe_environment(Config())))
    assert found["packages"]["fsspec"]
    assert found["store"]["free"] > 0
