"""The loopback hub: TensorFlow Hub's protocol, counts, faults, gates, and nothing left over."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import urllib3.exceptions

from hubdist.testing.hub import (
    ChangedEtag,
    HtmlPage,
    IgnoreRange,
    LoopbackHub,
    Reset,
    ShortBody,
    Stall,
    Status,
    WrongBytes,
)

FILES = {"saved_model.pb": b"graph", "variables/variables.index": b"index" * 100}
DATA = bytes(range(256)) * 400


@pytest.fixture
def http() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


def test_a_compressed_model_is_a_tar_gz_with_the_files_at_its_root(hub: LoopbackHub, http: requests.Session) -> None:
    handle = hub.add_model("google/nnlm/2", FILES)

    answer = http.get(f"{handle}?tf-hub-format=compressed")

    assert handle == f"{hub.url}/google/nnlm/2"
    with tarfile.open(fileobj=io.BytesIO(answer.content), mode="r:gz") as archive:
        assert {each.name: archive.extractfile(each).read() for each in archive if each.isfile()} == FILES  # type: ignore[union-attr]


def test_a_directory_gives_the_same_archive_as_its_files(
    hub: LoopbackHub, http: requests.Session, tmp_path: Path
) -> None:
    for path, data in FILES.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(data)
    one, other = hub.add_model("a/1", FILES), hub.add_model("b/1", tmp_path)

    bodies = {http.get(f"{handle}?tf-hub-format=compressed").content for handle in (one, other)}

    assert len(bodies) == 1


def test_the_uncompressed_form_is_a_303_with_the_location_as_its_body(hub: LoopbackHub, http: requests.Session) -> None:
    handle = hub.add_model("m/1", FILES, uncompressed_location="gs://bucket/m/1")
    plain = hub.add_model("m/2", FILES)

    answer = http.get(f"{handle}?tf-hub-format=uncompressed")

    assert (answer.status_code, answer.text) == (303, "gs://bucket/m/1")
    assert "Location" not in answer.headers
    assert http.get(f"{plain}?tf-hub-format=uncompressed").status_code == 404


def test_the_bare_handle_is_a_web_page_and_the_unknown_is_404(hub: LoopbackHub, http: requests.Session) -> None:
    handle = hub.add_model("m/1", FILES)

    assert http.get(handle).headers["Content-Type"].startswith("text/html")
    assert http.get(hub.url + "/nothing").status_code == 404
    assert hub.reads(handle) == 0


def test_the_archive_behind_a_redirect_counts_for_its_handle(hub: LoopbackHub, http: requests.Session) -> None:
    handle = hub.add_model("m/1", FILES, redirect_to_storage=True)

    answer = http.get(f"{handle}?tf-hub-format=compressed")

    assert answer.url == f"{hub.url}/storage/m/1.tar.gz"
    assert [request.status for request in hub.requests] == [302, 200]
    assert hub.reads(handle) == 1


@pytest.mark.parametrize(
    ("asked", "status", "body", "content_range"),
    [
        ("bytes=10-", 206, DATA[10:], f"bytes 10-{len(DATA) - 1}/{len(DATA)}"),
        ("bytes=10-19", 206, DATA[10:20], f"bytes 10-19/{len(DATA)}"),
        ("bytes=-5", 206, DATA[-5:], f"bytes {len(DATA) - 5}-{len(DATA) - 1}/{len(DATA)}"),
        ("bytes=0-0", 206, DATA[:1], f"bytes 0-0/{len(DATA)}"),
        (f"bytes={len(DATA)}-", 416, None, f"bytes */{len(DATA)}"),
        ("bytes=1-2,5-6", 200, DATA, None),
        ("lines=1-2", 200, DATA, None),
    ],
)
def test_ranges(
    hub: LoopbackHub, http: requests.Session, asked: str, status: int, body: bytes | None, content_range: str | None
) -> None:
    answer = http.get(hub.add_file("f.bin", DATA), headers={"Range": asked})

    assert (answer.status_code, answer.headers.get("Content-Range")) == (status, content_range)
    assert body is None or answer.content == body


def test_if_range_with_another_validator_gives_the_whole_file(hub: LoopbackHub, http: requests.Session) -> None:
    url = hub.add_file("f.bin", DATA)
    sent = http.head(url).headers

    def status(validator: str) -> int:
        return http.get(url, headers={"Range": "bytes=5-", "If-Range": validator}).status_code

    assert [status(sent["ETag"]), status(sent["Last-Modified"]), status('"other"')] == [206, 206, 200]


def test_head_has_the_headers_and_no_body(hub: LoopbackHub, http: requests.Session) -> None:
    answer = http.head(hub.add_file("f.bin", DATA, "application/x-tar"))

    assert (answer.content, answer.headers["Content-Length"]) == (b"", str(len(DATA)))
    assert answer.headers["Content-Type"] == "application/x-tar"
    assert hub.requests[0].method == "HEAD"
    assert hub.reads("f.bin") == 0


def test_requests_say_what_was_asked_and_sent(hub: LoopbackHub, http: requests.Session) -> None:
    url = hub.add_file("f.bin", DATA)

    http.get(url + "?x=1", headers={"Range": "bytes=0-9"}, auth=("user", "word"))
    http.get(url, headers={"Range": "bytes=10-"})

    first, second = hub.requests
    assert (first.method, first.path, first.range, first.status) == ("GET", "/f.bin?x=1", "bytes=0-9", 206)
    assert (first.bytes_sent, second.bytes_sent) == (10, len(DATA) - 10)
    assert first.authorization is not None
    assert second.authorization is None
    assert hub.reads(url) == 1


def test_chunked_files_have_no_length(hub: LoopbackHub, http: requests.Session) -> None:
    answer = http.get(hub.add_file("f.bin", DATA, chunked=True, headers={"X-Own": "1"}, validator="none"))

    assert answer.content == DATA
    assert answer.headers["X-Own"] == "1"
    assert not {"Content-Length", "ETag", "Last-Modified"} & set(answer.headers)


def test_adding_a_path_again_replaces_it_and_its_etag(hub: LoopbackHub, http: requests.Session) -> None:
    before = http.get(hub.add_file("f.bin", b"one")).headers["ETag"]

    answer = http.get(hub.add_file("f.bin", b"two"))

    assert answer.content == b"two"
    assert answer.headers["ETag"] != before


def test_faults_come_once_each_and_in_order(hub: LoopbackHub, http: requests.Session) -> None:
    url = hub.add_file("f.bin", DATA)
    etag = http.head(url).headers["ETag"]
    hub.fail_next(url, Status(503, retry_after=7), HtmlPage(), ChangedEtag(), IgnoreRange(), WrongBytes(3))

    unavailable, page, changed = http.get(url), http.get(url), http.get(url)
    whole, wrong, right = (http.get(url, headers={"Range": "bytes=2-"}) for _ in range(3))

    assert (unavailable.status_code, unavailable.headers["Retry-After"]) == (503, "7")
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert changed.headers["ETag"] != etag
    assert (whole.status_code, whole.content) == (200, DATA)
    assert wrong.content == DATA[2:3] + bytes([DATA[3] ^ 1]) + DATA[4:]
    assert right.content == DATA[2:]


@pytest.mark.parametrize(
    ("fault", "reason"), [(ShortBody(1000), "IncompleteRead"), (Reset(1000), "Connection reset by peer")]
)
def test_broken_bodies_break_as_they_are_called(
    hub: LoopbackHub, http: requests.Session, fault: ShortBody | Reset, reason: str
) -> None:
    url = hub.add_file("f.bin", DATA)
    hub.fail_next(url, fault)

    with pytest.raises((requests.RequestException, urllib3.exceptions.HTTPError), match=reason):
        http.get(url)
    assert hub.requests[0].bytes_sent == 1000


def test_a_stall_goes_on_after_its_time(hub: LoopbackHub, http: requests.Session) -> None:
    url = hub.add_file("f.bin", DATA)
    hub.fail_next(url, Stall(10, seconds=0.1))

    assert http.get(url).content == DATA


def test_a_held_answer_waits_in_its_middle(hub: LoopbackHub, http: requests.Session) -> None:
    url = hub.add_file("f.bin", DATA)
    gate = hub.hold(url)
    bodies: list[bytes] = []
    reader = threading.Thread(target=lambda: bodies.append(http.get(url).content))

    reader.start()
    assert gate.wait_reached()
    assert (bodies, hub.requests[0].bytes_sent, gate.is_set()) == ([], len(DATA) // 2, False)
    gate.set()
    reader.join(10)

    assert bodies == [DATA]


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("kind", ["stall", "hold", "silent connection"])
def test_closing_ends_everything_and_leaves_nothing(kind: str) -> None:
    threads, files = set(threading.enumerate()), open_files()
    with LoopbackHub() as hub, requests.Session() as http:
        http.trust_env = False
        url = hub.add_file("f.bin", DATA)
        gate = hub.hold(url)
        if kind == "stall":
            gate.set()
            hub.fail_next(url, Stall(10, seconds=600))
        if kind == "silent connection":
            gate.set()
        answer = http.get(url, stream=True)
        answer.raw.read(5)
        hub.close()
        answer.close()

    assert set(threading.enumerate()) == threads
    assert open_files() == files


def test_other_processes_can_read_from_it(hub: LoopbackHub) -> None:
    url = hub.add_file("f.bin", b"hello")
    program = "import sys, urllib.request as r; print(r.build_opener(r.ProxyHandler({})).open(sys.argv[1]).read())"

    done = subprocess.run([sys.executable, "-c", program, url], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == "b'hello'"


def test_many_readers_at_once_are_all_counted(hub: LoopbackHub) -> None:
    url = hub.add_file("f.bin", DATA)

    def read() -> None:
        with requests.Session() as session:
            session.trust_env = False
            assert session.get(url).content == DATA

    readers = [threading.Thread(target=read) for _ in range(20)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(30)

    assert hub.reads(url) == 20
    assert sum(request.bytes_sent for request in hub.requests) == 20 * len(DATA)
