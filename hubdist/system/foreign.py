"""The boundary to foreign code, of libraries and users: turns whatever it raises into an error of hubdist.

The texts of foreign exceptions may hold URLs with signatures, headers and keys. So only the kind of an exception is
taken over, in words of hubdist, and the exception itself is not in the new error's chain. KeyboardInterrupt and the
like are not translated. What the libraries log meanwhile is dropped, because the error says it once.

`faults` tells the kinds apart; the table in `mends` says what each one becomes.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Iterator
from typing import TypeVar

from hubdist.errors import HubdistError, StoreFullError
from hubdist.system.faults import Diagnosis, Fault, diagnose
from hubdist.system.mends import error_for
from hubdist.system.quiet import quiet

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")


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
    found = diagnose(error)
    if found.fault is Fault.OTHER and _LOG.isEnabledFor(logging.DEBUG):
        frames = "".join(traceback.format_tb(error.__traceback__))  # lines of code, without any values
        _LOG.debug("hubdist: %s at %s came from\n%s", type(error).__name__, redacted, frames)
    return _in_words(error, found, redacted, verb)


def _in_words(error: Exception, found: Diagnosis, redacted: str, verb: str) -> HubdistError:
    if found.fault is Fault.FULL:
        return StoreFullError(
            f"a disk of this node was full while {redacted} was {verb}",
            need_bytes=0,
            free_bytes=0,
            advice="Free space where the store and temporary files are.",
        )
    failure = error_for(found, redacted, name=type(error).__name__, verb=verb)
    if found.fault is Fault.OTHER:
        failure.advice = _place_of(error)
    return failure


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
        with quiet():
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


def _place_of(error: BaseException) -> str | None:
    """Advice that names the line of code that raised an exception. Code holds no secrets of a handle."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"It was raised in line {frames[-1].lineno} of {frames[-1].filename}." if frames else None
