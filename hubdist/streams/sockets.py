"""Sockets for streams: blocking, with the kernel's own time-outs, so that whole buffers are filled by single calls.

Python's `settimeout` makes a socket non-blocking underneath: `MSG_WAITALL` would return short reads, and `os.sendfile`
would fail instead of waiting. The time-outs of the kernel have neither effect.
"""

from __future__ import annotations

import socket
import struct

from hubdist.errors import PeerError, TransferTimeoutError
from hubdist.system.portable import bound_unanswered

_CONNECT_S = 2.0
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


def set_timeouts(connection: socket.socket, *, receive_s: float, send_s: float) -> None:
    """Bound how long a blocking call may see no byte move.

    Args:
        connection: A connected socket; it becomes blocking.
        receive_s: Longest time in seconds that a `recv` waits for its next byte.
        send_s: Longest time in seconds that a send waits until the other end takes a byte.
    """
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(receive_s))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(send_s))
    bound_unanswered(connection, send_s)


def receive_into(connection: socket.socket, view: memoryview) -> None:
    """Fill a buffer.

    Args:
        connection: A socket that `set_timeouts` was called for.
        view: The buffer.

    Raises:
        TransferTimeoutError: No byte came in time.
        PeerError: The other end has closed the connection.
    """
    filled = 0
    while filled < len(view):
        try:
            count = connection.recv_into(view[filled:], 0, socket.MSG_WAITALL)
        except BlockingIOError:
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
    except BlockingIOError:
        raise TransferTimeoutError("the other end of a stream takes no byte") from None
    except OSError as error:
        raise PeerError(f"a stream broke: {error.strerror}") from None


def _timeval(seconds: float) -> bytes:
    return _TIMEVAL.pack(int(seconds), int(seconds % 1 * 1_000_000))
