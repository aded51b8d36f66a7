"""A lease on storage: the right to do one piece of work, held by an owner that shows it is alive.

    <directory>/leases/<name>/<term>     {"owner": <random digits>, "beat": <count>}

The highest term owns. A term is taken with a create-only write, so two cannot have the same. The owner writes its
term again every `BEAT_S` seconds; whoever waits takes the next term when the owner's has not changed for `STALE_S`
seconds by the waiter's own clock. No clocks are compared, and nothing is deleted by anybody but the owner.

An owner that was suspended and wakes after another took over does its work a second time. So a lease saves double
work and is never needed for right results; where storage knows no create-only writes there is none.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from hubdist.config.schema import Config
from hubdist.errors import HubdistError
from hubdist.remote import Tree, open_tree

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

BEAT_S = 3.0
"""Seconds between two signs of life of an owner."""

STALE_S = 10.0
"""Seconds without a sign of life, as a waiter sees it, after which it takes over."""

POLL_S = 1.0
"""Seconds between two looks of a waiter; object storage tells nobody of changes."""

_STALL_S = 5.0
_END_S = 15.0


@contextlib.contextmanager
def hold_lease(url: str, name: str, config: Config, done: Callable[[], _T | None]) -> Iterator[_T | None]:
    """Wait until this process may do a piece of work, or somebody else has done it.

    Args:
        url: Directory on storage that everybody who may do the work names.
        name: Of the work: letters, digits, `.`, `_`, `-`.
        config: Deadlines; after `timeout_s` the block runs without the lease.
        done: Looks whether the work is done; called about once in `POLL_S`.

    Yields:
        What `done` returned, or None: then do the work; the lease is kept while the block runs.

    Raises:
        HubdistError: The directory cannot be read or written to; or what `done` raised.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"no name of a lease: {name!r}")
    quick = {"stall_timeout_s": min(config.stall_timeout_s, _STALL_S), "origin_retries": min(config.origin_retries, 2)}
    with open_tree(url, config.replace(quick)) as tree:
        if not tree.exclusive:
            yield done()
            return
        lease = _Lease(tree, f"leases/{name}")
        try:
            found = lease.acquire(done, config.timeout_s)
            if found is None:
                lease.start()
            else:
                lease.release()
            yield found
        finally:
            lease.release()


class _Lease:
    def __init__(self, tree: Tree, folder: str) -> None:
        self._tree = tree
        self._folder = folder
        self._owner = secrets.token_hex(16)
        self._term: int | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, done: Callable[[], _T | None], timeout_s: float) -> _T | None:
        """Wait for the lease or for what `done` finds; with neither after `timeout_s`, return without."""
        deadline = time.monotonic() + timeout_s
        seen: tuple[int, bytes | None] | None = None
        since = 0.0
        while (found := done()) is None:
            highest = max(self._terms(), default=0)
            sign = self._tree.load(self._path(highest)) if highest else b""
            now = time.monotonic()
            if seen != (highest, sign):
                seen, since = (highest, sign), now
            if highest == 0 or (sign is not None and now - since >= STALE_S):
                if self._claim(highest + 1):
                    if highest:
                        _LOG.warning("hubdist: took over %s, whose owner is silent", self._tree.url(self._folder))
                    return done()  # the one before may have finished after the last look
                continue
            if now >= deadline:
                _LOG.warning("hubdist: %s is held for %g s; going on", self._tree.url(self._folder), timeout_s)
                return None
            self._ended.wait(min(POLL_S, deadline - now))
        return found

    def start(self) -> None:
        """Show signs of life until `release`."""
        if self._term is not None:
            self._thread = threading.Thread(target=self._beat, name="hubdist-lease", daemon=True)
            self._thread.start()

    def release(self) -> None:
        """End the signs of life and delete the terms; the own one last, so that it covers the others."""
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
            _LOG.warning("hubdist: a lease could not be given back, others wait %g s for it: %s", STALE_S, error)

    def _beat(self) -> None:
        beat = 0
        while not self._ended.wait(BEAT_S):
            beat += 1
            with contextlib.suppress(HubdistError):  # the next beat is the next try
                if self._term is None or max(self._terms(), default=0) != self._term or not self._is_own(self._term):
                    _LOG.warning("hubdist: %s was taken over; going on without", self._tree.url(self._folder))
                    return
                self._tree.write(self._path(self._term), self._sign(beat))

    def _claim(self, term: int) -> bool:
        """Create a term; True if it is ours, also when the answer to an earlier try was lost."""
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
