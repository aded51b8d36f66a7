"""The answers of a `LoopbackHub`, as pure functions of a file, a request's headers and a fault; and the faults.

There is one class for each kind of fault, to pass to `LoopbackHub.fail_next`.
"""

from __future__ import annotations

import gzip
import hashlib
import html
import io
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

_LAST_MODIFIED = "Mon, 05 Feb 2024 10:00:00 GMT"
_CHANGED = "Tue, 06 Feb 2024 10:00:00 GMT"


@dataclass(frozen=True, slots=True)
class ShortBody:
    """Close the connection in good order after `after_bytes` bytes of the body, although Content-Length says more."""

    after_bytes: int


@dataclass(frozen=True, slots=True)
class Reset:
    """Reset the connection (TCP RST) after `after_bytes` bytes of the body."""

    after_bytes: int


@dataclass(frozen=True, slots=True)
class Stall:
    """Send nothing for `seconds` after `after_bytes` bytes of the body, then the rest; a hub that closes ends it."""

    after_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Status:
    """Answer with the status `code`, and with a Retry-After header if one is given (seconds, or an HTTP date)."""

    code: int
    retry_after: int | str | None = None


@dataclass(frozen=True, slots=True)
class WrongBytes:
    """Flip one bit of the byte at offset `flip_at` of the file."""

    flip_at: int


@dataclass(frozen=True, slots=True)
class HtmlPage:
    """Answer with a web page and status 200, as a captive portal does."""


@dataclass(frozen=True, slots=True)
class ChangedEtag:
    """Send another ETag and Last-Modified with this one answer, as if the file had been replaced."""


@dataclass(frozen=True, slots=True)
class IgnoreRange:
    """Ignore the Range header: answer with status 200 and the whole file."""


Fault = ShortBody | Reset | Stall | Status | WrongBytes | HtmlPage | ChangedEtag | IgnoreRange
"""Any fault."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file that the hub serves.

    Attributes:
        data: The bytes of the file.
        content_type: The Content-Type header.
        headers: Further headers; an If-Range header of a request is compared with ETag and Last-Modified.
        chunked: True sends the file in chunks, without a Content-Length.
        counted_as: The path of the handle that reads of the file count for.
    """

    data: bytes
    content_type: str
    headers: Mapping[str, str]
    chunked: bool = False
    counted_as: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers and body of one answer.

    Attributes:
        status: The HTTP status.
        body: All bytes to send.
        headers: All headers but Content-Length.
        chunked: True sends the body in chunks.
        counted_as: The path of the handle whose bytes these are; "" for other answers.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    chunked: bool = False
    counted_as: str = ""


def validators(data: bytes) -> dict[str, str]:
    """The headers by which a client tells whether a file changed: an ETag of its bytes, and a fixed Last-Modified."""
    return {"ETag": f'"{hashlib.sha256(data).hexdigest()[:32]}"', "Last-Modified": _LAST_MODIFIED}


def html_page(title: str) -> Answer:
    """A small web page, as tfhub.dev showed one for a handle without a query."""
    page = f"<!doctype html>\n<html><head><title>{html.escape(title)}</title></head><body></body></html>\n"
    return Answer(200, page.encode(), {"Content-Type": "text/html; charset=utf-8"})


def text_answer(status: int, text: str, headers: Mapping[str, str] | None = None) -> Answer:
    """A plain text, such as an error or the location of an uncompressed model.

    Args:
        status: The HTTP status.
        text: The body.
        headers: Further headers; None for none.
    """
    return Answer(status, text.encode(), {"Content-Type": "text/plain; charset=utf-8", **(headers or {})})


def fault_answer(fault: Fault | None) -> Answer | None:
    """The answer that a fault gives instead of any other; None if the fault only changes another answer."""
    if isinstance(fault, HtmlPage):
        return html_page("Log in")
    if isinstance(fault, Status):
        headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
        return text_answer(fault.code, "a fault\n", headers)
    return None


def file_answer(file: HubFile, asked_range: str | None, if_range: str | None, fault: Fault | None) -> Answer:
    """A file, or the range of it that was asked for.

    Args:
        file: The file.
        asked_range: The Range header, or None; several ranges or other units are ignored, as RFC 9110 allows.
        if_range: The If-Range header, or None; if the file has other validators, the range is ignored.
        fault: The fault to produce, or None.
    """
    data, headers = file.data, {"Content-Type": file.content_type, "Accept-Ranges": "bytes", **file.headers}
    if isinstance(fault, WrongBytes):
        data = data[: fault.flip_at] + bytes([data[fault.flip_at] ^ 1]) + data[fault.flip_at + 1 :]
    if isinstance(fault, ChangedEtag):
        headers |= {"ETag": '"changed"', "Last-Modified": _CHANGED}
    if if_range is not None and if_range not in (headers.get("ETag"), headers.get("Last-Modified")):
        asked_range = None
    whole = Answer(200, data, headers, file.chunked, file.counted_as)
    bounds = None if isinstance(fault, IgnoreRange) else _parse_range(asked_range or "", len(data))
    if bounds is None:
        return whole
    start, end = bounds
    if start >= end:
        return text_answer(416, "no such range\n", {"Content-Range": f"bytes */{len(data)}"})
    content_range = {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
    return replace(whole, status=206, body=data[start:end], headers=headers | content_range)


def pack_model(files: Mapping[str, bytes] | Path) -> bytes:
    """Pack a model as a tar.gz with the files at its root; the same files give the same bytes.

    Each directory has a member in front of its files: tensorflow_hub, which should be able to read this too, makes no
    directory that is not named.

    Args:
        files: Path in the model -> content, or the model's directory.
    """
    if isinstance(files, Path):
        root = files
        files = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    packed = io.BytesIO()
    # mtime=0 keeps the time of day out of the gzip header.
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as archive,
    ):
        for folder in sorted({str(parent) for path in files for parent in PurePosixPath(path).parents} - {"."}):
            directory = tarfile.TarInfo(folder)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(directory)
        for path, data in sorted(files.items()):
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def _parse_range(text: str, size: int) -> tuple[int, int] | None:
    """Start (included) and end (excluded); an empty range if the file has no such byte; None if it is to be ignored."""
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", text.strip())
    if asked is None or asked[0] == "bytes=-":
        return None
    if not asked[1]:
        return max(0, size - int(asked[2])), size
    end = min(size, int(asked[2]) + 1) if asked[2] else size
    return min(int(asked[1]), end), end
