"""Times the work that resolves a handle, logs what it found, and names the handle in its errors."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from hubdist.errors import HubdistError
from hubdist.model.handle import Handle
from hubdist.resolver.values import Pinned

_LOG = logging.getLogger(__name__)


def timed(handle: Handle, work: Callable[[], Pinned | None]) -> Pinned | None:
    """Do some work, log what it found and how long it took, and name the handle in its errors.

    Args:
        handle: The handle.
        work: Returns what the handle stands for, or None.

    Raises:
        HubdistError: What `work` raised.
    """
    begin = time.monotonic()
    try:
        pinned = work()
    except HubdistError as error:
        raise error.with_context(handle=handle.redacted) from error.__cause__
    if pinned is None:
        return None
    pinned = replace(pinned, seconds=time.monotonic() - begin)
    report = pinned.report
    _LOG.info(
        "hubdist: %s is %s, %d bytes from the %s in %.2f s",
        report.handle,
        report.digest,
        report.total_bytes,
        report.source,
        report.seconds,
    )
    return pinned
