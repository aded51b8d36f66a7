"""Calls of the operating system that Linux and macOS spell differently, or that macOS does not have.

hubdist is made for Linux. On macOS a developer's laptop is meant to work, as one node; nobody tests it there.
"""

from __future__ import annotations

import fcntl
import os
import socket

MSG_MORE: int = getattr(socket, "MSG_MORE", 0)
"""Flag for `send`: more follows, so wait with the packet. Without it there is one small packet more."""

TMPFILE: int | None = getattr(os, "O_TMPFILE", None)
"""Flag for `open` of a directory: a file without a name; None where there are none."""

_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)


def sync_file(descriptor: int) -> None:
    """Make the bytes of an open file, or the names in an open directory, durable.

    On macOS `fsync` hands the bytes to the disk, which may keep them in its memory; F_FULLFSYNC writes them. File
    systems that do not know it, such as network ones, say so, and `fsync` is all that can be had.

    Args:
        descriptor: The open file.

    Raises:
        OSError: The disk refuses.
    """
    if _FULL_SYNC is not None:
        try:
            fcntl.fcntl(descriptor, _FULL_SYNC)
        except OSError:
            os.fsync(descriptor)
        return
    os.fsync(descriptor)


def will_read_in_order(descriptor: int) -> None:
    """Tell the system that a file is read from its beginning to its end, where the system listens to that.

    Args:
        descriptor: The open file.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)


def forget_pages(descriptor: int) -> None:
    """Let the system drop a file's bytes from its memory, so that the next read goes to the disk, where it can.

    Args:
        descriptor: The open file; its bytes are durable.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def usable_cpus() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def bound_unanswered(connection: socket.socket, seconds: float) -> None:
    """Break a connection whose other end does not confirm what was sent, where the system can.

    Elsewhere a send that takes too long ends by the socket's own time-out, once its buffer is full.

    Args:
        connection: A TCP socket.
        seconds: Longest time until the other end confirms.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))
