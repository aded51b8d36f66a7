"""What kind of failure a foreign exception is, whichever library raised it: for the boundary in `foreign`, for retries.

An exception is judged by its class, its numbers (errno, HTTP status, verify code of a certificate) and the codes of
storage services in it. A library wraps what happened in exceptions of its own, so the exceptions inside are judged too.
"""

from __future__ import annotations

import enum
import errno
import http.client
import re
import socket
import ssl
import tarfile
import traceback
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from hubdist.system.answers import code_of, has_wrong_clock, host_of, raised_from, status_of


class Fault(enum.Enum):
    """The kinds of failure that hubdist tells apart. `mends.TABLE` says what each one becomes."""

    MISSING = enum.auto()
    NO_CREDENTIALS = enum.auto()
    REFUSED_CREDENTIALS = enum.auto()
    DENIED = enum.auto()
    CLOCK = enum.auto()
    UNKNOWN_HOST = enum.auto()
    UNTRUSTED = enum.auto()
    CERTIFICATE_EXPIRED = enum.auto()
    CERTIFICATE_EARLY = enum.auto()
    CERTIFICATE_NAME = enum.auto()
    NO_TLS = enum.auto()
    TLS_REFUSED = enum.auto()
    WANTS_TLS = enum.auto()
    PROXY = enum.auto()
    SETTING = enum.auto()
    NOT_CONNECTED = enum.auto()
    BUSY = enum.auto()
    LATE = enum.auto()
    INTERRUPTED = enum.auto()
    DAMAGED = enum.auto()
    FULL = enum.auto()
    OTHER = enum.auto()

    @property
    def may_pass(self) -> bool:
        """True if another try may succeed. A missing object, a missing right or a wrong setting stays."""
        return self in (Fault.NOT_CONNECTED, Fault.BUSY, Fault.LATE, Fault.INTERRUPTED)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is known of a failure.

    Attributes:
        fault: The kind.
        detail: A few words from a fixed set that tell more, such as the status of a proxy; may be empty.
        host: The host that the library could not talk to; "" if the exception does not tell.
    """

    fault: Fault
    detail: str = ""
    host: str = ""


_FULL = (errno.ENOSPC, errno.EDQUOT)
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError)
_LASTING = (IsADirectoryError, NotADirectoryError, ValueError)
"""Classes of OSErrors that another try cannot mend; a ValueError can be one (`io.UnsupportedOperation`)."""

_NO_SUCH_HOST = frozenset(
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY") if hasattr(socket, name)
)
"""The name server answers that there is no such name or address. EAI_AGAIN, no answer at all, may pass."""

_CERTIFICATES = {
    9: Fault.CERTIFICATE_EARLY,
    10: Fault.CERTIFICATE_EXPIRED,
    62: Fault.CERTIFICATE_NAME,
    64: Fault.CERTIFICATE_NAME,
}
"""OpenSSL's verify codes: not yet valid, expired, mismatch of the host name or of the address."""

_PLAIN_PORT = re.compile(r"WRONG_VERSION_NUMBER|HTTPS?_(?:PROXY_)?REQUEST|UNKNOWN_PROTOCOL|RECORD_LAYER_FAILURE")
_TLS_REFUSAL = re.compile(
    r"ALERT_(?:HANDSHAKE_FAILURE|PROTOCOL_VERSION|CERTIFICATE|UNKNOWN_CA|BAD_CERTIFICATE|ACCESS_DENIED)"
    r"|UNRECOGNIZED_NAME|CERTIFICATE_REQUIRED|UNSUPPORTED_PROTOCOL|NO_PROTOCOLS_AVAILABLE|NO_SHARED_CIPHER"
)
_TLS_ALERT = "\x15\x03"

_UNCONNECTED = frozenset({Fault.UNKNOWN_HOST, Fault.NOT_CONNECTED})
_MISSING_NAMES = frozenset(
    {
        *("NotFoundError", "ResourceNotFoundError", "RepositoryNotFoundError", "RevisionNotFoundError"),
        *("EntryNotFoundError", "RemoteEntryNotFoundError", "BucketNotFoundError", "NoSuchKey", "NoSuchBucket"),
    }
)
_GATED = frozenset({"GatedRepoError", "DisabledRepoError"})
_UNTRUSTED_NAME = re.compile(r"Certificate(?!Missing)|CertVerification")
_NO_CREDENTIALS_NAME = re.compile(
    r"DefaultCredentials|NoCredentials|PartialCredentials|CredentialUnavailable|LocalTokenNotFound|NoAuthToken"
)
_REFUSED_NAME = re.compile(
    r"^RefreshError|ReauthFail|TokenRetrieval|TokenExpired|ExpiredToken|UnauthorizedSSOToken|SSOTokenLoad"
)
_DENIED_NAME = re.compile(r"Credential|Auth|Forbidden|AccessDenied|GatedRepo|TokenNotFound")
_SETTING_NAME = re.compile(r"NoRegion|InvalidRegion|EndpointResolution|UnknownEndpoint|ProfileNotFound|InvalidEndpoint")
_LATE_NAME = re.compile(r"Timeout|TimedOut")
_PASSING_NAME = re.compile(
    r"Connect|Transport|Network|Disconnect|IncompleteRead|Protocol|ServiceRe(?:quest|sponse)|Payload|HTTPClientError"
    r"|ResponseStreaming|Throttl|SlowDown|TooManyRequests|ServiceUnavailable|Checksum|\bHttpError\b"
)
_BUSY_CODE = re.compile(r"Throttl|SlowDown|TooManyRequests|RequestLimitExceeded|BandwidthLimit|ServerBusy")
_CODES = {
    **dict.fromkeys(("RequestTimeTooSkewed", "RequestInTheFuture"), Fault.CLOCK),
    **dict.fromkeys(
        (
            *("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired", "InvalidToken"),
            *("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidClientTokenId", "UnrecognizedClientException"),
        ),
        Fault.REFUSED_CREDENTIALS,
    ),
    **dict.fromkeys(
        ("AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"), Fault.SETTING
    ),
    **dict.fromkeys(("AccessDenied", "AllAccessDisabled", "AccountProblem", "InvalidPayer"), Fault.DENIED),
}
"""Codes in the answers of S3 and its kin. Source: docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html."""

_CLOCK_GRANT = re.compile(r"short-lived token|\biat\b|\bexp\b|clock", re.IGNORECASE)
"""What Google's token endpoint says of a signed request from a node with a wrong clock."""

_MAX_CAUSES = 16


def fault_of(error: BaseException) -> Fault:
    """The kind of an exception; see `diagnose`."""
    return diagnose(error).fault


def diagnose(error: BaseException) -> Diagnosis:
    """Tell the kind of a failure, and what may be said of it without quoting a foreign text."""
    own = _by_class(error)
    if any(type(cause).__name__ in _GATED for cause in raised_from(error)):
        own = Fault.DENIED  # a library may say that a model which it must not read is not there
    if own in (Fault.FULL, Fault.DAMAGED, Fault.NO_CREDENTIALS) or (
        own is Fault.MISSING and type(error).__name__ in {"FileNotFoundError", *_MISSING_NAMES}
    ):
        return Diagnosis(own)
    inside = list(causes_of(error))
    proxied = _proxy(inside)
    if proxied is not None:
        return Diagnosis(proxied[0], proxied[1], host_of(inside))
    for cause in inside:
        found = _by_code(cause) or _by_network(cause)
        if found is not None:
            reason = str(getattr(cause, "reason", "")) if found is Fault.TLS_REFUSED else ""
            return Diagnosis(found, reason, host_of(inside))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in inside):
        return Diagnosis(Fault.UNTRUSTED, host=host_of(inside))
    statuses = (status_of(cause) for cause in raised_from(error))
    status = next((each for each in statuses if each is not None), None)
    fault: Fault = own
    if own not in (Fault.MISSING, Fault.DENIED, Fault.REFUSED_CREDENTIALS) and status is not None:
        fault = _by_status(status)
    if fault in (Fault.DENIED, Fault.REFUSED_CREDENTIALS) and any(has_wrong_clock(cause) for cause in inside):
        fault = Fault.CLOCK
    return Diagnosis(fault, "" if status is None else f"status {status}", host_of(inside))


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """An exception and all exceptions in it, outermost first.

    urllib3 keeps causes in `reason` and in `args`, aiohttp in `args`, botocore in `kwargs`.
    """
    queue, seen = [error], set[int]()
    while queue and len(seen) < _MAX_CAUSES:
        current = queue.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        context = None if current.__suppress_context__ else current.__context__
        kept = vars(current).get("kwargs")
        wrapped = [current.__cause__, context, getattr(current, "reason", None), *current.args]
        wrapped += [kept.get("error") if isinstance(kept, dict) else None, *getattr(current, "exceptions", ())]
        queue.extend(cause for cause in wrapped if isinstance(cause, BaseException))


def _by_class(error: BaseException) -> Fault:
    name = type(error).__name__
    names = " ".join(kind.__name__ for kind in type(error).__mro__ if kind.__module__ != "builtins")
    checks = (
        (Fault.FULL, isinstance(error, OSError) and error.errno in _FULL),
        (Fault.NO_CREDENTIALS, _NO_CREDENTIALS_NAME.search(name) is not None),
        (Fault.UNTRUSTED, _UNTRUSTED_NAME.search(name) is not None),
        (Fault.MISSING, isinstance(error, FileNotFoundError) or name in _MISSING_NAMES),
        (_refresh_fault(error), _REFUSED_NAME.search(name) is not None),
        (Fault.DENIED, isinstance(error, PermissionError) or _DENIED_NAME.search(name) is not None),
        (Fault.SETTING, _SETTING_NAME.search(name) is not None),
        (Fault.LATE, isinstance(error, TimeoutError) or _LATE_NAME.search(name) is not None),
        (Fault.INTERRUPTED, isinstance(error, http.client.HTTPException) or _PASSING_NAME.search(names) is not None),
        (Fault.DAMAGED, isinstance(error, _DAMAGED)),
        (Fault.INTERRUPTED, isinstance(error, OSError) and not isinstance(error, _LASTING)),
    )
    return next((fault for fault, holds in checks if holds), Fault.OTHER)


def _by_network(error: BaseException) -> Fault | None:
    """A failure below HTTP: names, connections, TLS."""
    if isinstance(error, socket.gaierror):
        return Fault.UNKNOWN_HOST if error.errno in _NO_SUCH_HOST else Fault.INTERRUPTED
    if type(error).__name__ == "DNSError" and error.args[:1] in ((1,), (4,)):  # aiodns: no data, not found
        return Fault.UNKNOWN_HOST
    if isinstance(error, ssl.SSLError):
        return _by_tls(error)
    if isinstance(error, http.client.BadStatusLine) and str(vars(error).get("line")).lstrip("'\"").startswith(
        _TLS_ALERT
    ):
        return Fault.WANTS_TLS
    return Fault.NOT_CONNECTED if isinstance(error, ConnectionRefusedError) else None


def _by_tls(error: ssl.SSLError) -> Fault | None:
    if isinstance(error, ssl.SSLCertVerificationError):  # aiohttp's is one too, but the number is in the one inside
        number = getattr(error, "verify_code", 0)
        return _CERTIFICATES.get(number, Fault.UNTRUSTED) if number else None
    reason = str(getattr(error, "reason", ""))
    if _PLAIN_PORT.search(reason):
        return Fault.NO_TLS
    return Fault.TLS_REFUSED if _TLS_REFUSAL.search(reason) else None


def _by_code(error: BaseException) -> Fault | None:
    """A failure that a storage service names by a code of its own."""
    code = code_of(error)
    return Fault.BUSY if _BUSY_CODE.search(code) else _CODES.get(code)


def _refresh_fault(error: BaseException) -> Fault:
    """Why credentials could not be renewed; google-auth keeps the endpoint's answer in the second argument."""
    if getattr(error, "retryable", False) is True:
        return Fault.INTERRUPTED
    answer = error.args[1] if len(error.args) > 1 and isinstance(error.args[1], dict) else {}
    said = str(answer.get("error_description", ""))
    return Fault.CLOCK if _CLOCK_GRANT.search(said) else Fault.REFUSED_CREDENTIALS


def _proxy(inside: list[BaseException]) -> tuple[Fault, str] | None:
    """What a proxy did, if the exceptions are about one."""
    # gcsfs raises an empty ProxyError for the status 502 of any server.
    named = any("Proxy" in type(cause).__name__ and (cause.args or cause.__cause__) for cause in inside)
    tunnels = (re.match(r"Tunnel connection failed: (\d{3})\b|(\d{3}) ", _first_text(cause)) for cause in inside)
    statuses = [int(found[1] or found[2]) for found in tunnels if found is not None and (named or found[1])]
    statuses += [status for cause in inside if named and (status := status_of(cause)) is not None]
    if statuses:
        passing = statuses[0] in (408, 429) or statuses[0] >= 500
        return (Fault.INTERRUPTED if passing else Fault.PROXY), f"the proxy answered {statuses[0]}"
    if any(status_of(cause) == 407 for cause in inside):
        return Fault.PROXY, "the proxy answered 407"
    network = {_by_network(cause) for cause in inside}
    if not named and not (network & _UNCONNECTED and any(_is_through_proxy(cause) for cause in inside)):
        return None
    if Fault.UNKNOWN_HOST in network:
        return Fault.PROXY, "there is no host of the proxy's name"
    if Fault.NOT_CONNECTED in network:
        return Fault.PROXY, "nothing listens at the proxy's address"
    return Fault.PROXY, "the proxy cannot be reached"


def _is_through_proxy(error: BaseException) -> bool:
    """True if httpcore's code for proxies raised an exception, whose class does not tell."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(str(frame.f_globals.get("__name__")).endswith(".http_proxy") for frame, _ in frames)


def _first_text(error: BaseException) -> str:
    return error.args[0] if error.args and isinstance(error.args[0], str) else ""


def _by_status(status: int) -> Fault:
    if status in (401, 403):
        return Fault.DENIED
    if status in (404, 410):
        return Fault.MISSING
    if status == 429:
        return Fault.BUSY
    return Fault.INTERRUPTED if status == 408 or status >= 500 else Fault.OTHER
