"""Sockets for streams: blocking, with the kernel's own time-outs, so that whole buffers are filled by single calls.

Python's `settimeout` makes a socket non-blocking underneath: `MSG_WAITALL` would return short reads, and `os.sendfile`
would fail instead of waiting. The time-outs of the kernel have neither effect. Encrypted sockets have neither call,
and wait for ever where the kernel's time-out ends a call; they have Python's.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import struct
from collections.abc import Iterable

from hubdist.errors import PeerError, TransferTimeoutError
from hubdist.system.portable import MSG_MORE, bound_unanswered

_CONNECT_S = 2.0
_ENCRYPTED_BYTES = 1 << 16
"""How much is encrypted and sent at a time: a sender's time-out holds for so many bytes."""

_TIMEVAL = struct.Struct("@ll")


def connect(address: tuple[str, int], *, timeout_s: float = _CONNECT_S) -> socket.socket:
    """Open a connection.

    Args:
        address: Host and port.
        timeout_s: Longest time in seconds until the other end has accepted.

    Raises:
        OSError: The other end cannot be reached, or does not answer in time.
    """
    connection = socket.create_connection(address, timeout=timeout_s)
    connection.settimeout(None)
    return connection


def listen(host: str, ports: Iterable[int]) -> socket.socket:
    """Listen on a port; the socket does not block.

    Args:
        host: The address.
        ports: The ports to choose from, the first that is free; 0 lets the system choose.

    Raises:
        OSError: No port can be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    last: OSError | None = None
    for port in ports:
        try:
            listener = socket.create_server((host, port), family=family, backlog=512)
        except OSError as error:
            last = error
        else:
            listener.setblocking(False)
            return listener
    raise last if last is not None else OSError("there are no ports to choose from")


def set_timeouts(connection: socket.socket, *, receive_s: float, send_s: float) -> None:
    """Bound how long a blocking call may see no byte move.

    Args:
        connection: A connected socket; it becomes blocking.
        receive_s: Longest time in seconds that a `recv` waits for its next byte.
        send_s: Longest time in seconds that a send waits until the other end takes a byte. An encrypted socket has one
            limit for both, the longer.
    """
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    bound_unanswered(connection, send_s)
    if isinstance(connection, ssl.SSLSocket):
        connection.settimeout(max(receive_s, send_s))
        return
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(receive_s))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(send_s))


def receive_into(connection: socket.socket, view: memoryview) -> None:
    """Fill a buffer.

    Args:
        connection: A socket that `set_timeouts` was called for.
        view: The buffer.

    Raises:
        TransferTimeoutError: No byte came in time.
        PeerError: The other end has closed the connection.
    """
    filled, flags = 0, 0 if isinstance(connection, ssl.SSLSocket) else socket.MSG_WAITALL
    while filled < len(view):
        try:
            count = connection.recv_into(view[filled:], 0, flags)
        except (BlockingIOError, TimeoutError):
            raise TransferTimeoutError("the other end of a stream is silent") from None
        except OSError as error:
            raise PeerError(f"a stream broke: {error.strerror}") from None
        if not count:
            raise PeerError("the other end of a stream closed it")
        filled += count


def receive(connection: socket.socket, size: int) -> bytearray:
    """Receive exactly so many bytes.

    Args:
        connection: A socket that `set_timeouts` was called for.
        size: How many bytes.

    Raises:
        TransferTimeoutError: No byte came in time.
        PeerError: The other end has closed the connection.
    """
    data = bytearray(size)
    receive_into(connection, memoryview(data))
    return data


def send(connection: socket.socket, data: bytes) -> None:
    """Send all of some bytes.

    Args:
        connection: A socket that `set_timeouts` was called for.
        data: The bytes.

    Raises:
        TransferTimeoutError: The other end takes no byte.
        PeerError: The other end has closed the connection.
    """
    try:
        connection.sendall(data)
    except (BlockingIOError, TimeoutError):
        raise TransferTimeoutError("the other end of a stream takes no byte") from None
    except OSError as error:
        raise PeerError(f"a stream broke: {error.strerror}") from None


def send_head(connection: socket.socket, data: bytes) -> None:
    """Send what bytes of a file follow at once: in one packet with the first of them, where that can be had.

    Args:
        connection: A socket that `set_timeouts` was called for.
        data: The bytes.

    Raises:
        OSError: The other end has closed the connection, or takes no byte.
    """
    connection.sendall(data, 0 if isinstance(connection, ssl.SSLSocket) else MSG_MORE)


def send_file(connection: socket.socket, descriptor: int, start: int, end: int) -> None:
    """Send a part of a file: by the kernel from its own memory, or encrypted.

    Args:
        connection: A socket that `set_timeouts` was called for.
        descriptor: The open file.
        start: Offset of the first byte.
        end: Offset behind the last byte.

    Raises:
        EOFError: The file ends before, at the offset that the error holds.
        OSError: The other end has closed the connection, or takes no byte; or the file cannot be read.
    """
    at, is_encrypted = start, isinstance(connection, ssl.SSLSocket)
    while at < end:
        if is_encrypted:
            data = os.pread(descriptor, min(_ENCRYPTED_BYTES, end - at), at)
            connection.sendall(data)
            sent = len(data)
        else:
            sent = os.sendfile(connection.fileno(), descriptor, at, end - at)
        if not sent:
            raise EOFError(at)
        at += sent


def shut_down(connection: socket.socket) -> None:
    """End a connection that another thread uses.

    Args:
        connection: A socket, perhaps closed.
    """
    with contextlib.suppress(OSError):
        # Not `connection.shutdown`: that of an encrypted socket drops the encryption first, and the other thread would
        # send its next bytes plainly.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def is_silent(connection: socket.socket) -> bool:
    """True if the other end has said nothing that nobody has read yet, and has not closed the connection.

    Args:
        connection: A socket of which nothing is being read.
    """
    poll = select.poll()
    try:
        poll.register(connection, select.POLLIN)
        return not poll.poll(0)
    except (OSError, ValueError):  # it is closed
        return False


def _timeval(seconds: float) -> bytes:
    return _TIMEVAL.pack(int(seconds), int(seconds % 1 * 1_000_000))
