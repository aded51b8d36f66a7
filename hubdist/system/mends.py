"""The table of failures: for each kind the class of the error, what it says, and how to mend it.

The texts name no tool of Python's, but what the user can do on the node where it happened. How to give credentials or
the certificate of a CA differs between storages, so those mends are chosen by the scheme of the URL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hubdist.errors import (
    AccessDeniedError,
    HandleError,
    HubdistError,
    IntegrityError,
    ModelNotFoundError,
    OriginError,
    TransferTimeoutError,
)
from hubdist.system.faults import Diagnosis, Fault

CREDENTIALS = {
    "gs": (
        "Run `gcloud auth application-default login` on this node, set GOOGLE_APPLICATION_CREDENTIALS to the file of a"
        " key, or give the node a service account that may read the bucket."
    ),
    "s3": (
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE on this node, or give the node a role that may"
        " read the bucket. For a public bucket set FSSPEC_S3_ANON=true."
    ),
    "hf": "Run `hf auth login` on this node, or set HF_TOKEN; for a gated model, accept its terms first.",
    "kaggle": "Set KAGGLE_API_TOKEN, or KAGGLE_USERNAME and KAGGLE_KEY, where the driver runs.",
    "az": (
        "Set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY on this node, run `az login` there, or give the"
        " node an identity that may read the container."
    ),
    "http": (
        "Give credentials that may read it: a header by `origin_headers`, a login in .netrc where the driver runs, or a"
        " fresh signed URL."
    ),
    "": "Give this node credentials for this storage.",
}
_TRUST = {
    "gs": "Set SSL_CERT_FILE and REQUESTS_CA_BUNDLE to the file of your own CA.",
    "s3": "Set AWS_CA_BUNDLE to the file of your own CA.",
    "kaggle": "Set REQUESTS_CA_BUNDLE to the file of your own CA.",
    "http": "Set REQUESTS_CA_BUNDLE to the file of your own CA.",
    "": "Set SSL_CERT_FILE to the file of your own CA.",
}
_HIDDEN = {"hf": f"If it is private: {CREDENTIALS['hf']}", "": None}
"""Where a server says of what may not be read that it is not there."""

_ALIKE = {"https": "http", "abfs": "az", "abfss": "az", "adl": "az", "gcs": "gs", "s3a": "s3"}


@dataclass(frozen=True, slots=True)
class Row:
    """What a kind of failure becomes.

    Attributes:
        kind: The class of the error.
        what: What happened; `{place}`, `{verb}`, `{name}` (class of the exception), `{host}` and `{detail}` are filled
            in.
        advice: What to do; a mapping has one for each scheme and one under "" for all others.
    """

    kind: type[HubdistError]
    what: str
    advice: str | Mapping[str, str | None] | None = None


_CLOCK = "Set the clock of this node, for example by NTP."
_SEE_DNS = "Check the name, and whether this node resolves names: `getent hosts NAME`."
_NOT_READ = "{place} cannot be {verb}: "

TABLE: dict[Fault, Row] = {
    Fault.MISSING: Row(ModelNotFoundError, "there is nothing at {place}", _HIDDEN),
    Fault.NO_CREDENTIALS: Row(
        AccessDeniedError, "{place} may not be {verb}: there are no credentials for it on this node", CREDENTIALS
    ),
    Fault.REFUSED_CREDENTIALS: Row(
        AccessDeniedError,
        "{place} may not be {verb}: the credentials of this node are refused; they are wrong or have expired",
        CREDENTIALS,
    ),
    Fault.DENIED: Row(AccessDeniedError, "{place} may not be {verb} ({name}{detail})", CREDENTIALS),
    Fault.CLOCK: Row(
        AccessDeniedError, "{place} may not be {verb}: the clock of this node is not that of the server", _CLOCK
    ),
    Fault.UNKNOWN_HOST: Row(OriginError, _NOT_READ + "the name of {host} does not resolve", _SEE_DNS),
    Fault.UNTRUSTED: Row(OriginError, _NOT_READ + "the certificate of {host} is not trusted", _TRUST),
    Fault.CERTIFICATE_EXPIRED: Row(
        OriginError,
        _NOT_READ + "the certificate of {host} has expired",
        "Whoever runs the server must renew it, or the clock of this node is wrong.",
    ),
    Fault.CERTIFICATE_EARLY: Row(
        OriginError,
        _NOT_READ + "the certificate of {host} is not valid yet, so the clock of this node is wrong",
        _CLOCK,
    ),
    Fault.CERTIFICATE_NAME: Row(
        OriginError,
        _NOT_READ + "the certificate of {host} is for another name",
        "Write the name that the certificate is for, or look whether a proxy answers instead of the server.",
    ),
    Fault.NO_TLS: Row(
        OriginError,
        _NOT_READ + "{host} does not speak TLS at this port",
        "Write http:// instead of https:// in the handle or endpoint, or the port for TLS.",
    ),
    Fault.TLS_REFUSED: Row(
        OriginError,
        _NOT_READ + "{host} and this node agree on no TLS connection{detail}",
        "The server wants another version of TLS or a certificate of the client.",
    ),
    Fault.WANTS_TLS: Row(
        OriginError, _NOT_READ + "{host} speaks TLS at this port", "Write https:// in the handle or endpoint."
    ),
    Fault.PROXY: Row(
        OriginError,
        _NOT_READ + "the proxy does not let it pass{detail}",
        "Check HTTPS_PROXY and HTTP_PROXY, the name and password in them, and NO_PROXY.",
    ),
    Fault.SETTING: Row(
        HandleError,
        _NOT_READ + "its storage cannot be found with the settings of this node ({name})",
        "Set region, endpoint and account as the package for this storage wants them; for s3:// AWS_DEFAULT_REGION"
        " and AWS_ENDPOINT_URL.",
    ),
    Fault.NOT_CONNECTED: Row(
        OriginError,
        _NOT_READ + "{host} refused the connection",
        "Check the port, and whether the server runs and HTTPS_PROXY, if it is set, is right.",
    ),
    Fault.BUSY: Row(OriginError, _NOT_READ + "it has too many requests, and asks to come later", "Try again later."),
    Fault.LATE: Row(TransferTimeoutError, "{place} gave no data in time ({name})"),
    Fault.INTERRUPTED: Row(OriginError, _NOT_READ + "{name}{detail}"),
    Fault.DAMAGED: Row(IntegrityError, "{place} is damaged or incomplete ({name})"),
    Fault.OTHER: Row(OriginError, _NOT_READ + "{name}{detail}"),
}
"""Each kind but FULL, whose error has fields of its own."""


def error_for(
    found: Diagnosis, place: str, *, name: str, verb: str = "read", scheme: str | None = None, tries: str = ""
) -> HubdistError:
    """The error for a failure, by the table.

    Args:
        found: The failure; not FULL.
        place: The URL or path without secrets.
        name: The class of the foreign exception.
        verb: What was being done, as a participle.
        scheme: Whose credentials and certificates the advice is about; None is the scheme of `place`.
        tries: How often it was tried, such as `6 times`; "" for once.
    """
    row = TABLE[found.fault]
    host = found.host or "the server"
    detail = f" ({found.detail})" if found.detail else ""
    if found.fault is Fault.DENIED:
        detail = f", {found.detail}" if found.detail else ""
    what = row.what.format(place=place, verb=verb, name=name, host=host, detail=detail)
    return row.kind(
        f"{what}, {tries}" if tries else what,
        advice=_advice(row, scheme or place.rpartition("::")[2].partition("://")[0]),
    )


def _advice(row: Row, scheme: str) -> str | None:
    if isinstance(row.advice, Mapping):
        return row.advice.get(_ALIKE.get(scheme, scheme), row.advice[""])
    return row.advice
