"""Decisions of an HTTP read: what is tried again, where the read resumes, and which bytes must not be mixed.

PURE: functions of statuses, headers and offsets, for `hubdist.origins.http.stream` and `request`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from hubdist.errors import (
    AccessDeniedError,
    HubdistError,
    IntegrityError,
    LengthMismatchError,
    ModelNotFoundError,
    OriginError,
)
from hubdist.system.faults import Diagnosis, Fault
from hubdist.system.mends import CREDENTIALS, error_for

RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses of failures that may pass."""

SNIFF_BYTES = 64
"""How many first bytes of a body `looks_like_html` needs."""

_STRONG_ETAG = re.compile(r'"[^"]*"')
_CONTENT_RANGE = re.compile(r"bytes\s+(\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_HTML_STARTS = (b"<!doctype html", b"<html", b"<head")


def status_error(status: int, redacted: str) -> HubdistError:
    """The error for a status that brings no bytes and that a retry cannot mend.

    Args:
        status: The HTTP status.
        redacted: The URL, secrets removed.
    """
    if status in (401, 403):
        return AccessDeniedError(f"{redacted} answered {status}", advice=CREDENTIALS["http"])
    if status in (404, 410):
        return ModelNotFoundError(f"{redacted} answered {status}: there is nothing", advice="Check the handle.")
    if status == 407:
        return error_for(Diagnosis(Fault.PROXY, "the proxy answered 407"), redacted, name="status 407")
    return OriginError(f"{redacted} answered with status {status}, which brings no model")


def looks_like_html(content_type: str | None, first_bytes: bytes) -> bool:
    """True for a web page, such as a proxy's login page or a landing page, in place of the model.

    Args:
        content_type: The Content-Type header, or None if the answer has none.
        first_bytes: The first `SNIFF_BYTES` of the body, fewer if the body is shorter.
    """
    kind = (content_type or "").partition(";")[0].strip().lower()
    text = first_bytes.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return kind in ("text/html", "application/xhtml+xml") or text.startswith(_HTML_STARTS)


def check_encoding(headers: Mapping[str, str], redacted: str) -> None:
    """Refuse a body in an encoding that was not asked for.

    Gzip passes, because servers use it unasked: for files that were uploaded compressed, and as a label of .tar.gz
    files.

    Args:
        headers: Of the answer; a mapping that ignores case.
        redacted: The URL, secrets removed.

    Raises:
        OriginError: The body has another encoding than gzip.
    """
    encoding = _encoding(headers)
    if encoding not in ("", "identity") and not is_gzipped(headers):
        raise OriginError(f"{redacted} answered in the encoding {encoding[:40]!r}, although none was asked for")


def is_gzipped(headers: Mapping[str, str]) -> bool:
    """True if the headers say that the body is a gzip of the file."""
    return _encoding(headers) in ("gzip", "x-gzip")


def _encoding(headers: Mapping[str, str]) -> str:
    return headers.get("Content-Encoding", "").strip().lower()


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What an answer's headers say about the identity of the file.

    Attributes:
        etag: ETag as sent, or None.
        last_modified: Last-Modified as sent, or None.
        length: Bytes of the whole file, or None if unknown.
    """

    etag: str | None
    last_modified: str | None
    length: int | None

    @classmethod
    def of(cls, headers: Mapping[str, str], length: int | None) -> Self:
        """Read the identity from an answer's headers.

        Args:
            headers: Of the answer; a mapping that ignores case.
            length: Bytes of the whole file, or None if unknown.
        """
        return cls(headers.get("ETag") or None, headers.get("Last-Modified") or None, length)

    @property
    def validator(self) -> str | None:
        """The value for If-Range: a strong ETag, else Last-Modified, else None."""
        return self.etag if self._is_strong() else self.last_modified

    def is_same_file(self, other: FileIdentity) -> bool:
        """True only if both answers are certainly of the same bytes.

        They are with equal strong ETags, or with equal Last-Modified and length where the ETags do not contradict. A
        weak ETag promises the same meaning, not the same bytes.
        """
        if self.length is not None and other.length is not None and self.length != other.length:
            return False
        if self.etag is not None and other.etag is not None:
            if self.etag != other.etag:
                return False
            if self._is_strong():
                return True
        return (
            self.last_modified is not None
            and self.last_modified == other.last_modified
            and self.length is not None
            and self.length == other.length
        )

    def _is_strong(self) -> bool:
        return self.etag is not None and _STRONG_ETAG.fullmatch(self.etag) is not None


@dataclass(frozen=True, slots=True)
class BodyPlan:
    """How the body of an answer continues the download.

    Attributes:
        skip: How many first bytes of the body were read before and are dropped.
        stop: Offset in the file at which the body ends (excluded), or None if the answer does not say.
        identity: Which file the body is of.
    """

    skip: int
    stop: int | None
    identity: FileIdentity


def resume_headers(at: int, first: FileIdentity | None, redacted: str) -> dict[str, str]:
    """Headers of a request for the bytes from offset `at` on.

    Args:
        at: Bytes of the file that were read already.
        first: The file that those bytes came from; None before the first answer.
        redacted: The URL, secrets removed.

    Raises:
        OriginError: Bytes were read, and the first answer named no validator that would tie further bytes to them.
    """
    if at == 0:
        return {}
    if first is None or first.validator is None:
        raise OriginError(
            f"{redacted} broke off at byte {at} and cannot be resumed: it names no ETag or Last-Modified",
            advice="Load again: the download then starts at its beginning.",
        )
    return {"Range": f"bytes={at}-", "If-Range": first.validator}


def plan_body(status: int, headers: Mapping[str, str], at: int, first: FileIdentity | None, redacted: str) -> BodyPlan:
    """Decide how an answer continues a download that has reached offset `at`.

    Args:
        status: 200, 206 or 416; anything else is refused.
        headers: Of the answer; a mapping that ignores case.
        at: Bytes that were read already.
        first: The file that those bytes came from. Ignored if `at` is 0, because then any file is a right one.
        redacted: The URL, secrets removed.

    Raises:
        IntegrityError: The file is another one than before, or not certainly the same.
        LengthMismatchError: The answer goes beyond the end of the file, or its length contradicts its range.
        OriginError: The status or the range is not what was asked for.
    """
    if status == 206 and at:
        plan = _plan_part(headers, at, first, redacted)
    elif status == 200:
        length = _content_length(headers)
        plan = BodyPlan(at, length, FileIdentity.of(headers, length))
    elif status == 416 and at:
        raise IntegrityError(f"{redacted} changed while it was read: it has no byte {at} any more")
    else:
        raise status_error(status, redacted)
    if at and (first is None or not first.is_same_file(plan.identity)):
        raise IntegrityError(
            f"{redacted} changed while it was read, or does not say that it is the same; stopped at byte {at}",
            advice="Load again.",
        )
    return plan


def _plan_part(headers: Mapping[str, str], at: int, first: FileIdentity | None, redacted: str) -> BodyPlan:
    part = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
    if part is None or int(part[1]) != at or int(part[2]) < at:
        raise OriginError(f"{redacted} was asked for bytes from {at} on and answered with another range")
    stop, total = int(part[2]) + 1, None if part[3] == "*" else int(part[3])
    known = first.length if first is not None else None
    ends = [end for end in (total, known) if end is not None]
    if any(stop > end for end in ends):
        raise LengthMismatchError(f"{redacted} answered with bytes up to {stop} of a file of {min(ends)} bytes")
    if _content_length(headers) not in (None, stop - at):
        raise LengthMismatchError(f"{redacted} answered with a length that contradicts its range")
    return BodyPlan(0, stop, FileIdentity.of(headers, total))


def _content_length(headers: Mapping[str, str]) -> int | None:
    # RFC 9112, section 6.3: a transfer coding overrides Content-Length.
    text = headers.get("Content-Length", "").strip()
    if "Transfer-Encoding" in headers or not re.fullmatch(r"\d{1,18}", text):
        return None
    return int(text)
