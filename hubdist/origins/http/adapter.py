"""A transport adapter for requests that connects only to checked addresses, never to link-local or metadata ones.

A name server may answer a first question with one address and the next question with another. So a name is resolved
once, for the connection itself; the host name stays for TLS and the Host header. A proxy resolves names by itself;
connections to proxies are urllib3's own.
"""

from __future__ import annotations

import socket
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError
from urllib3.util.connection import allowed_gai_family, create_connection

from hubdist.origins.http.targets import is_forbidden_address


class ForbiddenAddressError(Exception):
    """A host name leads to a forbidden address; never leaves the origins."""


class UnknownHostError(Exception):
    """A host name does not resolve; never leaves the origins."""


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
        except (socket.gaierror, UnicodeError):
            raise UnknownHostError(self.host) from None
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
