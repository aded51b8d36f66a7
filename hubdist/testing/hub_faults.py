"""The faults that a `LoopbackHub` produces on demand: one class for each kind, to pass to `LoopbackHub.fail_next`."""

from __future__ import annotations

from dataclasses import dataclass


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
