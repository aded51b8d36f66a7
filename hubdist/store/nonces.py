"""Nonces: random names in a store by which two nodes find out whether their stores are one directory.

Equal paths prove nothing, since each node may have a disk of its own at the path. A file that stays proves nothing
either, since images of disks are copied, stores included. A name that a node made up a moment ago, however, can only be
seen in the directory itself.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence

from hubdist.store.store import Store
from hubdist.system.directories import make_private
from hubdist.system.disk import NEW_FILE, unique_name

_OLD_S = 24 * 3600.0
"""Age in seconds after which any process removes a nonce: its node may have been killed before it did so itself."""


class Nonces:
    """The nonces in one store. Any process may show nonces, and look for those of other nodes.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._folder = store.root / "nonces"

    def show(self) -> str | None:
        """Put a new nonce into the store, and return it; None if the store cannot be written."""
        nonce = unique_name()
        with contextlib.suppress(OSError):
            make_private(self._folder)
            self._sweep()
            os.close(os.open(self._folder / nonce, NEW_FILE, 0o600))
            return nonce
        return None

    def find(self, nonces: Sequence[str]) -> str | None:
        """The first of these nonces that is in the store; None if none is there, or the store cannot be read."""
        for nonce in nonces:
            if re.fullmatch("[0-9a-f]{32}", nonce):
                with contextlib.suppress(OSError):  # opening it makes a network file system ask its server
                    os.close(os.open(self._folder / nonce, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
                    return nonce
        return None

    def hide(self, nonce: str) -> None:
        """Remove a nonce."""
        with contextlib.suppress(OSError):
            (self._folder / nonce).unlink()

    def _sweep(self) -> None:
        now = self._folder.stat().st_mtime  # the clock of the file system has set the nonces' times, too
        for nonce in self._folder.iterdir():
            with contextlib.suppress(OSError):
                if now - nonce.stat().st_mtime > _OLD_S:
                    nonce.unlink()
