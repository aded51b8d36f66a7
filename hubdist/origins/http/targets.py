"""Where an HTTP read may go: which URLs, which redirects, which addresses.

A handle may come from an untrusted place, and an origin may answer with any redirect. Neither may make this machine ask
its cloud for credentials, or send the user's credentials to a stranger.

The transport adapter connects only to checked addresses, never to link-local or metadata ones. A name server may answer
a first question with one address and the next question with another. So a name is resolved once, for the connection
itself; the host name stays for TLS and the Host header. A proxy resolves names by itself; connections to proxies are
urllib3's own.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit, urlunsplit

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError
from urllib3.util.connection import allowed_gai_family, create_connection

from hubdist.errors import HandleError, HubdistError, OriginError
from hubdist.model.access import server_parts
from hubdist.model.redact import redact_url
from hubdist.system.faults import fault_of

_SCHEMES = ("http", "https")
_METADATA_HOSTS = frozenset({"metadata.google.internal", "metadata.goog"})
# Link-local addresses, and those where clouds serve credentials: EC2 and GCE over IPv6, Alibaba, Oracle, Azure.
_FORBIDDEN_NETWORKS = tuple(
    ipaddress.ip_network(text)
    for text in (
        "169.254.0.0/16",
        "fe80::/10",
        "fd00:ec2::254/128",
        "fd20:ce::254/128",
        "100.100.100.200/32",
        "192.0.0.192/32",
        "168.63.129.16/32",
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def check_url(url: str) -> str:
    """Return `url` if it is an http or https URL with a host that may be asked.

    Raises:
        HandleError: The URL is invalid, of another scheme, or names a link-local or metadata address.
    """
    redacted = redact_url(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise HandleError(f"{redacted!r} is not a valid URL") from None
    # Parsers of URLs disagree on where a host ends at a backslash or a control character, so both are refused.
    if parts.scheme not in _SCHEMES or not parts.hostname or port == 0 or "\\" in parts.netloc or not url.isprintable():
        raise HandleError(f"{redacted!r} is not an http or https URL")
    if is_forbidden_host(parts.hostname):
        raise HandleError(f"{redacted} is a link-local or metadata address, which hubdist never asks")
    return url


def redirect_target(base: str, location: str) -> str:
    """The URL that a redirect leads to, without userinfo and fragment.

    Args:
        base: URL of the answer that redirects.
        location: Its Location header.

    Raises:
        OriginError: It leads from https to http, or `check_url` refuses the target.
    """
    redacted = redact_url(base)
    refusal: HubdistError
    try:
        # Credentials come from the caller only. Drop those that an origin puts into a Location.
        target = split_userinfo(urldefrag(urljoin(base, location)).url)[0]
        check_url(target)
    except HandleError as error:
        refusal = OriginError(f"{redacted} redirects where hubdist does not follow: {error.what}")
    except ValueError:
        refusal = OriginError(f"{redacted} redirects to an invalid URL")
    else:
        if urlsplit(base).scheme == "https" and urlsplit(target).scheme == "http":
            raise OriginError(f"{redacted} redirects from https to http, to {redact_url(target)}")
        return target
    raise refusal


def same_origin(one: str, other: str) -> bool:
    """True if scheme, host and port agree, so that credentials for one URL may go to the other.

    Args:
        one: An http or https URL.
        other: Another one.
    """
    return server_parts(urlsplit(one)) == server_parts(urlsplit(other))


def split_userinfo(url: str) -> tuple[str, tuple[str, str] | None]:
    """The URL without userinfo, and the decoded name and password if it had one."""
    parts = urlsplit(url)
    userinfo, found, host = parts.netloc.rpartition("@")
    if not found:
        return url, None
    name, _, password = userinfo.partition(":")
    return urlunsplit(parts._replace(netloc=host)), (unquote(name), unquote(password))


def is_forbidden_host(host: str) -> bool:
    """True for a name or literal address that serves a cloud's metadata, and for link-local addresses."""
    name = host.rstrip(".").lower()
    return name in _METADATA_HOSTS or is_forbidden_address(name)


def is_forbidden_address(text: str) -> bool:
    """True for a link-local or metadata address, also inside an IPv6 form; False if `text` is not an address."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address.sixtofour or _nat64(address) or address
    return any(address in network for network in _FORBIDDEN_NETWORKS if network.version == address.version)


def _nat64(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None


class ForbiddenAddressError(Exception):
    """A host name leads to a forbidden address; never leaves the origins."""


class UnknownHostError(Exception):
    """A host name does not resolve; never leaves the origins.

    Args:
        host: The name.
        may_pass: No name server gave an answer, so another try may get one.
    """

    def __init__(self, host: str, *, may_pass: bool) -> None:
        super().__init__(host)
        self.may_pass = may_pass


def allowed_addresses(host: str, port: int) -> list[str]:
    """Resolve a host name, and check every address.

    Args:
        host: A name or a literal address.
        port: The port to connect to.

    Raises:
        OSError, UnicodeError: The name does not resolve.
        ForbiddenAddressError: An address may not be asked.
    """
    found = socket.getaddrinfo(host.strip("[]"), port, allowed_gai_family(), socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(address[4][0]) for address in found))
    if any(is_forbidden_address(address) for address in addresses):
        raise ForbiddenAddressError
    return addresses


class CheckedAdapter(HTTPAdapter):
    """Transport for requests whose direct connections go to allowed addresses only."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Make the pools like requests, with connections that check addresses."""
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _CheckedPool, "https": _CheckedTlsPool}


class _Checked(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        """Connect to the first allowed address that answers; raises urllib3's errors."""
        try:
            addresses = allowed_addresses(self._dns_host, self.port)
        except (socket.gaierror, UnicodeError) as error:
            raise UnknownHostError(self.host, may_pass=fault_of(error).may_pass) from None
        failure: OSError = OSError("the name has no address")
        for address in addresses:
            try:
                return create_connection(
                    (address, self.port),
                    self.timeout,
                    source_address=self.source_address,
                    socket_options=self.socket_options,
                )
            except OSError as error:
                failure = error
        if isinstance(failure, TimeoutError):
            raise ConnectTimeoutError(self, f"no connection within {self.timeout} s") from failure
        raise NewConnectionError(self, "no connection") from failure


class _CheckedTls(HTTPSConnection, _Checked):
    pass


class _CheckedPool(HTTPConnectionPool):
    ConnectionCls = _Checked


class _CheckedTlsPool(HTTPSConnectionPool):
    ConnectionCls = _CheckedTls
