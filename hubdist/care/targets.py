"""What a person names on a command line: a handle, a digest, or the first digits of a digest."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from hubdist.errors import HandleError, HubdistError, NotPinnedError
from hubdist.model.handle import BUILT_IN_SCHEMES, parse_handle
from hubdist.model.manifest import Digest

MIN_DIGITS = 6
"""Fewest digits that may stand for a digest."""


def find_targets(
    texts: Sequence[str], known: Mapping[Digest, Collection[str]], *, base_dir: Path | None = None
) -> list[Digest]:
    """The digests that texts stand for, each once, in order.

    Args:
        texts: Handles, digests as `sha256:<hex>`, or at least `MIN_DIGITS` first digits of a digest.
        known: What is there: digest -> the handles that stand for it, without secrets.
        base_dir: What relative paths are relative to; None refuses them.

    Raises:
        HandleError: A text is neither a digest nor a handle, or several digests begin with it.
        NotPinnedError: Nothing that is there has this digest or handle.
    """
    found: dict[Digest, None] = {}
    for text in texts:
        found |= dict.fromkeys(_find(text, known, base_dir))
    return list(found)


def _find(text: str, known: Mapping[Digest, Collection[str]], base_dir: Path | None) -> list[Digest]:
    digits = re.fullmatch(rf"(sha256:)?([0-9a-f]{{{MIN_DIGITS},64}})", text)
    if digits is not None:
        matching = [digest for digest in known if digest.value.startswith(digits[2])]
        if len(matching) > 1:
            raise HandleError(
                f"{len(matching)} digests begin with {text}", advice="Give more digits: `hubdist ls` shows them all."
            )
        if matching:
            return matching
    if text.startswith("sha256:") or digits is not None:
        if digits is None:
            raise HandleError(f"{text} is not a digest", advice=f"Give sha256: and at least {MIN_DIGITS} digits.")
        raise _absent(text)
    named = [digest for digest, handles in known.items() if _label(text, base_dir) in handles]
    if not named:
        raise _absent(text)
    return named


def _label(text: str, base_dir: Path | None) -> str:
    """How notes call a handle. One of a user's own kind is parsed too, although its origin is not known here."""
    scheme = text.rpartition("::")[2].partition("://")[0].lower() if "://" in text else ""
    try:
        return parse_handle(text, base_dir=base_dir, custom_schemes={scheme} - BUILT_IN_SCHEMES - {""}).label
    except HubdistError as error:
        raise HandleError(
            f"{text} is neither a handle nor a digest: {error.what}",
            advice=f"A digest needs at least {MIN_DIGITS} digits.",
        ) from None


def _absent(text: str) -> NotPinnedError:
    return NotPinnedError(
        f"there is no model {text}", advice="`hubdist ls` shows what is there, and which handles it is known by."
    )
