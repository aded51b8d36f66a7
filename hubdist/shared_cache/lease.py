"""A lease on storage: the right to do one piece of work, held by an owner that shows it is alive.

    <directory>/leases/<name>/<term>     {"owner": <random digits>, "beat": <count>}

The highest term owns the lease. A term is taken with a create-only write, so two processes cannot have the same. The
owner writes its term again every `beat_s` seconds. A waiter takes the next term when the owner's has not changed for
`stale_s` seconds by the waiter's own clock. No clocks are compared, and only the owner deletes anything.

An owner that was suspended and wakes after another process took over does its work a second time. So a lease saves
double work, but right results never depend on it. Where storage has no create-only writes there is no lease.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from hubdist.errors import HubdistError
from hubdist.remote import Tree, open_tree
from hubdist.system.deadline import Deadline, Deadlines

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")
_MAX_STALL_S = 5.0
_MAX_RETRIES = 2
_END_S = 15.0


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """The rhythm of a lease. All processes that share a lease must use the same times.

    Attributes:
        beat_s: Seconds between two signs of life of an owner.
        stale_s: Seconds without a sign of life, as a waiter sees it, after which the waiter takes over.
        poll_s: Seconds between two looks of a waiter, because object storage does not report changes.
    """

    beat_s: float = 3.0
    stale_s: float = 10.0
    poll_s: float = 1.0


_TIMES = LeaseTimes()


@contextlib.contextmanager
def hold_lease(
    url: str, name: str, deadlines: Deadlines, done: Callable[[], _T | None], times: LeaseTimes = _TIMES
) -> Iterator[_T | None]:
    """Wait until this process may do a piece of work, or another process has done it.

    Args:
        url: The directory on storage that all processes which may do the work name.
        name: The name of the work: letters, digits, `.`, `_`, `-`.
        deadlines: Timeouts and retries; after `total_s` the block runs without the lease.
        done: Looks whether the work is done; called about once in `times.poll_s`.
        times: The rhythm of the lease.

    Yields:
        What `done` returned, or None: then the block does the work, and keeps the lease while it runs.

    Raises:
        ValueError: The name is not allowed.
        ResolveError, TransferError: The directory cannot be read or written.
        Exception: What `done` raised.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"not a name of a lease: {name!r}")
    quick = replace(
        deadlines, stall_s=min(deadlines.stall_s, _MAX_STALL_S), retries=min(deadlines.retries, _MAX_RETRIES)
    )
    with open_tree(url, quick) as tree:
        if not tree.exclusive:
            yield done()
            return
        lease = _Lease(tree, f"leases/{name}", times)
        try:
            found = lease.acquire(done, Deadline(deadlines.total_s))
            if found is None:
                lease.start()
            else:
                lease.release()
            yield found
        finally:
            lease.release()


class _Lease:
    def __init__(self, tree: Tree, folder: str, times: LeaseTimes) -> None:
        self._tree = tree
        self._folder = folder
        self._times = times
        self._owner = secrets.token_hex(16)
        self._term: int | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, done: Callable[[], _T | None], deadline: Deadline) -> _T | None:
        """Wait for the lease, or until `done` finds something; after the deadline, return without either."""
        seen: tuple[int, bytes | None] | None = None
        silent = Deadline(self._times.stale_s)
        while (found := done()) is None:
            highest = max(self._terms(), default=0)
            sign = self._tree.load(self._path(highest)) if highest else b""
            if seen != (highest, sign):
                seen, silent = (highest, sign), Deadline(self._times.stale_s)
            if highest == 0 or (sign is not None and silent.remaining_s() <= 0):
                if self._claim(highest + 1):
                    if highest:
                        _LOG.warning("hubdist: took over %s, whose owner is silent", self._tree.url(self._folder))
                    return done()  # the former owner may have finished after the last look
                continue
            if deadline.remaining_s() <= 0:
                _LOG.warning("hubdist: %s is held for %g s; going on", self._tree.url(self._folder), deadline.timeout_s)
                return None
            self._ended.wait(min(self._times.poll_s, deadline.remaining_s()))
        return found

    def start(self) -> None:
        """Show signs of life until `release`."""
        if self._term is not None:
            self._thread = threading.Thread(target=self._beat, name="hubdist-lease", daemon=True)
            self._thread.start()

    def release(self) -> None:
        """End the signs of life and delete the terms; the own term last, so that it covers the others."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(_END_S)
        if self._term is None:
            return
        own, self._term = self._term, None
        try:
            for term in sorted(term for term in self._terms() if term < own):
                self._tree.delete(self._path(term))
            if self._is_own(own):
                self._tree.delete(self._path(own))
        except HubdistError as error:
            _LOG.warning(
                "hubdist: a lease could not be given back, others wait %g s for it: %s", self._times.stale_s, error
            )

    def _beat(self) -> None:
        beat = 0
        while not self._ended.wait(self._times.beat_s):
            beat += 1
            with contextlib.suppress(HubdistError):  # the next beat is the next try
                if self._term is None or max(self._terms(), default=0) != self._term or not self._is_own(self._term):
                    _LOG.warning("hubdist: %s was taken over; going on without", self._tree.url(self._folder))
                    return
                self._tree.write(self._path(self._term), self._sign(beat))

    def _claim(self, term: int) -> bool:
        """Create a term; True if the term is ours, also when the answer to an earlier try was lost."""
        if self._tree.create(self._path(term), self._sign(0)) or self._is_own(term):
            self._term = term
            return True
        return False

    def _is_own(self, term: int) -> bool:
        sign = self._tree.load(self._path(term))
        return sign is not None and self._owner.encode() in sign

    def _sign(self, beat: int) -> bytes:
        return json.dumps({"owner": self._owner, "beat": beat}).encode()

    def _terms(self) -> list[int]:
        return [int(name) for name in self._tree.listing(self._folder) if re.fullmatch(r"[1-9]\d{0,17}", name)]

    def _path(self, term: int) -> str:
        return f"{self._folder}/{term}"
