"""One call to a storage: its deadline, its retries, and errors that tell the user what to do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from hubdist.errors import HubdistError, TransferTimeoutError
from hubdist.system.answers import retry_after_s
from hubdist.system.deadline import Deadline, Deadlines
from hubdist.system.faults import Diagnosis, Fault, diagnose, fault_of
from hubdist.system.foreign import own_error
from hubdist.system.mends import error_for
from hubdist.system.retry import retry

_T = TypeVar("_T")


class StorageAnswer(Exception):  # noqa: N818 - it is an answer, not an error
    """What an attempt tells the caller of `call_storage`, such as "stored compressed"; never translated or retried."""


def call_storage(
    attempt: Callable[[], _T],
    redacted: str,
    deadlines: Deadlines,
    closing: threading.Event,
    *,
    verb: str = "read",
    deadline: Deadline | None = None,
    anonymous: bool | None = None,
) -> _T:
    """Call a storage until the call succeeds or cannot succeed.

    Args:
        attempt: Makes one try, which has its own time limit of `stall_s`.
        redacted: What the call is about, without secrets, for errors.
        deadlines: How often and how long to try.
        closing: When this is set, nothing is tried again and waits end.
        verb: What is being done, as a participle, for errors.
        deadline: When the task must be done that this call is a part of; None is `total_s` from now.
        anonymous: No credentials are sent, because there are none: then a refusal asks for some. None: not known.

    Returns:
        What `attempt` returned.

    Raises:
        FileExistsError, StorageAnswer: As the attempt raised it.
        TransferTimeoutError: The deadline passed, or the last try got no byte in time.
        ResolveError, TransferError: What the attempt raised, or the translation of a library's error.
    """
    until = Deadline(deadlines.total_s) if deadline is None else deadline
    until.check(redacted)

    def give_up(error: Exception, tries: int) -> Exception:
        if _may_pass(error):
            until.check(redacted)
        return _translated(error, redacted, verb, tries, deadlines.stall_s, anonymous=anonymous)

    def sleep(seconds: float) -> None:
        closing.wait(seconds)

    return retry(
        attempt,
        deadlines,
        until,
        may_pass=lambda error: not closing.is_set() and _may_pass(error),
        give_up=give_up,
        retry_after_s=retry_after_s,
        sleep=sleep,
    )


def _may_pass(error: Exception) -> bool:
    if isinstance(error, (HubdistError, FileExistsError, StorageAnswer)) or _is_forbidden(error):
        return False
    return fault_of(error).may_pass


def _is_forbidden(error: Exception) -> bool:
    """True for a missing right that `gcsfs.retry.validate_response` reports as a plain OSError, by its text alone."""
    return type(error) is OSError and str(error).startswith("Forbidden")


def _translated(
    error: Exception, redacted: str, verb: str, tries: int, stall_s: float, *, anonymous: bool | None
) -> Exception:
    if isinstance(error, (FileExistsError, StorageAnswer)):
        return error
    if _is_forbidden(error):
        error = PermissionError()
    if isinstance(error, HubdistError):
        return own_error(error, redacted, verb)
    found = diagnose(error)
    if found.fault is Fault.LATE:
        if "Connect" in type(error).__name__:
            return TransferTimeoutError(f"{redacted} gave no connection, {tries} times")
        return TransferTimeoutError(f"{redacted} gave nothing for {stall_s:g} s, {tries} times")
    if anonymous and found.fault in (Fault.DENIED, Fault.REFUSED_CREDENTIALS):
        found = Diagnosis(Fault.NO_CREDENTIALS)
    elif anonymous is False and found == Diagnosis(
        Fault.DENIED, "status 401", found.host
    ):  # it wants to know who asks, and was told
        found = Diagnosis(Fault.REFUSED_CREDENTIALS)
    elif tries == 1 or not found.fault.may_pass:
        return own_error(error, redacted, verb)
    tried = f"{tries} times" if tries > 1 else ""
    return error_for(found, redacted, name=type(error).__name__, verb=verb, tries=tried)
