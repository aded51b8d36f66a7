"""The kinds of failure: what an exception of any library tells, and what the table says of each."""

from __future__ import annotations

import datetime as dt
import email.utils
import http.client
import re
import socket
import ssl
from typing import Any

import pytest
import requests

from hubdist.errors import HubdistError
from hubdist.system.answers import retry_after_s
from hubdist.system.faults import Diagnosis, Fault, causes_of, diagnose, fault_of
from hubdist.system.mends import TABLE, error_for
from tests.support import REPOSITORY


def like(name: str, *args: object, **fields: Any) -> Exception:
    made: Exception = type(name, (Exception,), {})(*args)
    vars(made).update(fields)
    return made


def certificate_error(number: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code = number
    return error


def tls_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


def raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def raised_while(error: Exception, context: Exception) -> Exception:
    error.__context__ = context
    return error


NO_NAME = socket.gaierror(socket.EAI_NONAME, "unknown")
WRAPPERS = {
    "as it is": lambda inner: inner,
    "in args": lambda inner: like("ClientConnectorError", "key", inner),
    "in the reason": lambda inner: requests.ConnectionError(like("MaxRetryError", reason=inner)),
    "in kwargs": lambda inner: like("EndpointConnectionError", kwargs={"error": inner}),
    "as its cause": lambda inner: raised_from(like("ConnectError"), inner),
    "as its context": lambda inner: raised_while(like("ConnectError"), inner),
    "in a group": lambda inner: ExceptionGroup("all addresses", [inner]),
}
NETWORK = {
    "no name": (NO_NAME, Fault.UNKNOWN_HOST),
    "no address": (socket.gaierror(socket.EAI_NODATA, ""), Fault.UNKNOWN_HOST),
    "silent name server": (socket.gaierror(socket.EAI_AGAIN, ""), Fault.INTERRUPTED),
    "unknown authority": (certificate_error(20), Fault.UNTRUSTED),
    "expired": (certificate_error(10), Fault.CERTIFICATE_EXPIRED),
    "not yet valid": (certificate_error(9), Fault.CERTIFICATE_EARLY),
    "other name": (certificate_error(62), Fault.CERTIFICATE_NAME),
    "other address": (certificate_error(64), Fault.CERTIFICATE_NAME),
    "plain port": (tls_error("WRONG_VERSION_NUMBER"), Fault.NO_TLS),
    "old TLS": (tls_error("TLSV1_ALERT_PROTOCOL_VERSION"), Fault.TLS_REFUSED),
    "port for TLS": (http.client.BadStatusLine("\x15\x03\x03\x00\x02\x02\x46"), Fault.WANTS_TLS),
    "refused": (ConnectionRefusedError(111, "refused"), Fault.NOT_CONNECTED),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", NETWORK)
def test_what_happened_is_found_in_whatever_a_library_wraps_it(name: str, wrapper: str) -> None:
    inner, fault = NETWORK[name]
    assert fault_of(WRAPPERS[wrapper](inner)) is fault


def test_a_context_that_was_suppressed_does_not_count() -> None:
    error = raised_while(like("Strange"), NO_NAME)
    error.__suppress_context__ = True
    assert fault_of(error) is Fault.OTHER


def test_a_missing_file_stays_missing_whatever_was_tried_before() -> None:
    assert fault_of(raised_while(FileNotFoundError("m"), NO_NAME)) is Fault.MISSING


def test_a_gated_model_is_refused_and_not_missing() -> None:
    assert fault_of(raised_from(FileNotFoundError("m"), like("GatedRepoError"))) is Fault.DENIED


def test_causes_in_a_circle_end() -> None:
    one, other = like("One"), like("Other")
    one.__cause__, other.__cause__ = other, one
    assert list(causes_of(one)) == [one, other]


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ("Invalid JWT Signature.", Fault.REFUSED_CREDENTIALS),
        ("Token has been expired or revoked.", Fault.REFUSED_CREDENTIALS),
        ("Invalid JWT: Token must be a short-lived token (60 minutes). Check your iat and exp values.", Fault.CLOCK),
    ],
)
def test_why_google_does_not_renew_a_token(said: str, fault: Fault) -> None:
    answer = {"error": "invalid_grant", "error_description": said}
    assert fault_of(like("RefreshError", "invalid_grant", answer)) is fault


def test_a_renewal_that_may_pass_is_tried_again() -> None:
    assert fault_of(like("RefreshError", "busy", retryable=True)).may_pass


@pytest.mark.parametrize(
    ("minutes", "fault"), [(0, Fault.DENIED), (4, Fault.DENIED), (-61, Fault.CLOCK), (61, Fault.CLOCK)]
)
def test_a_refusal_by_a_server_with_another_time_is_about_the_clock(minutes: int, fault: Fault) -> None:
    then = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=minutes)
    response = requests.Response()
    response.status_code = 403
    response.headers["Date"] = email.utils.format_datetime(then, usegmt=True)
    assert fault_of(requests.HTTPError("no", response=response)) is fault


def test_a_proxy_that_cannot_reach_the_server_may_reach_it_later() -> None:
    tunnel = requests.exceptions.ProxyError("", OSError("Tunnel connection failed: 503 Service Unavailable"))
    assert diagnose(tunnel) == Diagnosis(Fault.INTERRUPTED, "the proxy answered 503")


@pytest.mark.parametrize(
    "error",
    [
        like("ClientConnectorDNSError", "key", NO_NAME, host="some.example"),
        requests.ConnectionError(like("MaxRetryError", pool=like("Pool", host="some.example"), reason=NO_NAME)),
        like(
            "EndpointConnectionError",
            kwargs={"error": NO_NAME, "endpoint_url": "https://some.example/bucket?key=secret"},
        ),
    ],
)
def test_the_host_is_named(error: Exception) -> None:
    found = diagnose(error)
    assert found.host == "some.example"
    assert "the name of some.example does not resolve" in str(error_for(found, "s3://b/m", name="x"))


def answered(headers: dict[str, str]) -> requests.Response:
    response = requests.Response()
    response.status_code = 429
    response.headers.update(headers)
    return response


@pytest.mark.parametrize(
    "error",
    [
        requests.HTTPError("", response=answered({"Retry-After": "7"})),
        like(
            "ClientError", response={"ResponseMetadata": {"HTTPStatusCode": 429, "HTTPHeaders": {"retry-after": "7"}}}
        ),
        raised_from(OSError("slow"), like("HTTPStatusError", response=answered({"Retry-After": "7"}))),
        like("HttpError", code=429, headers={"retry-after": "7"}),
    ],
)
def test_a_server_that_asks_to_wait_is_heard(error: Exception) -> None:
    assert fault_of(error) in (Fault.BUSY, Fault.INTERRUPTED)
    assert retry_after_s(error) == 7.0


def test_every_kind_has_a_row_and_what_stays_has_a_mend() -> None:
    assert set(TABLE) == set(Fault) - {Fault.FULL}
    told = (Fault.MISSING, Fault.DAMAGED, Fault.OTHER)
    assert [fault for fault, row in TABLE.items() if not fault.may_pass and fault not in told and not row.advice] == []


@pytest.mark.parametrize("fault", TABLE)
@pytest.mark.parametrize(
    "place", ["gs://b/m", "tar://in::s3://b/m.tar", "abfss://c@a/m", "https://h/m", "own://m", "/m"]
)
def test_every_row_makes_an_error(fault: Fault, place: str) -> None:
    error = error_for(Diagnosis(fault, "status 400", "some.example"), place, name="Strange")
    assert isinstance(error, HubdistError)
    assert place in error.what
    assert "{" not in str(error)


def test_the_mend_is_that_of_the_storage_below_an_archive() -> None:
    error = error_for(Diagnosis(Fault.NO_CREDENTIALS), "tar://in::s3://b/m.tar", name="NoCredentialsError")
    assert "AWS_ACCESS_KEY_ID" in str(error)


def test_every_text_of_the_table_is_explained() -> None:
    page = (REPOSITORY / "docs" / "reference" / "origin-failures.md").read_text(encoding="utf-8")
    untold = {Fault.INTERRUPTED, Fault.OTHER}  # they name an exception
    for fault in TABLE.keys() - untold:
        longest = max(re.split(r"\{\w+\}", TABLE[fault].what), key=len)
        assert longest.strip(" :(),") in page, TABLE[fault].what
