"""What a `LoopbackHub` can do wrong, one frozen value per fault."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ShortBody:
    """The connection closes in good order after `after_bytes` of the body, although more was promised."""

    after_bytes: int


@dataclass(frozen=True, slots=True)
class Reset:
    """The connection is reset (TCP RST) after `after_bytes` of the body."""

    after_bytes: int


@dataclass(frozen=True, slots=True)
class Stall:
    """Nothing comes for `seconds` after `after_bytes` of the body; then the rest does. Ends early with the hub."""

    after_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Status:
    """The answer is this status, with a Retry-After header (seconds, or an HTTP date) if one is given."""

    code: int
    retry_after: int | str | None = None


@dataclass(frozen=True, slots=True)
class WrongBytes:
    """One bit of the byte at offset `flip_at` of the file is flipped."""

    flip_at: int


@dataclass(frozen=True, slots=True)
class HtmlPage:
    """The answer is a web page with status 200, as of a captive portal."""


@dataclass(frozen=True, slots=True)
class ChangedEtag:
    """The file has another ETag and Last-Modified for this one answer, as if it had been replaced."""


@dataclass(frozen=True, slots=True)
class IgnoreRange:
    """A Range header is ignored: status 200 and the whole file."""


Fault = ShortBody | Reset | Stall | Status | WrongBytes | HtmlPage | ChangedEtag | IgnoreRange
