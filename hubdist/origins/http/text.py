"""A small text over HTTP or HTTPS, read whole: what hubs answer about their models."""

from __future__ import annotations

import time
from collections.abc import Callable

from hubdist.errors import AccessDeniedError, OriginError
from hubdist.model.access import OriginAccess
from hubdist.model.redact import redact_url
from hubdist.origins.http.request import HttpRequester
from hubdist.origins.http.retries import retry_step
from hubdist.origins.http.rules import status_error
from hubdist.origins.http.stream import check_complete
from hubdist.system.deadline import Deadline, Deadlines

_DEFAULT_DEADLINES = Deadlines()


def fetch_text(
    url: str,
    deadlines: Deadlines = _DEFAULT_DEADLINES,
    max_bytes: int = 4096,
    *,
    deadline: Deadline | None = None,
    access: OriginAccess | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[int, str]:
    """Status and text of a small answer, with the retries of `HttpStream`.

    For TensorFlow Hub's uncompressed protocol, which answers 303 without a Location and with a `gs://` path as the
    body.

    Args:
        url: An http or https URL.
        deadlines: Timeouts and retries.
        max_bytes: Longest body that is accepted.
        deadline: When the answer must have been read; None is `deadlines.total_s` from now.
        access: The headers and logins of this node; None for none.
        sleep: Waits for a number of seconds; tests pass their own.

    Returns:
        The status, 200 or 303 without a Location, and the body as text.

    Raises:
        HandleError: The URL may not be asked; see `hubdist.origins.http.targets`.
        AccessDeniedError: The origin answered 401 or 403.
        ModelNotFoundError: The origin answered 404 or 410.
        OriginError: The body is too long, encoded or not UTF-8; another refusal; or the retries were used up.
        TransferTimeoutError: The deadline has passed.
    """
    redacted = redact_url(url)
    until = deadline or Deadline(deadlines.total_s)
    requester = HttpRequester(url, deadlines, until, headers=None, session=None, access=access)

    def fetch() -> tuple[int, bytes]:
        with requester.get({}) as response:
            status, body = response.status_code, b""
            if status not in (200, 303):
                raise status_error(status, redacted)
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise OriginError(f"{redacted} answered an encoded text, although none was asked for")
            while data := requester.read_some(response, max_bytes + 1 - len(body)):
                body += data
                if len(body) > max_bytes:
                    raise OriginError(
                        f"{redacted} answered more than {max_bytes} bytes where a short text was expected"
                    )
            length = response.headers.get("Content-Length", "")
            check_complete(len(body), int(length) if length.isdecimal() else None)
            return status, body

    try:
        status, body = retry_step(fetch, redacted, deadlines, until, sleep)
    except AccessDeniedError as error:
        raise error.asked(requester.identity) from None
    finally:
        requester.close()
    try:
        return status, body.decode("utf-8")
    except UnicodeDecodeError:
        raise OriginError(f"{redacted} answered bytes where a text was expected") from None
