"""Headers and logins for private servers: who gets them, who never does, and who errors say was refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubdist.config.origin_access import origin_access
from hubdist.config.schema import Config
from hubdist.errors import AccessDeniedError, OriginError
from hubdist.model.access import OriginAccess
from hubdist.origins.http.credentials import identity_at
from hubdist.origins.http.stream import HttpStream
from hubdist.origins.http.text import fetch_text
from hubdist.system.deadline import Deadlines
from tests.support.certificates import Authority
from tests.support.recorder import DATA, Recorder

SECRET = "s3cr3t-of-the-hub"
PASSWORD = "p4ssw0rd"
DEADLINES = Deadlines(retries=0, connect_s=5, stall_s=5, total_s=20)


@pytest.fixture
def hub() -> Iterator[Recorder]:
    server = Recorder()
    yield server
    server.close()


@pytest.fixture
def other() -> Iterator[Recorder]:
    server = Recorder()
    yield server
    server.close()


def read(url: str, access: OriginAccess) -> bytes:
    with HttpStream(url, DEADLINES, access=access) as stream:
        data = b""
        while part := stream.read(4096):
            data += part
        return data


def with_token(url: str, header: str = "X-Hub-Token", value: str = "env:HUB_TOKEN") -> OriginAccess:
    config = Config(origin_headers={url: {header: value}})
    return origin_access(config, environment={"HUB_TOKEN": f"{SECRET}\n"})


def with_netrc(folder: Path, text: str) -> OriginAccess:
    (folder / "logins").write_text(text, encoding="utf-8")
    return origin_access(Config(), environment={"NETRC": str(folder / "logins")})


def basic(name: str, password: str = PASSWORD) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def shows_secret(server: Recorder) -> bool:
    text = json.dumps(server.seen)
    return SECRET in text or base64.b64encode(f"bob:{PASSWORD}".encode()).decode() in text


@pytest.mark.parametrize(
    ("header", "value", "sent"),
    [
        ("X-Hub-Token", "env:HUB_TOKEN", SECRET),
        ("Authorization", "Bearer env:HUB_TOKEN", f"Bearer {SECRET}"),
        ("Proxy-Authorization", "Basic env:HUB_TOKEN", f"Basic {SECRET}"),
    ],
)
def test_a_header_reaches_its_server(hub: Recorder, header: str, value: str, sent: str) -> None:
    hub.wants = sent

    assert read(f"{hub.url}/m.tar.gz", with_token(hub.url, header, value)) == DATA
    assert hub.last[header.lower()] == sent


def test_a_header_never_goes_to_another_server(hub: Recorder, other: Recorder) -> None:
    hub.redirect = f"{other.url}/m.tar.gz"  # the same host, at another port

    assert read(f"{hub.url}/m.tar.gz", with_token(hub.url)) == DATA
    assert shows_secret(hub)
    assert not shows_secret(other)
    assert read(f"{other.url}/m.tar.gz", with_token(hub.url)) == DATA
    assert not shows_secret(other)


def test_each_server_of_a_chain_gets_its_own_header(hub: Recorder, other: Recorder) -> None:
    hub.redirect = f"{other.url}/m.tar.gz"
    config = Config(origin_headers={hub.url: {"X-One": "env:ONE"}, other.url: {"X-Two": "env:TWO"}})
    access = origin_access(config, environment={"ONE": "1", "TWO": "2"})

    assert read(f"{hub.url}/m.tar.gz", access) == DATA
    assert (hub.last.get("x-one"), hub.last.get("x-two")) == ("1", None)
    assert (other.last.get("x-one"), other.last.get("x-two")) == (None, "2")


def test_a_header_for_https_is_not_sent_over_http(hub: Recorder) -> None:
    access = with_token(f"https://127.0.0.1:{hub.port}")

    assert read(f"{hub.url}/m.tar.gz", access) == DATA
    assert not shows_secret(hub)


def test_a_redirect_from_https_to_http_is_not_followed(
    hub: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.bundle))
    secure = Recorder(authority.context("localhost"))
    try:
        secure.redirect = f"{hub.url}/m.tar.gz"
        with pytest.raises(OriginError, match="redirects from https to http"):
            read(f"{secure.url}/m.tar.gz", with_token(secure.url))
        assert shows_secret(secure)
        assert not hub.seen
    finally:
        secure.close()


def test_a_variable_that_is_not_set_is_named_and_nothing_is_asked(hub: Recorder) -> None:
    config = Config(origin_headers={hub.url: {"Authorization": "Bearer env:HUB_TOKEN"}})

    with pytest.raises(AccessDeniedError, match=r"the variable HUB_TOKEN.*is not set.*Set HUB_TOKEN"):
        read(f"{hub.url}/m.tar.gz", origin_access(config, environment={"HUB_TOKEN": " "}))
    assert not hub.seen


def test_the_drivers_value_wins_over_that_of_the_coordinators_node(hub: Recorder) -> None:
    config = Config(origin_headers={hub.url: {"X-Hub-Token": "env:HUB_TOKEN"}})

    read(f"{hub.url}/f.onnx", origin_access(config, {"HUB_TOKEN": SECRET}, {"HUB_TOKEN": "another"}))

    assert hub.last["x-hub-token"] == SECRET


def test_a_login_of_netrc_reaches_its_host(hub: Recorder, tmp_path: Path) -> None:
    hub.wants = basic("bob")
    access = with_netrc(tmp_path, f"machine 127.0.0.1 login bob password {PASSWORD}\n")

    assert read(f"{hub.url}/m.tar.gz", access) == DATA


def test_a_login_of_netrc_does_not_follow_a_redirect(hub: Recorder, other: Recorder, tmp_path: Path) -> None:
    hub.redirect = f"{other.url}/m.tar.gz"
    access = with_netrc(tmp_path, f"machine 127.0.0.1 login bob password {PASSWORD}\n")

    assert read(f"{hub.url}/m.tar.gz", access) == DATA
    assert shows_secret(hub)
    assert not shows_secret(other)


@pytest.mark.parametrize(
    "text",
    [
        f"default login bob password {PASSWORD}\n",
        f"machine hub.example.com login bob password {PASSWORD}\n",
        f"machine 127.0.0.1 login bob password {PASSWORD}\nthis is no line of it\n",
    ],
)
def test_other_entries_of_netrc_are_not_sent(hub: Recorder, tmp_path: Path, text: str) -> None:
    assert read(f"{hub.url}/m.tar.gz", with_netrc(tmp_path, text)) == DATA
    assert not shows_secret(hub)


def test_a_login_of_netrc_goes_over_https_or_to_this_machine_only(tmp_path: Path) -> None:
    access = with_netrc(tmp_path, f"machine hub.example.com login bob password {PASSWORD}\n")

    assert identity_at("https://hub.example.com/m/1", access) == f"with the login bob of {tmp_path}/logins"
    assert "over https only" in identity_at("http://hub.example.com/m/1", access)


def test_netrc_false_reads_no_file(hub: Recorder, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text(f"machine 127.0.0.1 login bob password {PASSWORD}\n", encoding="utf-8")
    home = {"HOME": str(tmp_path)}

    read(f"{hub.url}/m.tar.gz", origin_access(Config(netrc=False), environment=home))
    assert not shows_secret(hub)
    read(f"{hub.url}/m.tar.gz", origin_access(Config(), environment=home))
    assert shows_secret(hub)


def test_a_header_and_the_urls_own_login_win_over_netrc(hub: Recorder, tmp_path: Path) -> None:
    (tmp_path / "logins").write_text(f"machine 127.0.0.1 login bob password {PASSWORD}\n", encoding="utf-8")
    config = Config(origin_headers={hub.url: {"authorization": "Bearer env:HUB_TOKEN"}})
    access = origin_access(config, environment={"NETRC": str(tmp_path / "logins"), "HUB_TOKEN": SECRET})

    read(f"{hub.url}/m.tar.gz", access)
    assert hub.last["authorization"] == f"Bearer {SECRET}"
    read(f"{hub.url.replace('//', '//ann:word@')}/m.tar.gz", access)
    assert hub.last["authorization"] == basic("ann", "word")


@pytest.mark.parametrize(
    ("environment", "headers", "url", "words"),
    [
        ({}, {}, "/m.tar.gz", "answered 403, asked anonymously"),
        ({}, {}, "/m.tar.gz?signature=abc", "asked by what the URL's query says alone"),
        (
            {"HUB_TOKEN": SECRET},
            {"X-Key": "env:HUB_TOKEN"},
            "/m.tar.gz",
            "asked with the header X-Key of variable HUB_TO",
        ),
        ({"NETRC": "logins"}, {}, "/m.tar.gz", "asked with the login bob of .*/logins"),
        ({"NETRC": "/nowhere/netrc"}, {}, "/m.tar.gz", "asked anonymously"),
    ],
)
def test_a_refusal_says_who_was_refused(
    hub: Recorder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    headers: dict[str, str],
    url: str,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("logins").write_text(f"machine 127.0.0.1 login bob password {PASSWORD}\n", encoding="utf-8")
    hub.wants = "something else"
    access = origin_access(Config(origin_headers={hub.url: headers}), environment=environment)

    with pytest.raises(AccessDeniedError, match=words) as refused:
        read(hub.url + url, access)
    with pytest.raises(AccessDeniedError, match=words):
        fetch_text(hub.url + url, DEADLINES, access=access)

    for text in (str(refused.value), repr(refused.value), repr(access), str(refused.value.__dict__)):
        assert SECRET not in text
        assert PASSWORD not in text


def test_a_refusal_behind_a_redirect_names_the_server_that_refused(hub: Recorder, other: Recorder) -> None:
    hub.redirect, other.wants = f"{other.url}/m.tar.gz", "something"

    with pytest.raises(AccessDeniedError, match=f"asked anonymously at {other.url}"):
        read(f"{hub.url}/m.tar.gz", with_token(hub.url))


def test_a_login_that_is_a_token_itself_is_not_shown(tmp_path: Path) -> None:
    access = with_netrc(tmp_path, "machine hub.example.com login ghp_0123456789abcdef0123 password x-oauth-basic\n")

    assert identity_at("https://hub.example.com/m/1", access) == f"with a login of {tmp_path}/logins"
