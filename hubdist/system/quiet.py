"""Drop what libraries log while hubdist calls them: it comes many times, and may hold URLs with signatures.

What matters of it becomes an error or a log line of hubdist's. That a library logged something is noted at DEBUG.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar

_LOG = logging.getLogger(__name__)
_LIBRARIES = frozenset(
    {
        *("adlfs", "aiobotocore", "aiohttp", "asyncio", "azure", "botocore", "fsspec", "gcsfs", "google", "grpc"),
        *("httpcore", "httpcore2", "httpx", "httpx2", "huggingface_hub", "kagglehub", "kagglesdk", "ocifs", "ossfs"),
        *("requests", "requests_oauthlib", "s3fs", "urllib3"),
    }
)
_in_call: ContextVar[bool] = ContextVar("hubdist_in_foreign_call", default=False)


class _DropOwn(logging.Filter):
    """Drops the records of calls that hubdist makes, in whichever thread they run; other code keeps its records."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not _in_call.get():
            return True
        place = f"{record.name}, line {record.lineno} of {record.filename}"
        _LOG.debug("hubdist: dropped a record of level %s of %s", record.levelname, place)
        return False


_DROP_OWN = _DropOwn()
_seen = 0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop the log records of libraries that code in the block causes.

    A library that the block imports for the first time is heard until the next `quiet` begins: a block that calls it
    must be another one than the block that imports it.
    """
    _attach()
    token = _in_call.set(True)
    try:
        yield
    finally:
        _in_call.reset(token)


@contextlib.contextmanager
def audible() -> Iterator[None]:
    """Let log records through again, for functions of users that hubdist calls."""
    token = _in_call.set(False)
    try:
        yield
    finally:
        _in_call.reset(token)


def _attach() -> None:
    """Give the filter to loggers that are new: a filter of a logger does not see the records of its children."""
    global _seen  # noqa: PLW0603 - how many loggers were looked through; only saves time
    loggers = logging.root.manager.loggerDict
    if len(loggers) == _seen:
        return
    _seen = len(loggers)
    for name in list(loggers):
        if name.partition(".")[0] in _LIBRARIES:
            logging.getLogger(name).addFilter(_DROP_OWN)  # adding it again changes nothing
