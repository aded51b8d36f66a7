"""No part of a secret is shown, however it is written: in redacted text, errors, settings and public handles."""

from __future__ import annotations

import contextlib
import pickle
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hubdist.config.handover import without_secrets
from hubdist.config.model_settings import ListedModel, ModelSettings
from hubdist.config.schema import Config
from hubdist.errors import HubdistError
from hubdist.model.handle import Kind, parse_handle
from hubdist.model.redact import redact_url
from hubdist.remote.snapshot_copy import RemoteCopy
from tests.support.leaks import texts_of

CANARY = "c4n4ry"
ODD = "/?#@:[]%&=;+~!$*(),\\^`{}|<>.\"' \n\tä0"


@st.composite
def secrets(draw: st.DrawFn, alphabet: str = ODD) -> str:
    """What somebody may have as a password: each part of it can be told apart from all else."""
    odd = st.text(alphabet, max_size=4)
    return draw(odd) + CANARY + draw(odd) + CANARY + draw(odd)


@st.composite
def written(draw: st.DrawFn) -> str:
    """A text with a secret, as a user may write it."""
    passwords = secrets()
    tail = draw(st.sampled_from(["", "/", "/m.tar.gz", "/a/b/1", "/pkg@1.0/m.zip", "/m.tar.gz?x=1", "/m.zip#f"]))
    host = draw(st.sampled_from(["host.example", "host", "127.0.0.1:8080", "[::1]:80", "host:99999"]))
    name = draw(st.sampled_from(["user", "", "first.last", "me@corp.example", "AKIA"]))
    scheme = draw(st.sampled_from(["https", "http", "HTTPS", "s3", "gs", "abfss", "hdfs", "ftp", "simplecache"]))
    prefix = draw(st.sampled_from(["", "", "zip://in::", "tar://in/side::", "zip://a::tar://b::"]))
    value = draw(secrets(ODD.replace("&", "").replace(";", "")))
    return draw(
        st.sampled_from(
            [
                f"{prefix}{scheme}://{name}:{draw(passwords)}@{host}{tail}",
                f"{prefix}{scheme}://{name}:{draw(passwords)}@{host}/m.zip?sig={value}",
                f"{prefix}https://{name}:pass@{host}/m.zip?sig={value}",
                f"{prefix}https://host.example/m.zip?a=b&sig={value}",
                f"{prefix}https://host.example:8080/m.zip#{value}",
                f"{name or 'user'}:{draw(passwords)}@{host}{tail}",
                f"https:/{name or 'user'}:{draw(passwords)}@{host}{tail}",
                f"//{name}:{draw(passwords)}@{host}{tail}",
            ]
        )
    )


@given(written())
@example("https://user:12/c4n4ry@host/m.tar.gz")
@example("https://user:12?c4n4ry@host/m.tar.gz?sig=c4n4ry")
@example("https://u:c4n4ry::c4n4ry@host/x")
@example("user:c4n4ry://c4n4ry@host")
@example("https://h.example/x?next=https://u:c4&c4n4ry=@host")
def test_no_part_of_a_secret_is_in_a_redacted_text(text: str) -> None:
    assert CANARY not in redact_url(text)
    assert CANARY not in redact_url(repr(text))


@given(written())
@example("https://user:12/c4n4ry@host/m.tar.gz")
@example("user:c4n4ry://c4n4ry@host")
@example("https://u:c4n4ry::c4n4ry@host/x")
@example("zip://in::https://u:c4n4ry::c4n4ry@host/m.zip")
@example("//:c4n4ry@host.example")
@example("https://first.last:/c4n4ry@host.example/m.zip?sig=x")
@example("https://first.last:443/c4n4ry@host.example/m.zip")
@example("https://user:x@c4n4ry#@host.example/m.zip")
def test_no_part_of_a_secret_is_in_what_a_handle_shows(text: str) -> None:
    shown = []
    try:
        handle = parse_handle(text, base_dir=Path("/base"))
    except HubdistError as error:
        shown += list(texts_of(error))
    else:
        shown += [handle.redacted, handle.label, handle.key, repr(handle), repr(RemoteCopy(handle.text, {}))]
    with contextlib.suppress(HubdistError):
        parse_handle(text, custom_schemes={"ftp"})
    assert not [each for each in shown if CANARY in each]


@given(written())
def test_no_part_of_a_secret_is_in_what_settings_show(text: str) -> None:
    shown = []
    for values in ({"models": [text]}, {"models": [{"handle": text}]}, {"shared_cache": text}, {"models": {text: 1}}):
        try:
            config = Config(**values)
        except HubdistError as error:
            shown += list(texts_of(error))
        else:
            shown += [repr(config), str(config), f"{config}", repr(config.models), repr(without_secrets(config))]
            with contextlib.suppress(HubdistError):  # of a scheme that nobody has registered
                shown += [repr(settings) for settings in config.model_settings().items()]
    assert not [each for each in shown if CANARY in each]


def test_other_settings_are_shown_as_they_are() -> None:
    config = Config(models=["https://u:p@h.example/m.tar.gz"], store="/data/store")
    assert "store='/data/store'" in repr(config)
    assert "ListedModel(handle='https://***@h.example/m.tar.gz'" in repr(config)
    assert pickle.loads(pickle.dumps(config)).models[0].handle == "https://u:p@h.example/m.tar.gz"


def test_a_model_that_pydantic_refuses_is_not_quoted() -> None:
    with pytest.raises(ValueError, match="Model") as caught:
        ListedModel(handle=f"https://u:{CANARY}@h/x", digest=f"https://u:{CANARY}@h/x", route="no")  # type: ignore[arg-type]
    assert CANARY not in str(caught.value)
    assert CANARY not in repr(ModelSettings())


@pytest.mark.parametrize("named", ["https://u:{}/{}@h.example/c.yaml", "models:[https://u:{}@h/{}?sig={}]"])
def test_a_configuration_that_is_no_file_is_not_quoted(named: str) -> None:
    text = named.replace("{}", CANARY)
    with pytest.raises(HubdistError) as caught:
        Config.load(environment={"HUBDIST_CONFIG": text})
    assert not [each for each in texts_of(caught.value) if CANARY in each.replace(f"/{CANARY}?", "")]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("abfss://container@account.dfs.core.windows.net/m", "abfss://container@account.dfs.core.windows.net/m"),
        ("abfs://$web@account.dfs.core.windows.net/a@b", "abfs://$web@account.dfs.core.windows.net/a@b"),
        ("oci://bucket@namespace/model", "oci://bucket@namespace/model"),
        ("hdfs://me@namenode:8020/model", "hdfs://me@namenode:8020/model"),
        ("hdfs://me:pass@namenode:8020/model", "hdfs://***@namenode:8020/model"),
        ("hf://owner/model@main", "hf://owner/model@main"),
        ("gs://bucket/pkg@1.0/m.tar.gz", "gs://bucket/pkg@1.0/m.tar.gz"),
        ("s3://AKIA:se/cret@bucket/m", "s3://***@bucket/m"),
        ("gs://token@bucket/m", "gs://***@bucket/m"),
        ("https://host.example/m.zip?GoogleAccessId=a@b&Signature=c", "https://host.example/m.zip?***"),
        ("http://127.0.0.1:80/m.zip?GoogleAccessId=a@b", "http://127.0.0.1:80/m.zip?***"),
        ("from https://a.example/x to https://u:p@b.example/y", "from https://a.example/x to https://***@b.example/y"),
    ],
)
def test_what_is_no_secret_is_shown(url: str, shown: str) -> None:
    assert redact_url(url) == shown


def test_a_container_is_no_password() -> None:
    handle = parse_handle("abfss://container@account.dfs.core.windows.net/models/m")
    assert handle.kind is Kind.TREE
    assert handle.redacted == handle.text
