"""One request over HTTP: redirects by rule, credentials for their own host only, error texts without secrets.

The texts of requests' and urllib3's exceptions hold whole URLs, and so do their debug logs. Neither leaves this
module. An exception is described by its class and reason, and the new error is raised outside of the `except` block,
so that the old one is not in the chain. Records that urllib3 logs about these requests are dropped. Failures that no
retry mends, such as a certificate that is not trusted, become what the table in `hubdist.system.mends` says.
"""

from __future__ import annotations

import datetime as dt
import errno
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
import requests.utils
import urllib3.exceptions
from requests.auth import HTTPBasicAuth

from hubdist.errors import HubdistError, OriginError
from hubdist.model.access import OriginAccess, server_of
from hubdist.model.redact import redact_url
from hubdist.origins.http.credentials import ANONYMOUSLY, Credentials, HttpCredentials
from hubdist.origins.http.retries import InterruptedReadError
from hubdist.origins.http.rules import RETRIED_STATUSES
from hubdist.origins.http.targets import (
    CheckedAdapter,
    ForbiddenAddressError,
    UnknownHostError,
    allowed_addresses,
    check_url,
    redirect_target,
    same_origin,
    split_userinfo,
)
from hubdist.system.answers import parse_retry_after
from hubdist.system.deadline import Deadline, Deadlines
from hubdist.system.faults import Diagnosis, Fault, causes_of, diagnose
from hubdist.system.mends import error_for
from hubdist.system.quiet import quiet

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5
_READ_BYTES = 1 << 20
_FINAL = frozenset(
    {
        *(Fault.UNKNOWN_HOST, Fault.UNTRUSTED, Fault.CERTIFICATE_EXPIRED, Fault.CERTIFICATE_EARLY),
        *(Fault.CERTIFICATE_NAME, Fault.NO_TLS, Fault.TLS_REFUSED, Fault.WANTS_TLS, Fault.PROXY),
    }
)
"""What no retry mends on the way to a server."""

_Result = TypeVar("_Result")


class HttpRequester:
    """Sends GETs for one URL until one deadline. For one thread at a time.

    Each GET starts at the first URL, because signed addresses behind its redirects may have expired.

    Args:
        url: What to read; userinfo in the URL is sent as basic authentication, to the URL's own host only.
        deadlines: Longest times to connect and without a byte.
        deadline: When the whole read must be done.
        headers: The caller's headers, sent to the URL's own host only.
        session: Proxies, certificates, headers and authentication of the caller; None makes a new session.
        access: The headers and logins of this node, for the servers that they belong to; None for none.

    Raises:
        HandleError: The URL may not be asked; see `check_url`.
    """

    def __init__(
        self,
        url: str,
        deadlines: Deadlines,
        deadline: Deadline,
        *,
        headers: Mapping[str, str] | None,
        session: requests.Session | None,
        access: OriginAccess | None = None,
    ) -> None:
        self._url, userinfo = split_userinfo(check_url(url))
        self._credentials = HttpCredentials(self._url, userinfo, access or OriginAccess())
        self._shown = Credentials(ANONYMOUSLY)
        self.final_url = self._url
        self._deadlines = deadlines
        self._deadline = deadline
        self._headers = dict(headers or {})
        self._session = requests.Session() if session is None else session
        self._owns_session = session is None
        self._adapter = CheckedAdapter()

    def get(self, extra: Mapping[str, str]) -> requests.Response:
        """Send one GET and follow its redirects; the body of the answer is not read yet.

        Args:
            extra: Headers for every host on the way.

        Raises:
            InterruptedReadError: No answer came, or its status names a failure that may pass.
            OriginError: There are too many redirects, or one that must not be followed; or what fails on the way to
                the server is nothing that another try mends.
            TransferTimeoutError: The deadline has passed.
        """
        url = self._url
        for _ in range(_MAX_REDIRECTS + 1):
            self.final_url = url
            response = self._send(url, extra)
            status, location = response.status_code, response.headers.get("Location")
            if status in _REDIRECTS and location is not None:
                response.close()
                url = redirect_target(url, _decode_header(location))
                continue
            if status in RETRIED_STATUSES:
                response.close()
                now = dt.datetime.now(dt.UTC)
                wait_s = parse_retry_after(response.headers.get("Retry-After"), now)
                raise InterruptedReadError(f"it answered with status {status}", retry_after_s=wait_s)
            return response
        raise OriginError(f"{redact_url(self._url)} redirects more than {_MAX_REDIRECTS} times")

    @property
    def identity(self) -> str:
        """Who the newest request asked as, and where, if that is another host than the URL's."""
        elsewhere = "" if same_origin(self.final_url, self._url) else f" at {server_of(self.final_url)}"
        return self._shown.words + elsewhere

    def read_some(self, response: requests.Response, size: int) -> bytes:
        """The next bytes of a body as they were sent; empty at its end.

        Args:
            response: An answer of `get`.
            size: Most bytes to return.

        Raises:
            InterruptedReadError: The connection broke or stalled.
            TransferTimeoutError: The deadline has passed.
        """
        self._check_deadline()
        # read1 returns after each packet, so that a slowly dripping body cannot outlast the deadline.
        return self._guarded(lambda: response.raw.read1(min(size, _READ_BYTES), decode_content=False))

    def close(self) -> None:
        """Close the connections; the caller's session stays open."""
        self._adapter.close()
        if self._owns_session:
            self._session.close()

    def _send(self, url: str, extra: Mapping[str, str]) -> requests.Response:
        request, settings = self._guarded(lambda: self._prepare(url, extra))
        # Check the URL that requests made of ours, because that one will be asked.
        asked = check_url(request.url or "")
        proxied = requests.utils.select_proxy(asked, settings["proxies"]) is not None
        if proxied:
            _check_known_addresses(asked)
        self._check_deadline()
        timeout = (self._deadline.within(self._deadlines.connect_s), self._deadline.within(self._deadlines.stall_s))
        settings.update(stream=True, timeout=timeout)
        # Session.send would read the whole body of a redirect, whatever its size.
        try:
            return self._guarded(lambda: self._adapter.send(request, **settings))
        except ForbiddenAddressError:
            failure: Exception = _forbidden(asked)
        except UnknownHostError as error:
            if error.may_pass:
                failure = InterruptedReadError(f"the host name {error} does not resolve: its name server is silent")
            else:
                unknown = Diagnosis(Fault.UNKNOWN_HOST, host=str(error))
                failure = error_for(unknown, redact_url(asked), name="gaierror")
        raise failure

    def _prepare(self, url: str, extra: Mapping[str, str]) -> tuple[requests.PreparedRequest, dict[str, Any]]:
        """The request, and the session's proxies and certificates for it."""
        settings = dict(self._session.merge_environment_settings(url, {}, True, None, None))
        self._shown = shown = self._credentials.choose(url)
        own = {**shown.headers, "Accept-Encoding": "identity", **extra}
        if not same_origin(url, self._url):
            return requests.Request("GET", url, headers=own).prepare(), settings
        request = requests.Request("GET", url, headers={**self._headers, **own}, auth=self._auth(shown.login))
        return self._session.prepare_request(request), settings

    def _auth(self, login: tuple[str, str] | None) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
        """Authentication by a login or the session; requests never looks into ~/.netrc if it gets any callable."""
        if login is not None:
            name, password = login
            return HTTPBasicAuth(name.encode(), password.encode())
        session_auth: Any = self._session.auth
        if isinstance(session_auth, tuple):
            return HTTPBasicAuth(*session_auth)
        return session_auth or (lambda request: request)

    def _check_deadline(self) -> None:
        self._deadline.check(redact_url(self._url))

    def _guarded(self, call: Callable[[], _Result]) -> _Result:
        try:
            with quiet():
                return call()
        except HubdistError:
            raise
        except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:  # requests' errors are OSErrors
            failure = _describe(error, redact_url(self._url), self._deadlines)
        raise failure


def _decode_header(text: str) -> str:
    # http.client decodes headers as Latin-1; a Location in UTF-8 is what servers send.
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _check_known_addresses(url: str) -> None:
    """Refuse a host name that leads to a link-local or metadata address, as far as this machine can tell.

    Only for hosts behind a proxy. The proxy resolves their names by itself and may know other addresses.

    Raises:
        OriginError: The name leads to such an address.
    """
    parts = urlsplit(url)
    try:
        allowed_addresses(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    except ForbiddenAddressError:
        pass
    except (OSError, UnicodeError):
        return  # only the proxy knows the host
    else:
        return
    raise _forbidden(url)


def _forbidden(url: str) -> OriginError:
    return OriginError(f"{redact_url(url)} leads to a link-local or metadata address, which hubdist never asks")


def _describe(error: Exception, redacted: str, deadlines: Deadlines) -> HubdistError | InterruptedReadError:
    found = diagnose(error)
    if found.fault in _FINAL:
        return error_for(found, redacted, name=type(error).__name__)
    if isinstance(error, ValueError):
        return OriginError(f"{redacted} cannot be asked ({type(error).__name__})")
    if not isinstance(error, requests.RequestException | urllib3.exceptions.HTTPError):
        return OriginError(
            f"{redacted} cannot be asked ({type(error).__name__})",
            advice="If REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE is set, it must name a file that this machine has.",
        )
    if isinstance(error, requests.ConnectTimeout):
        return InterruptedReadError(f"no connection within {deadlines.connect_s:g} s")
    if isinstance(error, requests.ReadTimeout | urllib3.exceptions.ReadTimeoutError):
        return InterruptedReadError(f"no byte for {deadlines.stall_s:g} s")
    return InterruptedReadError(found.detail or _reason(list(causes_of(error))))


def _reason(causes: list[BaseException]) -> str:
    kinds = {type(cause).__name__: cause for cause in causes}
    for cause in causes:
        number = getattr(cause, "errno", None)
        if isinstance(number, int) and number in errno.errorcode and not isinstance(cause, socket.gaierror):
            return f"the connection failed: {os.strerror(number)}"
    if "IncompleteRead" in kinds or "RemoteDisconnected" in kinds:
        return "the connection closed too early"
    return f"the connection failed ({next(reversed(kinds))})"
