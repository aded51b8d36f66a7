"""One call to a storage's file system: deadline, retries, and errors that say what to do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import tenacity

from hubdist.config.schema import Config
from hubdist.errors import HubdistError, TransferTimeoutError
from hubdist.system.deadline import Deadline
from hubdist.system.foreign import Fault, fault_of, own_error

_T = TypeVar("_T")
_FIRST_WAIT_S = 0.5
_MAX_WAIT_S = 20.0
_FAILED: Any = object()
"""Stands for the result of an attempt when there is no further one."""


class PassingError(Exception):
    """What an attempt tells whoever calls `call_storage`; it comes as it is, and is no failure."""


def call_storage(
    attempt: Callable[[], _T],
    redacted: str,
    config: Config,
    closing: threading.Event,
    *,
    verb: str = "read",
    deadline: Deadline | None = None,
) -> _T:
    """Call until it works or cannot.

    Args:
        attempt: One try; it has its own deadline of `stall_timeout_s`.
        redacted: What the call is about, for errors.
        config: How often and how long to try.
        closing: When it is set, nothing is tried again.
        verb: What is tried, as a participle.
        deadline: When the work is over that this is a part of; None is `timeout_s` from now.

    Raises:
        FileExistsError, PassingError: As the attempt raises it.
        HubdistError: As `hubdist.remote.Tree` says, or as the attempt raises it.
    """
    until = Deadline(config.timeout_s) if deadline is None else deadline
    until.check(redacted)
    failed: list[Exception] = []

    def is_over(state: tenacity.RetryCallState) -> bool:
        lasting = closing.is_set() or not _may_pass(failed[-1])
        return lasting or state.attempt_number > config.origin_retries or until.remaining_s() <= state.upcoming_sleep

    def note(state: tenacity.RetryCallState) -> bool:
        error = None if state.outcome is None else state.outcome.exception()
        if isinstance(error, Exception):  # what is none, such as KeyboardInterrupt, passes
            failed.append(error)
        return isinstance(error, Exception)

    result = tenacity.Retrying(
        retry=note,
        stop=is_over,
        wait=tenacity.wait_exponential(_FIRST_WAIT_S, _MAX_WAIT_S) + tenacity.wait_random(0, _FIRST_WAIT_S),
        sleep=tenacity.sleep_using_event(closing),
        retry_error_callback=lambda _: _FAILED,
    )(attempt)
    if result is not _FAILED:
        return result
    if _may_pass(failed[-1]):
        until.check(redacted)
    # Raised where nothing is handled: what a library raised must not be in the chain, for it may hold secrets.
    raise _translated(failed[-1], redacted, verb, f"for {config.stall_timeout_s:g} s, {len(failed)} times")


def status_error(status: int, body: bytes, path: str) -> Exception:
    """The error that gcsfs raises for an answer of Google's storage."""
    import gcsfs.retry
    import google.auth.exceptions

    raised = (OSError, ValueError, RuntimeError, gcsfs.retry.HttpError, google.auth.exceptions.GoogleAuthError)
    try:
        gcsfs.retry.validate_response(status, body, path)
    except raised as error:
        return error
    return OSError(f"unexpected status {status}")


def _may_pass(error: Exception) -> bool:
    if isinstance(error, (HubdistError, FileExistsError, PassingError)) or _is_forbidden(error):
        return False
    return fault_of(error).may_pass


def _is_forbidden(error: Exception) -> bool:
    """A missing right that gcsfs.retry.validate_response tells by the text of a plain OSError alone."""
    return type(error) is OSError and str(error).startswith("Forbidden")


def _translated(error: Exception, redacted: str, verb: str, tried: str) -> Exception:
    if isinstance(error, (FileExistsError, PassingError)):
        return error
    if _is_forbidden(error):
        error = PermissionError()
    if not isinstance(error, HubdistError) and fault_of(error) is Fault.LATE:
        return TransferTimeoutError(f"{redacted} gave nothing {tried}")
    return own_error(error, redacted, verb)
