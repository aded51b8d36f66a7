"""The setting `origin_headers`: names of variables only, servers in one spelling, and no secret in any text."""

from __future__ import annotations

import pickle
import traceback
from pathlib import Path

import pytest

from hubdist.config.handover import fingerprint, plain_values, without_secrets
from hubdist.config.origin_access import driver_values, origin_access
from hubdist.config.redacted import redacted_values
from hubdist.config.schema import Config
from hubdist.config.shown import settings_schema, shown_settings
from hubdist.errors import ConfigError

SECRET = "ghp_0123456789abcdefghij"
GOOD = {"hub.example.com": {"Authorization": "Bearer env:HUB_TOKEN"}}


@pytest.mark.parametrize(
    ("written", "server"),
    [
        ("hub.example.com", "https://hub.example.com:443"),
        ("Hub.Example.com.", "https://hub.example.com:443"),
        ("hub.example.com:8443", "https://hub.example.com:8443"),
        ("https://hub.example.com/", "https://hub.example.com:443"),
        ("http://hub.local:8080", "http://hub.local:8080"),
        ("[::1]:8443", "https://[::1]:8443"),
    ],
)
def test_a_server_has_one_spelling(written: str, server: str) -> None:
    config = Config(origin_headers={written: {"X-Key": "env:HUB_TOKEN"}})

    assert list(config.origin_headers) == [server]
    assert Config(**config.explicit_values()) == config


@pytest.mark.parametrize(
    "headers",
    [
        {"hub.example.com": {"Authorization": SECRET}},
        {"hub.example.com": {"Authorization": f"Bearer {SECRET}"}},
        {"hub.example.com": {"Authorization": f"{SECRET} env:HUB_TOKEN"}},
        {"hub.example.com": {"Authorization": f"env:HUB_TOKEN {SECRET}"}},
        {"hub.example.com": {"Authorization": f"env:{SECRET}-"}},
        {"hub.example.com": {f"{SECRET}:": "env:HUB_TOKEN"}},
        {"hub.example.com": SECRET},
        {"hub.example.com": {"Authorization": [SECRET]}},
        {f"https://me:{SECRET}@hub.example.com": {"X": "env:HUB_TOKEN"}},
        {f"hub.example.com/{SECRET}": {"X": "env:HUB_TOKEN"}},
        [SECRET],
        SECRET,
    ],
)
@pytest.mark.parametrize("layer", ["argument", "yaml", "variable"])
def test_a_value_in_the_text_is_refused_and_not_printed(headers: object, layer: str) -> None:
    import json

    text = json.dumps(headers)
    with pytest.raises(ConfigError, match="origin_headers") as refused:
        if layer == "argument":
            Config.load({"origin_headers": headers}, {})
        elif layer == "yaml":
            Config.load({}, {"HUBDIST_CONFIG": f"origin_headers: {text}"})
        else:
            Config.load({}, {"HUBDIST_ORIGIN_HEADERS": text})

    assert SECRET not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize("name", ["Host", "range", "Accept-Encoding", "Transfer-Encoding", "a b", "X:\r\nY", ""])
def test_headers_that_hubdist_sets_itself_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="a name that is not allowed"):
        Config(origin_headers={"hub.example.com": {name: "env:HUB_TOKEN"}})


def test_one_server_in_two_spellings_is_refused() -> None:
    with pytest.raises(ConfigError, match="twice"):
        Config(origin_headers={"hub.example.com": {"X": "env:A"}, "https://hub.example.com:443": {"X": "env:B"}})


def test_what_others_get_of_the_settings_names_variables_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUB_TOKEN", SECRET)
    monkeypatch.setenv("HUBDIST_ORIGIN_HEADERS", "{hub.example.com: {Authorization: 'Bearer env:HUB_TOKEN'}}")
    config = Config.load()
    shown = {setting.key: setting for setting in shown_settings({}, {})}

    assert shown["origin_headers"].value == {"https://hub.example.com:443": {"Authorization": "Bearer env:HUB_TOKEN"}}
    assert "HUB_TOKEN" in shown["origin_headers"].text
    texts = [repr(config), str(shown), str(redacted_values(config)), str(plain_values(config)), fingerprint(config)]
    assert all(SECRET not in text for text in texts)
    assert SECRET.encode() not in pickle.dumps(without_secrets(config))
    assert pickle.loads(pickle.dumps(config)) == config
    assert settings_schema()["properties"]["origin_headers"]["type"] == "object"


def test_the_access_shows_no_value() -> None:
    access = origin_access(Config(origin_headers=GOOD), environment={"HUB_TOKEN": SECRET})

    assert access.headers["https://hub.example.com:443"]["Authorization"].text == f"Bearer {SECRET}"
    assert SECRET not in repr(access)


def test_the_driver_gives_what_the_settings_name_and_tokens_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".netrc").touch()
    environment = {
        "HUB_TOKEN": SECRET,
        "HF_TOKEN": "hf",
        "KAGGLE_CONFIG_DIR": "/here",
        "AWS_SECRET_ACCESS_KEY": "no",
        "HOME": str(tmp_path),
    }
    config = Config(origin_headers=GOOD)

    tokens = {"HUB_TOKEN": SECRET, "HF_TOKEN": "hf"}
    files = {"KAGGLE_CONFIG_DIR": "/here", "NETRC": str(tmp_path / ".netrc")}
    assert driver_values(config, environment) == tokens | files
    assert driver_values(config, environment, same_disk=False) == tokens
    assert driver_values(config.replace({"netrc": False}), {**environment, "HF_TOKEN": ""}) == {
        "HUB_TOKEN": SECRET,
        "KAGGLE_CONFIG_DIR": "/here",
    }


def test_a_relative_netrc_is_the_drivers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert driver_values(Config(), {"NETRC": "logins"}) == {"NETRC": str(tmp_path / "logins")}


def test_tasks_cannot_change_them() -> None:
    from hubdist.config.handover import replace_in_process

    with pytest.raises(ConfigError, match="netrc, origin_headers: no effect in a task"):
        replace_in_process(Config(), {"origin_headers": GOOD, "netrc": False}, ())
