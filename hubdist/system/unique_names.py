"""Names that nobody else has."""

from __future__ import annotations

import secrets


def unique_name() -> str:
    """A name that no other process of any machine has."""
    return secrets.token_hex(16)
