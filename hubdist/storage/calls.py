"""One call to a storage's file system: deadline, retries, and errors that say what to do."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import aiohttp
import fsspec
import tenacity

from hubdist.config import Config
from hubdist.errors import AccessDeniedError, HubdistError, ModelNotFoundError, OriginError, TransferTimeoutError

_T = TypeVar("_T")
_FIRST_WAIT_S = 0.5
_MAX_WAIT_S = 20.0


def call_storage(
    attempt: Callable[[], _T], public: str, config: Config, closing: threading.Event, *, verb: str = "read"
) -> _T:
    """Call until it works or cannot.

    Args:
        attempt: One try; it has its own deadline of `stall_timeout_s`.
        public: What the call is about, for errors.
        config: How often and how long to try.
        closing: When it is set, nothing is tried again.
        verb: What is tried, as a participle.

    Raises:
        FileExistsError: As the attempt raises it.
        HubdistError: As `hubdist.storage.Tree` says, or as the attempt raises it.
    """
    try:
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: _may_pass(error) and not closing.is_set()),
            stop=tenacity.stop_after_attempt(config.retries + 1) | tenacity.stop_after_delay(config.timeout_s),
            wait=tenacity.wait_exponential(_FIRST_WAIT_S, _MAX_WAIT_S) + tenacity.wait_random(0, _FIRST_WAIT_S),
            sleep=tenacity.sleep_using_event(closing),
            reraise=True,
        )(attempt)
    except FileNotFoundError:
        raise ModelNotFoundError(f"there is nothing at {public}") from None
    except FileExistsError:
        raise
    except (TimeoutError, fsspec.FSTimeoutError) as error:
        raise TransferTimeoutError(
            f"{public} gave nothing for {config.stall_timeout_s:g} s, {config.retries + 1} times"
        ) from error
    except _backend_errors() as error:
        raise _translated(error, public, verb) from error


def _backend_errors() -> tuple[type[Exception], ...]:
    """What fsspec's file systems raise: OSError by fsspec's rules, and the own errors of those that do not follow."""
    import gcsfs.retry
    import google.auth.exceptions

    return (
        OSError,
        ValueError,
        RuntimeError,
        NotImplementedError,
        aiohttp.ClientError,
        http.client.HTTPException,
        gcsfs.retry.HttpError,
        gcsfs.retry.ChecksumError,
        google.auth.exceptions.GoogleAuthError,
    )


def status_error(status: int, body: bytes, path: str) -> Exception:
    """The error that gcsfs raises for an answer of Google's storage."""
    import gcsfs.retry

    try:
        gcsfs.retry.validate_response(status, body, path)
    except _backend_errors() as error:
        return error
    return OSError(f"unexpected status {status}")


def _may_pass(error: BaseException) -> bool:
    """True for what another try may mend; a missing object or a missing right never."""
    if isinstance(error, (FileNotFoundError, FileExistsError, HubdistError)) or _is_forbidden(error):
        return False
    status = getattr(error, "code", getattr(error, "status", None))
    if isinstance(status, int) and 400 <= status < 500:
        return status in (408, 429)
    retryable = (OSError, TimeoutError, http.client.HTTPException)
    return isinstance(error, retryable) or type(error).__module__.startswith(("aiohttp", "gcsfs.retry"))


def _is_forbidden(error: BaseException) -> bool:
    """A missing right; gcsfs.retry.validate_response tells it by the text of a plain OSError alone."""
    return isinstance(error, PermissionError) or (type(error) is OSError and str(error).startswith("Forbidden"))


def _translated(error: Exception, public: str, verb: str) -> HubdistError:
    status: Any = getattr(error, "code", getattr(error, "status", None))
    name = type(error).__name__
    if _is_forbidden(error) or status in (401, 403) or "Credential" in name or "Auth" in name:
        return AccessDeniedError(
            f"{public} may not be {verb} ({name})", advice="Give this node credentials for this storage."
        )
    if status in (404, 410):
        return ModelNotFoundError(f"there is nothing at {public}")
    return OriginError(f"{public} cannot be {verb}: {name}")
