"""Clones: ranges of two files that share their blocks on the disk, where the file system can do that (reflink).

A clone costs no space and no copying. When one of the files is written to later, the other one keeps its bytes.
"""

from __future__ import annotations

import errno
import fcntl
import struct

_CLONE_RANGE = 0x4020940D
"""FICLONERANGE of ioctl(2), which Python names from 3.12 on."""

_RANGE = struct.Struct("qQQQ")
_CANNOT = (
    errno.EOPNOTSUPP,
    errno.ENOTTY,
    errno.ENOSYS,
    errno.EXDEV,
    errno.EINVAL,
    errno.EPERM,
    errno.EACCES,
    errno.ETXTBSY,
)
"""Errors of file systems that cannot share these blocks: none at all, or not across disks, or only whole blocks."""


def clone_range(source: int, source_start: int, target: int, target_start: int, size: int) -> bool:
    """Let a range of one open file have the bytes of a range of another one, without copying them.

    Args:
        source: Descriptor of the file that has the bytes.
        source_start: Offset of the first byte there; a multiple of the file system's block size.
        target: Descriptor of the file that gets them, open for writing; it grows if it is too short.
        target_start: Offset of the first byte there; a multiple of the file system's block size.
        size: Bytes.

    Returns:
        False if the file system cannot do this; the target is as it was then.

    Raises:
        OSError: The disk is full or fails.
    """
    try:
        fcntl.ioctl(target, _CLONE_RANGE, _RANGE.pack(source, source_start, size, target_start))
    except OSError as error:
        if error.errno in _CANNOT:
            return False
        raise
    return True
