"""HTTP origins: right bytes or a typed error under every fault, and no secret in any text."""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import pickle
import socket
import ssl
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
import urllib3.exceptions
from hypothesis import given, settings
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict

from hubdist.errors import (
    AccessDeniedError,
    HandleError,
    HubdistError,
    IntegrityError,
    LengthMismatchError,
    ModelNotFoundError,
    OriginError,
    TransferTimeoutError,
)
from hubdist.model.redact import redact_url
from hubdist.origins.http import request
from hubdist.origins.http.rules import (
    FileIdentity,
    looks_like_html,
    plan_body,
    resume_headers,
)
from hubdist.origins.http.stream import HttpStream
from hubdist.origins.http.targets import check_url, is_forbidden_address, redirect_target, same_origin
from hubdist.origins.http.text import fetch_text
from hubdist.system.answers import parse_retry_after
from hubdist.system.deadline import Deadline, Deadlines
from hubdist.system.retry import retry_wait_s
from hubdist.testing.hub import (
    ChangedEtag,
    Fault,
    HtmlPage,
    IgnoreRange,
    LoopbackHub,
    Reset,
    ShortBody,
    Stall,
    Status,
    WrongBytes,
)

DATA = b"".join(hashlib.sha256(bytes([n % 256, n // 256])).digest() for n in range(8192))
DEADLINES = Deadlines(stall_s=10.0, total_s=60.0)
CANARY = "c4n4ry"


@pytest.fixture(autouse=True, scope="module")
def _no_proxies() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            patch.delenv(name, raising=False)
        yield


@dataclass
class Clock:
    """A clock that only sleeping moves."""

    now: float = 0.0
    sleeps: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


def read_all(url: str, deadlines: Deadlines = DEADLINES, *, clock: Clock | None = None, **options: Any) -> bytes:
    clock = clock or Clock()
    deadline = Deadline(deadlines.total_s, clock)
    with HttpStream(url, deadlines, deadline=deadline, sleep=clock.sleep, **options) as stream:
        return b"".join(iter(lambda: stream.read(64 << 10), b""))


# --- streams ---------------------------------------------------------------------------------------------------------


def test_a_stream_gives_the_bytes_and_says_what_it_reads(hub: LoopbackHub) -> None:
    url = hub.add_file("m.tar.gz", DATA, "application/x-tar")

    with HttpStream(url + "?sig=1") as stream:
        assert (stream.status, stream.length, stream.content_type) == (200, len(DATA), "application/x-tar")
        assert stream.final_url == url + "?sig=***"
        assert stream.etag == f'"{hashlib.sha256(DATA).hexdigest()[:32]}"'
        assert len(stream.read(7)) == 7
        assert stream.read(10**9) != b""


@pytest.mark.parametrize("data", [b"", b"x", DATA[:63], DATA[:64], DATA[:65], DATA])
@pytest.mark.parametrize("chunked", [True, False])
def test_any_length_arrives_whole(hub: LoopbackHub, data: bytes, chunked: bool) -> None:
    assert read_all(hub.add_file("f", data, chunked=chunked)) == data


def test_after_the_end_reads_stay_empty_and_after_close_they_fail(hub: LoopbackHub) -> None:
    stream = HttpStream(hub.add_file("f", b"abc"))
    assert [stream.read(9), stream.read(9), stream.read(9)] == [b"abc", b"", b""]
    stream.close()
    stream.close()

    with pytest.raises(ValueError, match="closed"):
        stream.read(1)


def test_a_size_below_one_is_refused(hub: LoopbackHub) -> None:
    with HttpStream(hub.add_file("f", b"abc")) as stream, pytest.raises(ValueError, match="at least 1"):
        stream.read(0)


@pytest.mark.parametrize(
    "faults",
    [
        [ShortBody(0)],
        [ShortBody(10)],
        [ShortBody(1000)],
        [Reset(0)],
        [Reset(1000)],
        [Status(code) for code in (408, 429, 500, 502)],
        [Status(503), Status(504), ShortBody(100_000), Status(503), Reset(50_000)],
        [ShortBody(1000), IgnoreRange()],
        [ShortBody(100_000), ShortBody(1000), ShortBody(1000), IgnoreRange()],
        [ShortBody(1000), IgnoreRange(), ShortBody(5000)],
    ],
    ids=repr,
)
@pytest.mark.parametrize("validator", ["etag", "last-modified", "both"])
def test_faults_that_pass_do_not_show_in_the_bytes(hub: LoopbackHub, faults: list[Fault], validator: Any) -> None:
    url = hub.add_file("f", DATA, validator=validator)
    hub.fail_next(url, *faults)

    assert read_all(url) == DATA


@pytest.mark.parametrize("fault", [ShortBody(100_000), Reset(100_000)])
def test_a_broken_transfer_goes_on_where_it_was(hub: LoopbackHub, fault: Fault) -> None:
    url = hub.add_file("f", DATA)
    hub.fail_next(url, fault)

    assert read_all(url) == DATA
    first, second = hub.requests
    assert (first.range, second.status) == (None, 206)
    assert hub.reads(url) == 1
    if isinstance(fault, ShortBody):
        assert (second.range, second.bytes_sent) == ("bytes=100000-", len(DATA) - 100_000)


def test_a_broken_chunked_body_of_unknown_length_is_resumed(hub: LoopbackHub) -> None:
    url = hub.add_file("f", DATA, chunked=True)
    hub.fail_next(url, ShortBody(100_000))

    with HttpStream(url, sleep=Clock().sleep) as stream:
        assert stream.length is None
        assert b"".join(iter(lambda: stream.read(1 << 20), b"")) == DATA
        assert stream.length == len(DATA)


def test_a_stall_is_cut_and_resumed(hub: LoopbackHub) -> None:
    url = hub.add_file("f", DATA)
    hub.fail_next(url, Stall(0, seconds=60), Stall(1000, seconds=60))

    assert read_all(url, Deadlines(stall_s=0.3)) == DATA
    assert [request.status for request in hub.requests] == [200, 200, 206]


def test_a_stall_that_does_not_end_is_named(hub: LoopbackHub) -> None:
    url = hub.add_file("f", DATA)
    hub.fail_next(url, Stall(10, seconds=60), Stall(10, seconds=60))

    with pytest.raises(OriginError, match=r"failed 2 times in a row; last failure: no byte for 0\.2 s"):
        read_all(url, Deadlines(stall_s=0.2, retries=1))


@settings(max_examples=60, deadline=None)
@given(
    faults=st.lists(
        st.one_of(
            st.builds(ShortBody, st.integers(0, 70_000)),
            st.builds(Reset, st.integers(0, 70_000)),
            st.builds(Status, st.sampled_from([408, 429, 500, 502, 503, 504]), st.sampled_from([None, 0, 3])),
            st.builds(IgnoreRange),
        ),
        max_size=5,
    ),
    chunked=st.booleans(),
    size=st.integers(0, 100_000),
)
def test_any_sequence_of_passing_faults_gives_the_same_bytes(faults: list[Fault], chunked: bool, size: int) -> None:
    with LoopbackHub() as hub:
        url = hub.add_file("f", DATA[:size], chunked=chunked)
        hub.fail_next(url, *faults)

        assert read_all(url) == DATA[:size]


def test_progress_resets_the_count_of_retries(hub: LoopbackHub) -> None:
    url = hub.add_file("f", DATA)
    hub.fail_next(url, *[ShortBody(1000)] * 40)

    assert read_all(url, Deadlines(retries=1)) == DATA


def test_retries_end(hub: LoopbackHub) -> None:
    url, clock = hub.add_file("f", DATA), Clock()
    hub.fail_next(url, *[Status(503)] * 4)

    with pytest.raises(OriginError, match=r"/f failed 4 times in a row; last failure: it answered with status 503"):
        read_all(url, Deadlines(retries=3), clock=clock)
    assert len(hub.requests) == 4
    assert [0.25 <= clock.sleeps[0] < 0.5, 0.5 <= clock.sleeps[1] < 1, 1 <= clock.sleeps[2] < 2] == [True] * 3


def test_retry_after_is_honoured_up_to_a_minute(hub: LoopbackHub) -> None:
    url, clock = hub.add_file("f", DATA), Clock()
    later = (dt.datetime.now(dt.UTC) + dt.timedelta(seconds=40)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    hub.fail_next(url, Status(429, 17), Status(503, 9999), Status(503, later))

    assert read_all(url, Deadlines(), clock=clock) == DATA
    assert clock.sleeps[:2] == [17.0, 60.0]
    assert 30 < clock.sleeps[2] <= 40


def test_no_wait_goes_beyond_the_deadline(hub: LoopbackHub) -> None:
    url, clock = hub.add_file("f", DATA), Clock()
    hub.fail_next(url, *[Status(503, 40)] * 9)

    with pytest.raises(TransferTimeoutError, match="not read within 60 s; last failure: it answered with status 503"):
        read_all(url, DEADLINES, clock=clock)
    assert clock.sleeps == [40.0]


def test_the_deadline_holds_while_bytes_arrive(hub: LoopbackHub) -> None:
    clock = Clock()
    with HttpStream(hub.add_file("f", DATA), DEADLINES, deadline=Deadline(60, clock), sleep=clock.sleep) as stream:
        stream.read(64)
        clock.now = 61.0
        with pytest.raises(TransferTimeoutError, match="not read within 60 s"):
            stream.read(10)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (400, OriginError),
        (401, AccessDeniedError),
        (403, AccessDeniedError),
        (404, ModelNotFoundError),
        (407, OriginError),
        (410, ModelNotFoundError),
        (418, OriginError),
        (501, OriginError),
        (304, OriginError),
        (303, OriginError),
        (201, OriginError),
    ],
)
@pytest.mark.parametrize("before", [[], [ShortBody(1000)]], ids=["at once", "after a break"])
def test_other_statuses_fail_at_once(
    hub: LoopbackHub, code: int, kind: type[HubdistError], before: list[Fault]
) -> None:
    url = hub.add_file("f", DATA)
    hub.fail_next(url, *before, Status(code))

    with pytest.raises(kind, match=str(code)) as caught:
        read_all(url)
    assert type(caught.value) is kind
    assert len(hub.requests) == len(before) + 1


@pytest.mark.parametrize("fault", [HtmlPage(), None])
def test_a_web_page_is_no_archive(hub: LoopbackHub, fault: Fault | None) -> None:
    url = hub.add_file("f", b"\n <!DOCTYPE HTML><html>Log in" + DATA)
    if fault:
        hub.fail_next(url, fault)

    with pytest.raises(OriginError, match="a web page instead of a model"):
        read_all(url)
    assert len(hub.requests) == 1


@pytest.mark.parametrize("fault", [ChangedEtag(), HtmlPage()])
def test_a_file_that_changes_between_ranges_is_never_mixed(hub: LoopbackHub, fault: Fault) -> None:
    url = hub.add_file("f", DATA)
    hub.fail_next(url, ShortBody(1000), fault)
    got = b""

    with HttpStream(url, sleep=Clock().sleep) as stream, pytest.raises(IntegrityError, match="changed while it was"):
        while data := stream.read(1 << 20):
            got += data
    assert got == DATA[:1000]


def test_a_file_that_is_replaced_by_a_shorter_one_is_never_mixed(hub: LoopbackHub) -> None:
    url = hub.add_file("f", DATA)
    gate = hub.hold(url)
    hub.fail_next(url, ShortBody(1000))
    errors: list[HubdistError] = []

    def read() -> None:
        try:
            read_all(url)
        except HubdistError as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    assert gate.wait_reached()
    hub.add_file("f", DATA[:500])
    gate.set()
    reader.join(20)

    assert [type(error) for error in errors] == [IntegrityError]


def test_a_change_before_any_byte_was_read_starts_again(hub: LoopbackHub) -> None:
    url = hub.add_file("f", DATA)
    hub.fail_next(url, ShortBody(10), ChangedEtag())

    with HttpStream(url, sleep=Clock().sleep) as stream:
        assert stream.etag == '"changed"'


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"weak"'}])
def test_without_a_validator_a_break_is_final(hub: LoopbackHub, headers: dict[str, str]) -> None:
    url = hub.add_file("f", DATA, validator="none", headers=headers)
    hub.fail_next(url, ShortBody(10), ShortBody(1000))

    with pytest.raises(OriginError, match="cannot be resumed: it names no ETag or Last-Modified"):
        read_all(url)
    assert len(hub.requests) == 2


def test_wrong_bytes_pass_here_because_only_a_digest_knows(hub: LoopbackHub) -> None:
    url = hub.add_file("f", DATA)
    hub.fail_next(url, WrongBytes(0))

    assert read_all(url) == bytes([DATA[0] ^ 1]) + DATA[1:]


def test_a_gzip_label_leaves_the_bytes_as_they_are(hub: LoopbackHub) -> None:
    url = hub.add_file("f.tar.gz", DATA, "application/x-tar", headers={"Content-Encoding": "gzip"})

    assert read_all(url) == DATA


def test_other_encodings_are_refused(hub: LoopbackHub) -> None:
    with pytest.raises(OriginError, match="in the encoding 'br'"):
        read_all(hub.add_file("f", DATA, headers={"Content-Encoding": "br"}))


def test_refused_connections_are_retried_and_named() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        clock = Clock()

        with pytest.raises(OriginError, match=r"failed 3 times in a row; last failure: .*Connection refused"):
            read_all(f"http://127.0.0.1:{port}/f", Deadlines(retries=2), clock=clock)
    assert len(clock.sleeps) == 2


def test_an_unknown_host_name_is_final_and_named() -> None:
    clock = Clock()
    with pytest.raises(OriginError, match=r"the name of unknown\.invalid does not resolve"):
        read_all("http://unknown.invalid/f", Deadlines(retries=1), clock=clock)
    assert clock.sleeps == []


def test_a_silent_name_server_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "temporary failure")

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    clock = Clock()
    with pytest.raises(OriginError, match=r"some\.example does not resolve: its name server is silent"):
        read_all("http://some.example/f", Deadlines(retries=2), clock=clock)
    assert len(clock.sleeps) == 2


# --- redirects, credentials, proxies -------------------------------------------------------------------------------


def test_redirects_are_followed_anew_for_each_try(hub: LoopbackHub) -> None:
    handle = hub.add_model("m/1", {"saved_model.pb": DATA}, redirect_to_storage=True)
    hub.fail_next("/storage/m/1.tar.gz", ShortBody(1000), Status(503))

    with HttpStream(handle + "?tf-hub-format=compressed", sleep=Clock().sleep) as stream:
        assert stream.final_url == hub.url + "/storage/m/1.tar.gz"
        while stream.read(1 << 20):
            pass
    assert [request.status for request in hub.requests] == [302, 200, 302, 503, 302, 206]
    assert hub.reads(handle) == 1


def test_redirects_are_few(hub: LoopbackHub) -> None:
    url = hub.add_redirect("loop", "/loop", 307)

    with pytest.raises(OriginError, match="redirects more than 5 times"):
        read_all(url)
    assert len(hub.requests) == 6


@pytest.mark.parametrize(
    "location",
    ["ftp://h/x", "file:///etc/passwd", "http://169.254.169.254/latest", "//metadata.google.internal/", "http://[::1"],
)
def test_redirects_to_elsewhere_are_not_followed(hub: LoopbackHub, location: str) -> None:
    url = hub.add_redirect("away", location)

    with pytest.raises(OriginError, match="redirects"):
        read_all(url)
    assert len(hub.requests) == 1


def test_credentials_go_to_their_own_host_only(hub: LoopbackHub) -> None:
    with LoopbackHub() as other:
        target = other.add_file("f", DATA)
        url = hub.add_redirect("a", "/b")
        hub.add_redirect("b", target.replace("//", "//planted:planted@"))

        data = read_all(url.replace("//", "//name:p%C3%A4ss@"), headers={"X-Token": "t"})

        assert data == DATA
        basic = "Basic bmFtZTpww6Rzcw=="
        assert [request.authorization for request in hub.requests] == [basic, basic]
        assert [request.authorization for request in other.requests] == [None]


def test_an_authorization_header_goes_to_its_own_host_only(hub: LoopbackHub) -> None:
    with LoopbackHub() as other:
        url = hub.add_redirect("a", other.add_file("f", DATA))

        assert read_all(url, headers={"Authorization": "Bearer x"}) == DATA
        assert [hub.requests[0].authorization, other.requests[0].authorization] == ["Bearer x", None]


def test_a_session_lends_its_authentication_and_stays_open(hub: LoopbackHub) -> None:
    url = hub.add_file("f", DATA)
    with requests.Session() as session:
        session.auth = ("name", "word")

        assert read_all(url, session=session) == DATA
        assert read_all(url, session=session) == DATA
    assert all(request.authorization for request in hub.requests)


def test_netrc_is_not_used_unless_it_is_passed(
    hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    assert read_all(hub.add_file("f", DATA)) == DATA
    assert hub.requests[0].authorization is None


def test_a_proxy_of_the_environment_is_asked(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", hub.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    hub.add_file("f", DATA)

    assert read_all("http://only-the-proxy-knows.invalid/f") == DATA
    assert hub.requests[0].path == "http://only-the-proxy-knows.invalid/f"


def test_a_missing_ca_bundle_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")

    with pytest.raises(OriginError, match="REQUESTS_CA_BUNDLE"):
        read_all("https://127.0.0.1:9/f")


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/x", "http://[fe80::1%25eth0]/x", "http://metadata.google.internal/"]
)
def test_metadata_addresses_are_never_asked(url: str) -> None:
    with pytest.raises(HandleError, match="metadata"):
        HttpStream(url)


@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254", "::ffff:169.254.169.254"])
def test_names_that_lead_to_metadata_addresses_are_never_asked(
    hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    def resolve(*_: Any, **__: Any) -> list[Any]:
        return [(0, 0, 0, "", ("127.0.0.1", 80)), (0, 0, 0, "", (address, 80))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)

    with pytest.raises(OriginError, match="link-local or metadata"):
        HttpStream(hub.add_file("f", DATA))
    assert hub.requests == []


# --- small texts -----------------------------------------------------------------------------------------------------


def test_the_uncompressed_location_is_fetched_with_retries(hub: LoopbackHub) -> None:
    handle = hub.add_model("m/1", {"f": b""}, uncompressed_location="gs://bucket/m/1")
    hub.fail_next(handle, Status(503), ShortBody(3), Reset(2))

    answer = fetch_text(handle + "?tf-hub-format=uncompressed", sleep=Clock().sleep)

    assert answer == (303, "gs://bucket/m/1")


def test_a_short_web_page_is_a_text_too(hub: LoopbackHub) -> None:
    status, text = fetch_text(hub.add_model("m/1", {"f": b""}))

    assert (status, text[:15]) == (200, "<!doctype html>")


def test_a_303_with_a_location_is_a_redirect(hub: LoopbackHub) -> None:
    hub.add_file("f", b"there")

    assert fetch_text(hub.add_redirect("r", "/f", 303)) == (200, "there")


@pytest.mark.parametrize(
    ("data", "headers", "message"),
    [
        (b"x" * 101, {}, "more than 100 bytes"),
        (b"\xff\xfe", {}, "bytes where a text"),
        (b"x", {"Content-Encoding": "gzip"}, "encoded text"),
    ],
)
def test_what_is_no_small_text_is_refused(hub: LoopbackHub, data: bytes, headers: dict[str, str], message: str) -> None:
    with pytest.raises(OriginError, match=message):
        fetch_text(hub.add_file("f", data, headers=headers), max_bytes=100)


def test_texts_fail_with_the_same_errors(hub: LoopbackHub) -> None:
    with pytest.raises(ModelNotFoundError, match="404"):
        fetch_text(hub.url + "/nothing")


# --- secrets ---------------------------------------------------------------------------------------------------------


def _refused_port() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}/f"


Scene = Callable[[LoopbackHub], str]


def _failing(*faults: Fault, **options: Any) -> Scene:
    def arrange(hub: LoopbackHub) -> str:
        url = hub.add_file("f", DATA, **options)
        hub.fail_next(url, *faults)
        return url

    return arrange


SCENES: dict[str, Scene] = {
    **{str(code): _failing(*[Status(code)] * 3) for code in (400, 401, 404, 503)},
    "short": _failing(*[ShortBody(1000), ShortBody(0), ShortBody(0), ShortBody(0)]),
    "reset": _failing(*[Reset(0)] * 3),
    "stall": _failing(*[Stall(0, 60)] * 3),
    "page": _failing(HtmlPage()),
    "changed": _failing(ShortBody(1000), ChangedEtag()),
    "no validator": _failing(ShortBody(1000), validator="none"),
    "encoding": _failing(headers={"Content-Encoding": "br"}),
    "refused": lambda _: _refused_port(),
    "unknown host": lambda _: "http://unknown.invalid/f",
    "metadata": lambda _: "http://169.254.169.254/f",
    "no scheme": lambda _: "gopher://h/f",
    "bad port": lambda _: "http://h:999999/f",
    "bad host": lambda _: f"http://{'a' * 80}.invalid/f",
    "loop": lambda hub: hub.add_redirect("f", f"/f?sig={CANARY}"),
    "redirect to nowhere": lambda hub: hub.add_redirect(
        "f", _refused_port().replace("//", f"//{CANARY}@") + f"?sig={CANARY}"
    ),
    "redirect to metadata": lambda hub: hub.add_redirect("f", f"http://{CANARY}@169.254.169.254/?sig={CANARY}"),
    "redirect to a bad port": lambda hub: hub.add_redirect("f", f"http://h:999999/?sig={CANARY}"),
    "tls to a plain port": lambda hub: hub.add_file("f", DATA).replace("http:", "https:"),
}


def fetch(url: str, deadlines: Deadlines) -> object:
    return fetch_text(url, deadlines, max_bytes=10, sleep=Clock().sleep)


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("read", [read_all, fetch])
def test_no_text_holds_a_secret(
    hub: LoopbackHub, caplog: pytest.LogCaptureFixture, scene: str, read: Callable[[str, Deadlines], object]
) -> None:
    caplog.set_level(logging.DEBUG)
    url = SCENES[scene](hub).replace("//", f"//{CANARY}:{CANARY}@", 1) + f"?X-Sig={CANARY}&{CANARY}"

    with pytest.raises(HubdistError) as caught:
        read(url, Deadlines(stall_s=0.1, retries=2))

    texts = [caplog.text]
    error: BaseException | None = caught.value
    while error is not None:
        texts += [str(error), repr(error), repr(error.__dict__), "".join(traceback.format_exception(error))]
        error = error.__cause__ or error.__context__
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    # The source lines that a traceback quotes are this test's own; they say CANARY and not its value.
    assert [text for text in texts if CANARY in text] == []


def test_headers_do_not_leak_through_requests_own_errors(hub: LoopbackHub) -> None:
    with pytest.raises(OriginError) as caught:
        read_all(hub.add_file("f", DATA), headers={"X-Token": f"{CANARY}\n"})
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None


def test_other_requests_keep_their_logs(hub: LoopbackHub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    url = hub.add_file("mine", DATA)
    read_all(url)
    assert "/mine" not in caplog.text

    requests.get(url, timeout=10)
    assert "GET /mine" in caplog.text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h/x/1", "https://h/x/1"),
        ("https://u:p@h:8/x", "https://***@h:8/x"),
        ("https://token@h/x", "https://***@h/x"),
        ("https://u:p@q@h/x", "https://***@h/x"),
        ("https://h/x?a=1&b=2;c=3", "https://h/x?a=***&b=***;c=***"),
        ("https://h/x?tf-hub-format=compressed&sig=s", "https://h/x?tf-hub-format=compressed&sig=***"),
        ("https://h/x?tf-hub-format=s3cret", "https://h/x?tf-hub-format=***"),
        ("https://h/x?s3cret", "https://h/x?***"),
        ("https://h/x?czNjcmV0==", "https://h/x?***"),
        ("https://h/x?next=https://i/y?sig=s#s", "https://h/x?next=***#***"),
        ("https://h/x#s3cret?a=b", "https://h/x#***"),
        ("zip://in::https://u:p@h/x.zip?sig=abc", "zip://in::https://***@h/x.zip?sig=***"),
        ("zip://in::gs://b/x", "zip://in::gs://b/x"),
        ("https://cdn.example/pkg@1.0/x.tgz", "https://cdn.example/pkg@1.0/x.tgz"),
        ("https://u:p/w@h/x", "https://***@h/x"),
        ("https://u:p?w@h/x", "https://***"),
        ("https://[::1]:80/x", "https://[::1]:80/x"),
        ("https://h:80", "https://h:80"),
        ("https:/u:p@h/x", "https:/***@h/x"),
        ("/data/a#1?", "/data/a#1?"),
        ("/data/what?/x", "/data/what?/x"),
        ("/data/x y@z", "/data/x y@z"),
        ("'https://u:p@h/x'", "'https://***@h/x'"),
        ("", ""),
    ],
)
def test_redacted_urls(url: str, shown: str) -> None:
    assert redact_url(url) == shown


@given(st.text("ab:/@?#=&;.[]% '", max_size=12), st.text("ab@:=&?", max_size=6), st.text("ab=&;#", max_size=6))
def test_redaction_hides_what_stands_where_secrets_stand(path: str, before: str, after: str) -> None:
    secret = "S3CRET"

    assert secret not in redact_url(f"https://u:{before}{secret}@h/{path}".replace("/" + secret, secret))
    assert secret not in redact_url(f"https://h/p?{before}k={secret}{after}")


# --- rules -----------------------------------------------------------------------------------------------------------

FIRST = FileIdentity('"e"', "Mon", 100)


def headers_of(**named: str) -> CaseInsensitiveDict[str]:
    return CaseInsensitiveDict({name.replace("_", "-"): value for name, value in named.items()})


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (FIRST, FIRST, True),
        (FIRST, FileIdentity('"e"', None, None), True),
        (FIRST, FileIdentity('"e"', "Tue", 100), True),
        (FIRST, FileIdentity('"e"', "Mon", 101), False),
        (FIRST, FileIdentity('"f"', "Mon", 100), False),
        (FIRST, FileIdentity(None, "Mon", 100), True),
        (FIRST, FileIdentity(None, "Mon", None), False),
        (FIRST, FileIdentity(None, None, 100), False),
        (FileIdentity('W/"e"', None, 100), FileIdentity('W/"e"', None, 100), False),
        (FileIdentity('W/"e"', "Mon", 100), FileIdentity('W/"e"', "Mon", 100), True),
        (FileIdentity('W/"e"', "Mon", 100), FileIdentity('W/"f"', "Mon", 100), False),
        (FileIdentity(None, None, 100), FileIdentity(None, None, 100), False),
    ],
)
def test_same_file(one: FileIdentity, other: FileIdentity, same: bool) -> None:
    assert (one.is_same_file(other), other.is_same_file(one)) == (same, same)


def test_if_range_names_a_strong_etag_or_a_date() -> None:
    assert resume_headers(0, None, "u") == {}
    assert resume_headers(5, FIRST, "u") == {"Range": "bytes=5-", "If-Range": '"e"'}
    assert resume_headers(5, FileIdentity('W/"e"', "Mon", 9), "u")["If-Range"] == "Mon"
    with pytest.raises(OriginError, match="cannot be resumed"):
        resume_headers(5, FileIdentity('W/"e"', None, 9), "u")


def test_a_fitting_part_continues() -> None:
    plan = plan_body(206, headers_of(Content_Range="bytes 40-99/100", ETag='"e"', Content_Length="60"), 40, FIRST, "u")
    assert (plan.skip, plan.stop) == (0, 100)


def test_a_part_that_stops_early_is_taken() -> None:
    assert plan_body(206, headers_of(Content_Range="bytes 40-49/100", ETag='"e"'), 40, FIRST, "u").stop == 50


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        (headers_of(ETag='"e"'), OriginError),
        (headers_of(Content_Range="bytes 39-99/100", ETag='"e"'), OriginError),
        (headers_of(Content_Range="bytes 41-99/100", ETag='"e"'), OriginError),
        (headers_of(Content_Range="bytes 40-30/100", ETag='"e"'), OriginError),
        (headers_of(Content_Range="lines 40-99/100", ETag='"e"'), OriginError),
        (headers_of(Content_Range="bytes 40-100/100", ETag='"e"'), LengthMismatchError),
        (headers_of(Content_Range="bytes 40-100/*", ETag='"e"'), LengthMismatchError),
        (headers_of(Content_Range="bytes 40-99/100", ETag='"e"', Content_Length="61"), LengthMismatchError),
        (headers_of(Content_Range="bytes 40-99/101", ETag='"e"'), IntegrityError),
        (headers_of(Content_Range="bytes 40-99/100", ETag='"f"'), IntegrityError),
        (headers_of(Content_Range="bytes 40-99/100"), IntegrityError),
    ],
)
def test_a_part_that_does_not_fit_is_refused(headers: CaseInsensitiveDict[str], kind: type[HubdistError]) -> None:
    with pytest.raises(kind) as caught:
        plan_body(206, headers, 40, FIRST, "u")
    assert type(caught.value) is kind


def test_a_whole_file_in_answer_to_a_range_is_skipped_into() -> None:
    plan = plan_body(200, headers_of(ETag='"e"', Content_Length="100"), 40, FIRST, "u")
    assert (plan.skip, plan.stop) == (40, 100)
    with pytest.raises(IntegrityError, match="changed while it was read"):
        plan_body(200, headers_of(ETag='"f"', Content_Length="100"), 40, FIRST, "u")


def test_a_part_that_nobody_asked_for_is_refused() -> None:
    with pytest.raises(OriginError, match="206"):
        plan_body(206, headers_of(Content_Range="bytes 0-99/100"), 0, None, "u")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        ("Mon, 05 Feb 2024 10:00:30 GMT", 30.0),
        ("Mon, 05 Feb 2024 10:00:30 -0000", 30.0),
        ("Mon, 05 Feb 2024 09:00:00 GMT", 0.0),
        ("soon", None),
        ("-3", None),
        ("9" * 5000, None),
        ("", None),
    ],
)
def test_retry_after(text: str | None, seconds: float | None) -> None:
    assert parse_retry_after(text, dt.datetime(2024, 2, 5, 10, tzinfo=dt.UTC)) == seconds


@given(st.integers(1, 10**6), st.one_of(st.none(), st.floats(0, 1e9)), st.floats(0, 1, exclude_max=True))
def test_waits_are_bounded(failures: int, asked_s: float | None, jitter: float) -> None:
    wait_s = retry_wait_s(failures, Deadlines(), retry_after_s=asked_s, jitter=jitter)

    assert 0.25 <= wait_s <= 60.0
    assert wait_s >= min(asked_s or 0.0, 60.0)
    assert asked_s or wait_s <= 20.0


@pytest.mark.parametrize(
    ("kind", "start", "is_page"),
    [
        ("text/html; charset=utf-8", b"\x1f\x8b", True),
        (None, b"\xef\xbb\xbf\r\n<HTML>", True),
        (None, b"<!DOCTYPE html>", True),
        ("application/x-tar", b"\x1f\x8b", False),
        (None, b"", False),
    ],
)
def test_web_pages(kind: str | None, start: bytes, is_page: bool) -> None:
    assert looks_like_html(kind, start) == is_page


@pytest.mark.parametrize(
    ("base", "location", "target"),
    [
        ("https://h/a/b", "c?d=e#f", "https://h/a/c?d=e"),
        ("http://h/a", "https://h/b", "https://h/b"),
        ("http://h/a", "//u:p@i:8/b", "http://i:8/b"),
        ("https://h/a", "https://i/b", "https://i/b"),
    ],
)
def test_redirects_that_are_followed(base: str, location: str, target: str) -> None:
    assert redirect_target(base, location) == target


@pytest.mark.parametrize(
    "location",
    [
        "http://h/b",
        "http://i/b",
        "ftp://h/b",
        "https://169.254.1.1/",
        "https://h:x/",
        r"https://a\b/",
        "https://[/",
    ],
)
def test_redirects_that_are_not_followed(location: str) -> None:
    with pytest.raises(OriginError, match="redirects"):
        redirect_target("https://h/a", location)


@pytest.mark.parametrize(
    "url", ["ftp://h/x", "h/x", "http://", "http://h:0/", "http://h\n/", r"http://a\@b/", "http://h:z/"]
)
def test_urls_that_are_not_asked(url: str) -> None:
    with pytest.raises(HandleError):
        check_url(url)


@pytest.mark.parametrize(
    ("address", "forbidden"),
    [
        ("169.254.169.254", True),
        ("169.254.0.1", True),
        ("100.100.100.200", True),
        ("fd00:ec2::254", True),
        ("fe80::1%eth0", True),
        ("::ffff:169.254.169.254", True),
        ("64:ff9b::a9fe:a9fe", True),
        ("2002:a9fe:a9fe::1", True),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("::1", False),
        ("fd00::1", False),
        ("tfhub.dev", False),
    ],
)
def test_forbidden_addresses(address: str, forbidden: bool) -> None:
    assert is_forbidden_address(address) == forbidden


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://h/a", "https://h:443/b", True),
        ("https://h/a", "https://H./b", True),
        ("https://h/a", "http://h/b", False),
        ("https://h/a", "https://h:444/b", False),
        ("https://h/a", "https://i.h/b", False),
    ],
)
def test_same_origin(one: str, other: str, same: bool) -> None:
    assert same_origin(one, other) == same


def test_an_untrusted_certificate_fails_at_once_with_advice() -> None:
    cause = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error = requests.exceptions.SSLError(
        urllib3.exceptions.MaxRetryError(None, f"/x?{CANARY}", urllib3.exceptions.SSLError(cause))  # type: ignore[arg-type]
    )

    told = request._describe(error, "https://h/x", DEADLINES)

    assert isinstance(told, OriginError)
    assert "REQUESTS_CA_BUNDLE" in str(told)
