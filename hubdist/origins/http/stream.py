"""A file over HTTP or HTTPS as a stream of bytes that arrives whole and from one version, or fails with a reason.

This module joins the others of this package: `rules` decides when a read resumes, `targets` where a request may go,
`request` sends one request, and `retries` repeats it. Proxies and certificates are set as for requests: HTTPS_PROXY,
NO_PROXY, REQUESTS_CA_BUNDLE. `credentials` decides which headers and logins a request shows.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

import requests

from hubdist.errors import AccessDeniedError, OriginError
from hubdist.model.access import OriginAccess
from hubdist.model.redact import redact_url
from hubdist.origins.http.request import HttpRequester
from hubdist.origins.http.retries import InterruptedReadError, retry_step
from hubdist.origins.http.rules import (
    SNIFF_BYTES,
    FileIdentity,
    check_encoding,
    is_gzipped,
    looks_like_html,
    plan_body,
    resume_headers,
)
from hubdist.system.deadline import Deadline, Deadlines

_SKIP_BYTES = 1 << 20
_DEFAULT_DEADLINES = Deadlines()


class HttpStream:
    """The bytes of one URL, in order: a `hubdist.model.source.ByteStream`.

    A broken transfer resumes at the byte that it reached. All bytes that `read` returns are of one version of the
    file: if the answers do not prove that the file is still the same, the read fails. The body is taken as it was
    sent, never decoded.

    The constructor opens the stream, with retries. For one thread at a time. Close the stream, or use it in a `with`
    block.

    Args:
        url: An http or https URL. Userinfo in the URL is sent as basic authentication, to the URL's own host only.
        deadlines: Timeouts and retries.
        deadline: When the whole stream must have been read; None is `deadlines.total_s` from now.
        headers: Further headers, sent to the URL's own host and not to the hosts that it redirects to.
        session: The session whose proxies, certificates and authentication are used; it stays open. None makes one.
        access: The headers and logins of this node; None for none.
        sleep: Waits for a number of seconds; tests pass their own.

    Raises:
        HandleError: The URL may not be asked; see `hubdist.origins.http.targets`.
        AccessDeniedError: The origin answered 401 or 403.
        ModelNotFoundError: The origin answered 404 or 410.
        OriginError: Another refusal, a web page instead of a model, or failures until the retries were used up.
        TransferTimeoutError: The deadline has passed.
    """

    def __init__(
        self,
        url: str,
        deadlines: Deadlines = _DEFAULT_DEADLINES,
        *,
        deadline: Deadline | None = None,
        headers: Mapping[str, str] | None = None,
        session: requests.Session | None = None,
        access: OriginAccess | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._redacted = redact_url(url)
        until = deadline or Deadline(deadlines.total_s)
        self._requester = HttpRequester(url, deadlines, until, headers=headers, session=session, access=access)
        self._retry = functools.partial(
            retry_step, redacted=self._redacted, deadlines=deadlines, deadline=until, sleep=sleep
        )
        self._response: requests.Response | None = None
        self._identity: FileIdentity | None = None
        self._status = 0
        self._content_type: str | None = None
        self._gzipped = False
        self._stop: int | None = None
        self._pending = b""
        self._at = 0
        self._ended = False
        self._closed = False
        try:
            self._retry(self._open)
        except BaseException:
            self.close()
            raise

    @property
    def status(self) -> int:
        """The HTTP status of the newest answer: 200, or 206 after a resume."""
        return self._status

    @property
    def final_url(self) -> str:
        """Where the redirects led, secrets removed."""
        return redact_url(self._requester.final_url)

    @property
    def etag(self) -> str | None:
        """The ETag as sent, or None."""
        return self._identity.etag if self._identity else None

    @property
    def length(self) -> int | None:
        """Bytes of the whole body, or None if the origin does not say."""
        return self._identity.length if self._identity else None

    @property
    def gzipped(self) -> bool:
        """True if the origin says, by Content-Encoding, that the bytes are a gzip of the file."""
        return self._gzipped

    @property
    def content_type(self) -> str | None:
        """The Content-Type as sent, or None."""
        return self._content_type

    def read(self, size: int, /) -> bytes:
        """The next bytes: at least one, at most `size`; empty only at the end.

        Raises:
            IntegrityError: The file changed while it was read.
            LengthMismatchError: An answer goes beyond the file's end.
            OriginError, TransferTimeoutError, AccessDeniedError, ModelNotFoundError: The same as for the constructor.
            ValueError: `size` is less than 1, or the stream is closed.
        """
        if size < 1:
            raise ValueError(f"size must be at least 1, not {size}")
        if self._closed:
            raise ValueError("the stream is closed")
        if self._pending:
            data, self._pending = self._pending[:size], self._pending[size:]
            return data
        return self._retry(lambda: self._read_on(size))

    def close(self) -> None:
        """Drop the connection; may be called again."""
        self._closed = True
        self._drop()
        self._requester.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        """Ask for the bytes from `_at` on; the fields change only after the answer has proved to fit."""
        try:
            response = self._requester.get(resume_headers(self._at, self._identity, self._redacted))
            self._response = response
            if response.status_code in (200, 206):
                check_encoding(response.headers, self._redacted)
            plan = plan_body(response.status_code, response.headers, self._at, self._identity, self._redacted)
            if self._at == 0:
                self._take_first_bytes(response, plan.stop)
                self._identity = plan.identity
                self._content_type = response.headers.get("Content-Type")
                self._gzipped = is_gzipped(response.headers)
            else:
                self._skip(response, plan.skip)
                if self.length is None:
                    self._identity = plan.identity
            self._status, self._stop = response.status_code, plan.stop
        except AccessDeniedError as error:
            self._drop()
            raise error.asked(self._requester.identity) from None
        except BaseException:
            self._drop()
            raise

    def _take_first_bytes(self, response: requests.Response, stop: int | None) -> None:
        content_type = response.headers.get("Content-Type")
        first = b""
        while len(first) < SNIFF_BYTES and not looks_like_html(content_type, first):
            data = self._requester.read_some(response, SNIFF_BYTES - len(first))
            if not data:
                break
            first += data
        if looks_like_html(content_type, first):
            raise OriginError(
                f"{self._redacted} answered a web page instead of a model",
                advice="A login page, a proxy or a landing page may be in the way. It was asked "
                f"{self._requester.identity}.",
            )
        if len(first) < SNIFF_BYTES:
            check_complete(len(first), stop)
        self._at, self._pending = len(first), first

    def _skip(self, response: requests.Response, count: int) -> None:
        while count:
            data = self._requester.read_some(response, min(count, _SKIP_BYTES))
            if not data:
                raise InterruptedReadError("it ended before the byte that an earlier answer reached")
            count -= len(data)

    def _read_on(self, size: int) -> bytes:
        if self._ended:
            return b""
        try:
            data = self._read_answer(size)
        except BaseException:
            self._drop()
            raise
        self._at += len(data)
        return data

    def _read_answer(self, size: int) -> bytes:
        while True:
            if self._response is None:
                self._open()
            assert self._response is not None
            data = self._requester.read_some(self._response, size) if self._at != self._stop else b""
            if data:
                return data
            check_complete(self._at, self._stop)
            self._drop()
            if self.length is None or self._at >= self.length:
                self._ended = True
                return b""
            # RFC 9110 allows the origin to send less than was asked for, so ask for the rest.

    def _drop(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None


def check_complete(at: int, stop: int | None) -> None:
    """Check that a body reached its end.

    Args:
        at: How many bytes came.
        stop: How many bytes the answer announced; None if it did not say.

    Raises:
        InterruptedReadError: Some bytes are missing.
    """
    if stop is not None and at < stop:
        raise InterruptedReadError(f"the body ended after {at} of {stop} bytes")
