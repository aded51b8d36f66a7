"""Nonces: random names in a store's directory by which two nodes find out whether they see the same one.

Equal paths prove nothing, for each node may have a disk of its own there; nor does a file that stays, for images of
disks are copied, stores included. A name that was made up a moment ago can only be seen in the directory itself.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Sequence

from hubdist.store.store import Store
from hubdist.system.disk import make_private

_OLD_S = 24 * 3600.0
"""Age after which a nonce is removed: whoever showed it may have been killed before it could do so."""


class Nonces:
    """The nonces in one store; any process may show some and look for some.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._folder = store.root / "nonces"

    def show(self) -> str | None:
        """Put a new nonce into the store; None if that cannot be written to."""
        nonce = secrets.token_hex(16)
        with contextlib.suppress(OSError):
            make_private(self._folder)
            self._sweep()
            os.close(os.open(self._folder / nonce, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
            return nonce
        return None

    def find(self, nonces: Sequence[str]) -> str | None:
        """The first of these nonces that is in the store; None if none is, or if this cannot be told."""
        for nonce in nonces:
            if re.fullmatch("[0-9a-f]{32}", nonce):
                with contextlib.suppress(OSError):  # opened, for network file systems ask their server then
                    os.close(os.open(self._folder / nonce, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
                    return nonce
        return None

    def hide(self, nonce: str) -> None:
        """Remove a nonce."""
        with contextlib.suppress(OSError):
            (self._folder / nonce).unlink()

    def _sweep(self) -> None:
        now = self._folder.stat().st_mtime  # by the clock of the file system, as the nonces' own times
        for nonce in self._folder.iterdir():
            with contextlib.suppress(OSError):
                if now - nonce.stat().st_mtime > _OLD_S:
                    nonce.unlink()
