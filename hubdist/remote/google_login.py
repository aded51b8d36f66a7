"""Google's credentials on this node, for gs://: looked up and renewed with short time limits, once for a process.

google-auth looks into files first, and then asks Google's metadata server three times, with waits, whether there is
one. gcsfs looks up credentials while it answers a request, and takes a renewal that failed for a request to repeat.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import google.auth
import google.auth.exceptions
import google.auth.transport.requests

from hubdist.errors import HubdistError
from hubdist.system.foreign import call_foreign
from hubdist.system.quiet import quiet
from hubdist.system.threads import run_within

_SCOPE = "https://www.googleapis.com/auth/devstorage.full_control"
_METADATA_HEADER = "metadata-flavor"
"""Every request to a metadata server has it, whatever its address."""

_PRODUCT = Path("/sys/class/dmi/id/product_name")
_PROBE_S = 1.0
_PATIENT_S = 10.0
"""On Google's own machines there is a metadata server, which needs seconds where a pod has just begun."""

_RENEW_S = 4.0
_FRESH_S = 300.0
_KEEP_S = 300.0
_KEEP_FAILURE_S = 30.0
_CONNECT_S = 1.5
_REACH_S = 2.0


class _NoMetadataServerError(Exception):
    """No metadata server answers; never leaves this module."""


class _Request(google.auth.transport.requests.Request):
    """Requests of google-auth with short time limits.

    Args:
        metadata_s: Longest time in seconds for the metadata server; 0: there is none. Where it gives no answer, the
            look-up ends, because google-auth would ask again.
    """

    def __init__(self, metadata_s: float) -> None:
        super().__init__()
        self._metadata_s = metadata_s

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Any:
        """Send one request; the arguments are google-auth's."""
        ask: Any = super().__call__
        longest_s = _RENEW_S if timeout is None else min(timeout, _RENEW_S)
        if _METADATA_HEADER not in {name.lower() for name in headers or ()}:
            return ask(url, method, body, headers, longest_s, **options)
        if not self._metadata_s:
            raise _NoMetadataServerError
        try:
            return ask(url, method, body, headers, min(longest_s, self._metadata_s), **options)
        except google.auth.exceptions.TransportError:
            if self._metadata_s == _PATIENT_S:
                raise
            raise _NoMetadataServerError from None


class GoogleLogin:
    """The credentials that this node has. Safe for several threads.

    They are looked up again after minutes, and after `_KEEP_FAILURE_S` seconds if there were none: the user may have
    logged in, or the metadata server of a new pod may have begun to answer.

    Args:
        look: Looks them up, with True if the metadata server counts; returns them and the project, or two Nones.
        clock: Returns growing seconds; tests pass their own.
    """

    def __init__(
        self,
        look: Callable[[bool], tuple[Any, str | None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look = look or _look
        self._clock = clock
        self._lock = threading.Lock()
        self._found: dict[bool, tuple[Any, str | None]] = {}
        self._until: dict[bool, float] = {}
        self._reached: dict[str, tuple[float, HubdistError | None]] = {}

    def find(self, *, on_google: bool) -> tuple[Any, str | None]:
        """The credentials and their project; two Nones if this node has none.

        Args:
            on_google: The storage is Google's own. Another one has nothing to do with this machine's account.

        Raises:
            Exception: Whatever google-auth raises where it cannot renew the credentials.
        """
        with self._lock, quiet():
            if self._clock() >= self._until.get(on_google, 0.0):
                self._found[on_google] = self._look(on_google)
                kept_s = _KEEP_FAILURE_S if self._found[on_google][0] is None else _KEEP_S
                self._until[on_google] = self._clock() + kept_s
            found = self._found[on_google]
        if found[0] is not None:
            self.renew(found[0])
        return found

    @property
    def known(self) -> Any:
        """The credentials that were found last; None if there were none. Nothing is looked up."""
        with self._lock:
            return next((found for found, _ in self._found.values() if found is not None), None)

    def renew(self, credentials: Any) -> None:
        """Renew credentials that end within minutes, in one try.

        Raises:
            Exception: Whatever google-auth raises where it cannot.
        """
        if _is_fresh(credentials):
            return
        with self._lock, quiet():
            if not _is_fresh(credentials):
                request = _Request(_PATIENT_S)
                with contextlib.closing(request.session):
                    credentials.refresh(request)

    def reach(self, host: str, port: int) -> HubdistError | None:
        """Why a server cannot be connected to, found out within seconds; None if it can be.

        Args:
            host: The server.
            port: The port.
        """
        with self._lock:
            until, failure = self._reached.get(host, (0.0, None))
            if self._clock() >= until:
                failure = _reach(host, port)
                kept_s = _KEEP_S if failure is None else _KEEP_FAILURE_S
                self._reached[host] = self._clock() + kept_s, failure
            return failure


def _look(on_google: bool) -> tuple[Any, str | None]:
    request = _Request(_metadata_s() if on_google else 0.0)
    try:
        with contextlib.closing(request.session):
            found: tuple[Any, str | None] = google.auth.default(scopes=[_SCOPE], request=request)
    except (_NoMetadataServerError, google.auth.exceptions.DefaultCredentialsError):
        return None, None
    return found


def _metadata_s() -> float:
    try:
        product = _PRODUCT.read_text(encoding="utf-8")
    except (OSError, UnicodeError):
        return _PROBE_S
    return _PATIENT_S if product.startswith("Google") else _PROBE_S


def _is_fresh(credentials: Any) -> bool:
    if not credentials.valid:
        return False
    expiry: dt.datetime | None = credentials.expiry  # in UTC, without saying so
    return expiry is None or (expiry.replace(tzinfo=dt.UTC) - dt.datetime.now(dt.UTC)).total_seconds() > _FRESH_S


def _reach(host: str, port: int) -> HubdistError | None:
    def connect() -> None:
        with socket.create_connection((host, port), timeout=_CONNECT_S):
            pass

    try:
        # Resolving a name has no time limit of its own.
        call_foreign(lambda: run_within(connect, "hubdist-reach", _REACH_S), host)
    except HubdistError as error:
        return error
    return None
