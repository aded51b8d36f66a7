"""What an exception of an HTTP library holds of the server's answer: status, headers, the code of a storage service.

The libraries are not imported: their exceptions are known by the attributes that they keep.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

_MAX_CAUSES = 8
_MAX_SKEW_S = 300.0
"""Storage services accept signatures that are a few minutes old, S3 up to 15."""


def raised_from(error: BaseException) -> Iterator[BaseException]:
    """An exception and the exceptions that it was raised from, the last one first."""
    current: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if current is None:
            return
        yield current
        current = current.__cause__


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an exception of requests, aiohttp, httpx, botocore, azure or gcsfs holds."""
    held = vars(error)
    response: Any = held.get("response")
    if isinstance(response, dict):  # botocore
        metadata = response.get("ResponseMetadata")
        found = [metadata.get("HTTPStatusCode")] if isinstance(metadata, dict) else []
    else:
        found = [getattr(response, name, None) for name in ("status_code", "status")]
    found += [held.get(name) for name in ("code", "status", "status_code")]
    return next((each for each in found if type(each) is int and 400 <= each < 600), None)


def header_of(error: BaseException, name: str) -> str | None:
    """A header of the answer that an exception holds, whatever the case of its name."""
    held = vars(error)
    response: Any = held.get("response")
    headers: Any = getattr(response, "headers", None) or held.get("headers")
    if isinstance(response, dict):
        metadata = response.get("ResponseMetadata")
        headers = metadata.get("HTTPHeaders") if isinstance(metadata, dict) else None
    if not isinstance(headers, Mapping):
        return None
    return next((str(value) for key, value in headers.items() if str(key).lower() == name), None)


def code_of(error: BaseException) -> str:
    """The code by which a storage service names a failure, where botocore keeps it; "" without one."""
    response = vars(error).get("response")
    answer = response.get("Error") if isinstance(response, dict) else None
    return str(answer.get("Code")) if isinstance(answer, dict) else ""


def retry_after_s(error: BaseException, now: dt.datetime | None = None) -> float | None:
    """Seconds that a server asks to wait before the next try, or None if the exception holds no such answer.

    Args:
        error: The exception.
        now: The time to subtract from a date; None is now.
    """
    asked = (header_of(cause, "retry-after") for cause in raised_from(error))
    return parse_retry_after(next((each for each in asked if each), None), now or dt.datetime.now(dt.UTC))


def parse_retry_after(text: str | None, now: dt.datetime) -> float | None:
    """Seconds that a Retry-After header asks for.

    Source: RFC 9110, section 10.2.3: seconds, or an HTTP date.

    Args:
        text: The header's value, or None if the answer has no such header.
        now: The time to subtract from a date.

    Returns:
        Seconds, at least 0; None without the header, or if its value cannot be parsed.
    """
    if text is None:
        return None
    if re.fullmatch(r"\d{1,9}", text.strip()):
        return float(text)
    when = _date(text)
    return None if when is None else max(0.0, (when - now).total_seconds())


def has_wrong_clock(error: BaseException) -> bool:
    """True if the server that refused has another time than this node."""
    when = _date(header_of(error, "date") or "")
    return when is not None and abs((dt.datetime.now(dt.UTC) - when).total_seconds()) > _MAX_SKEW_S


def host_of(inside: Sequence[BaseException]) -> str:
    """The host that a library could not talk to, from where aiohttp, urllib3, botocore and httpx keep it."""
    for cause in inside:
        held = vars(cause)
        kept = held.get("kwargs")
        request = held.get("request") or held.get("_request")
        found = (
            getattr(cause, "host", None),
            getattr(getattr(cause, "pool", None), "host", None),
            urlsplit(str(kept.get("endpoint_url", ""))).hostname if isinstance(kept, dict) else None,
            getattr(getattr(request, "url", None), "host", None),
        )
        for each in found:
            if isinstance(each, str) and re.fullmatch(r"[A-Za-z0-9.:_-]{1,253}", each):
                return each
    return ""


def _date(text: str) -> dt.datetime | None:
    try:
        when = email.utils.parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return when.replace(tzinfo=dt.UTC) if when.tzinfo is None else when
