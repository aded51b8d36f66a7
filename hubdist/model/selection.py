"""Which files of a model are wanted, by patterns, and how a handle's text says so.

    files://include=*.json&include=onnx/*&exclude=*.bin::hf://org/name

Patterns mean what `allow_patterns` and `ignore_patterns` mean to huggingface_hub: `fnmatch` on the whole path below the
model's root, so `*` crosses slashes, and a pattern that ends in a slash stands for all files below that directory.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote, unquote

from hubdist.errors import HandleError
from hubdist.model.redact import redact_url

SCHEME = "files"
"""The scheme in front of a handle whose files are chosen."""

_WORDS = ("include", "exclude")
_ESCAPED = re.compile(r"\[([*?[])\]")
_PLAIN = "*?[]!/,-._~ ()"


@dataclass(frozen=True, slots=True)
class Selection:
    """Patterns that choose files. Their order makes no difference, nor does a pattern that comes twice.

    Attributes:
        include: Files that match one of these are chosen; empty for all files.
        exclude: Files that match one of these are not, whatever `include` says.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @classmethod
    def of(cls, include: str | Iterable[str] | None, exclude: str | Iterable[str] | None) -> Self:
        """The selection that a user wrote.

        Args:
            include: A pattern or several; None for all files.
            exclude: A pattern or several; None for none.

        Raises:
            HandleError: A pattern is empty or no text, or `include` is an empty list, which would choose nothing.
        """
        chosen = _patterns("include", include)
        if include is not None and not chosen:
            raise HandleError("include is an empty list, which chooses no file", advice="Leave it out for all files.")
        return cls(chosen, _patterns("exclude", exclude))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what stands between `files://` and `::`.

        Raises:
            HandleError: A word is neither `include=<pattern>` nor `exclude=<pattern>`, or there is none.
        """
        found: dict[str, list[str]] = {word: [] for word in _WORDS}
        for part in text.split("&"):
            word, equals, pattern = part.partition("=")
            if word not in _WORDS or not equals:
                raise HandleError(
                    f"{redact_url(part)!r} in a handle that begins with {SCHEME}:// chooses no files",
                    advice=f"Write {SCHEME}://include=<pattern>&exclude=<pattern>::<handle>, with %26 for '&'.",
                )
            found[word].append(unquote(pattern))
        return cls.of(found["include"] or None, found["exclude"])

    @property
    def text(self) -> str:
        """The patterns as `parse` reads them."""
        words = zip(_WORDS, (self.include, self.exclude), strict=True)
        return "&".join(f"{word}={quote(pattern, safe=_PLAIN)}" for word, patterns in words for pattern in patterns)

    @property
    def literal_paths(self) -> tuple[str, ...] | None:
        """The paths that are chosen, if each pattern is the escaped path of one file; else None."""
        paths = tuple(_ESCAPED.sub(r"\1", pattern) for pattern in self.include)
        plain = all(glob.escape(path) == pattern for path, pattern in zip(paths, self.include, strict=True))
        return paths if paths and plain and not self.exclude else None

    def accepts(self, path: str) -> bool:
        """True if a file is chosen.

        Args:
            path: The file's path below the model's root, `/` between names.
        """
        if self.include and not any(fnmatch.fnmatchcase(path, pattern) for pattern in self.include):
            return False
        return not any(fnmatch.fnmatchcase(path, pattern) for pattern in self.exclude)


def selected(
    handle: str | os.PathLike[str], include: str | Iterable[str] | None, exclude: str | Iterable[str] | None
) -> str | os.PathLike[str]:
    """A handle with what a call chooses of its files; the handle itself if the call chooses nothing.

    Args:
        handle: As the user wrote it.
        include: A pattern or several; None for all files.
        exclude: A pattern or several; None for none.

    Raises:
        HandleError: A pattern is not one, or the handle has a selection of its own.
    """
    selection = Selection.of(include, exclude)
    if selection == Selection():
        return handle
    text = os.fsdecode(handle) if isinstance(handle, os.PathLike) else handle
    if isinstance(text, str) and text.strip().lower().startswith(f"{SCHEME}://"):
        raise HandleError(
            f"{redact_url(text.strip())!r} chooses files, and this call does so too",
            advice="Choose them in one place.",
        )
    return f"{SCHEME}://{selection.text}::{text}"


def _patterns(word: str, given: str | Iterable[str] | None) -> tuple[str, ...]:
    several = [] if given is None else [given] if isinstance(given, str) else list(given)
    if not all(isinstance(pattern, str) and pattern.strip() and "\0" not in pattern for pattern in several):
        raise HandleError(f"{word} is a pattern, or a list of patterns, such as '*.json'; none may be empty")
    return tuple(sorted({f"{pattern}*" if pattern.endswith("/") else pattern for pattern in several}))
