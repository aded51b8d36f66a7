"""The boundary to foreign code, of libraries and users: turns whatever it raises into an error of hubdist.

The texts of foreign exceptions may hold URLs with signatures, headers and keys. So only the kind of an exception is
taken over, in words of hubdist, and the exception itself is not in the new error's chain. KeyboardInterrupt and the
like are not translated.
"""

from __future__ import annotations

import enum
import errno
import http.client
import logging
import os
import re
import tarfile
import traceback
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from hubdist.errors import (
    AccessDeniedError,
    HubdistError,
    IntegrityError,
    ModelNotFoundError,
    OriginError,
    StoreFullError,
    TransferTimeoutError,
)

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError)
_LASTING = (IsADirectoryError, NotADirectoryError, ValueError)
"""Classes of OSErrors that another try cannot mend; a ValueError can be one (`io.UnsupportedOperation`)."""

_MISSING_NAMES = frozenset(
    {
        *("NotFoundError", "ResourceNotFoundError", "RepositoryNotFoundError", "RevisionNotFoundError"),
        *("EntryNotFoundError", "RemoteEntryNotFoundError", "BucketNotFoundError", "NoSuchKey", "NoSuchBucket"),
    }
)
_UNTRUSTED_NAME = re.compile(r"Certificate|CertVerification")
_DENIED_NAME = re.compile(r"Credential|Auth|Forbidden|AccessDenied|GatedRepo|TokenNotFound")
_LATE_NAME = re.compile(r"Timeout|TimedOut")
_PASSING_NAME = re.compile(
    r"Connect|Transport|Network|Disconnect|IncompleteRead|Protocol|ServiceRe(?:quest|sponse)|Payload|HTTPClientError"
    r"|ResponseStreaming|Throttl|SlowDown|TooManyRequests|ServiceUnavailable|Checksum|\bHttpError\b"
)
_MAX_CAUSES = 8


class Fault(enum.Enum):
    """The kinds of failure that hubdist tells apart, whichever library reports them."""

    MISSING = enum.auto()
    DENIED = enum.auto()
    LATE = enum.auto()
    INTERRUPTED = enum.auto()
    DAMAGED = enum.auto()
    FULL = enum.auto()
    OTHER = enum.auto()

    @property
    def may_pass(self) -> bool:
        """True if another try may succeed. A missing object or a missing right stays missing."""
        return self in (Fault.LATE, Fault.INTERRUPTED)


def fault_of(error: BaseException) -> Fault:
    """The kind of an exception, judged by its class, its errno and the HTTP status in it; never by its text."""
    own = _by_class(error)
    if own in (Fault.MISSING, Fault.DENIED, Fault.FULL, Fault.DAMAGED):
        return own
    for cause in _causes(error):
        status = _status_of(cause)
        if status is not None:
            return _by_status(status)
    return own


def own_error(error: Exception, redacted: str, verb: str = "read") -> HubdistError:
    """The error to raise instead of a foreign exception.

    Raise the error outside of the `except` block, or Python keeps the exception in the error's chain.

    Args:
        error: The exception. An error of hubdist comes back as it is, but without its causes.
        redacted: The URL or path that the call was about, without secrets.
        verb: What the call did, as a participle, for the message: `read`, `written`.
    """
    if isinstance(error, HubdistError):
        error.__cause__ = error.__context__ = None
        return error
    fault = fault_of(error)
    if fault is Fault.OTHER and _LOG.isEnabledFor(logging.DEBUG):
        frames = "".join(traceback.format_tb(error.__traceback__))  # lines of code, without any values
        _LOG.debug("hubdist: %s at %s came from\n%s", type(error).__name__, redacted, frames)
    return _in_words(error, fault, redacted, verb)


def _in_words(error: Exception, fault: Fault, redacted: str, verb: str) -> HubdistError:
    name = type(error).__name__
    if fault is Fault.FULL:
        return StoreFullError(
            f"a disk of this node was full while {redacted} was {verb}",
            need_bytes=0,
            free_bytes=0,
            advice="Free space where the store and temporary files are.",
        )
    known: dict[Fault, tuple[type[HubdistError], str, str | None]] = {
        Fault.MISSING: (ModelNotFoundError, f"there is nothing at {redacted}", None),
        Fault.DENIED: (
            AccessDeniedError,
            f"{redacted} may not be {verb} ({name})",
            "Give this node credentials for this storage.",
        ),
        Fault.LATE: (TransferTimeoutError, f"{redacted} gave no data in time ({name})", None),
        Fault.DAMAGED: (IntegrityError, f"{redacted} is damaged or incomplete ({name})", None),
        Fault.INTERRUPTED: (OriginError, f"{redacted} cannot be {verb}: {name}", None),
    }
    otherwise = OriginError, f"{redacted} cannot be {verb}: {name}", _place_of(error)
    kind, what, advice = known.get(fault, otherwise)
    return kind(what, advice=advice)


def words_of(error: OSError) -> str:
    """The system's own words for an OSError, without what a library wrote into the exception."""
    return os.strerror(error.errno) if error.errno else type(error).__name__


def call_foreign(work: Callable[[], _T], redacted: str, verb: str = "read") -> _T:
    """Call foreign code, and translate what it raises.

    Args:
        work: Makes the call.
        redacted: The URL or path that the call is about, without secrets.
        verb: What the call does, as a participle, for the message: `read`, `written`.

    Returns:
        What the call returned.

    Raises:
        HubdistError: The translation of any exception.
    """
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - the boundary: foreign code may raise anything
        failure = own_error(error, redacted, verb)
    raise failure  # outside of `except`, so that the other exception is not in the chain


def iterate_foreign(items: Iterator[_T], redacted: str, verb: str = "read") -> Iterator[_T]:
    """Go through an iterator of foreign code, and translate what it raises.

    Args:
        items: The iterator. It is closed in the end if it can be.
        redacted: The URL or path that the items come from, without secrets.
        verb: What the iterator does, as a participle, for the message: `read`, `listed`.

    Raises:
        HubdistError: The translation of any exception.
    """
    end = object()
    try:
        while (item := call_foreign(lambda: next(items, end), redacted, verb)) is not end:
            yield item  # type: ignore[misc]  # only `end` is not an item
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()


def _by_class(error: BaseException) -> Fault:
    name = type(error).__name__
    names = " ".join(kind.__name__ for kind in type(error).__mro__ if kind.__module__ != "builtins")
    checks = (
        (Fault.FULL, isinstance(error, OSError) and error.errno in _FULL),
        (Fault.OTHER, _UNTRUSTED_NAME.search(name) is not None),
        (Fault.MISSING, isinstance(error, FileNotFoundError) or name in _MISSING_NAMES),
        (Fault.DENIED, isinstance(error, PermissionError) or _DENIED_NAME.search(name) is not None),
        (Fault.LATE, isinstance(error, TimeoutError) or _LATE_NAME.search(name) is not None),
        (Fault.INTERRUPTED, isinstance(error, http.client.HTTPException) or _PASSING_NAME.search(names) is not None),
        (Fault.DAMAGED, isinstance(error, _DAMAGED)),
        (Fault.INTERRUPTED, isinstance(error, OSError) and not isinstance(error, _LASTING)),
    )
    return next((fault for fault, holds in checks if holds), Fault.OTHER)


def _by_status(status: int) -> Fault:
    if status in (401, 403):
        return Fault.DENIED
    if status in (404, 410):
        return Fault.MISSING
    return Fault.INTERRUPTED if status in (408, 429) or status >= 500 else Fault.OTHER


def _status_of(error: BaseException) -> int | None:
    """The HTTP status that an exception of requests, aiohttp, httpx, botocore, azure or gcsfs holds."""
    held = vars(error)
    response: Any = held.get("response")
    if isinstance(response, dict):  # botocore: requests to slow down have status 400
        answer, metadata = response.get("Error"), response.get("ResponseMetadata")
        if isinstance(answer, dict) and _PASSING_NAME.search(str(answer.get("Code"))):
            return 429
        found = [metadata.get("HTTPStatusCode")] if isinstance(metadata, dict) else []
    else:
        found = [getattr(response, name, None) for name in ("status_code", "status")]
    found += [held.get(name) for name in ("code", "status", "status_code")]
    return next((each for each in found if type(each) is int and 400 <= each < 600), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and the exceptions that it was raised from, the last one first."""
    current: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if current is None:
            return
        yield current
        current = current.__cause__


def _place_of(error: BaseException) -> str | None:
    """Advice that names the line of code that raised an exception. Code holds no secrets of a handle."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"It was raised in line {frames[-1].lineno} of {frames[-1].filename}." if frames else None
