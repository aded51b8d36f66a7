"""Encrypts streams where Ray itself encrypts, with the certificates that Ray's processes have.

Each end shows a certificate of Ray's authority before it says anything, as Ray's own connections do; a child also
checks that the certificate is for the parent's address. There is no way back to plain bytes: with an `Encryption`, a
port speaks TLS and nothing else.
"""

from __future__ import annotations

import socket
import ssl

TlsFiles = tuple[str, str, str]
"""A node's certificate, its private key, and the certificates of those who sign nodes' certificates: the files that Ray
is told of by `RAY_TLS_SERVER_CERT`, `RAY_TLS_SERVER_KEY` and `RAY_TLS_CA_CERT`."""


class Encryption:
    """Wraps connections of streams in TLS. Safe for several threads.

    Args:
        files: Read once, as Ray does.

    Raises:
        OSError: A file is not there, or is no certificate or key.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._as_parent = _context(ssl.PROTOCOL_TLS_SERVER, files)
        self._as_parent.verify_mode = ssl.CERT_REQUIRED
        self._as_parent.num_tickets = 0  # no session is resumed, and whoever is silent shall have nothing to read
        self._as_child = _context(ssl.PROTOCOL_TLS_CLIENT, files)

    def accept(self, connection: socket.socket) -> ssl.SSLSocket:
        """Wrap a connection that came, without a word to the other end yet.

        Args:
            connection: It is closed, or belongs to what is returned.
        """
        return self._as_parent.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

    def connect(self, connection: socket.socket, host: str, timeout_s: float) -> ssl.SSLSocket:
        """Wrap a connection that this process opened, and agree with the other end on keys.

        Args:
            connection: It belongs to what is returned, or is closed.
            host: The address for which the other end's certificate must be.
            timeout_s: Longest time in seconds.

        Raises:
            OSError: The other end does not speak TLS, has no right certificate, does not take this one, or is silent.
        """
        connection.settimeout(timeout_s)
        try:
            return self._as_child.wrap_socket(connection, server_hostname=host)
        except BaseException:
            connection.close()
            raise


def _context(protocol: int, files: TlsFiles) -> ssl.SSLContext:
    certificate, key, authority = files
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authority)
    return context
