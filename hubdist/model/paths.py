"""Paths: which paths of a model's files are safe and portable, which clash, and what paths of users with `~` mean."""

from __future__ import annotations

from pathlib import Path

from hubdist.errors import ConfigError, UnsafeArchiveError

_MAX_PATH_BYTES = 1024
_MAX_NAME_BYTES = 255
_MAX_DEPTH = 32


def expand_home(text: str, setting: str) -> Path:
    """The path that a user wrote, with `~` expanded.

    Args:
        text: The path.
        setting: The setting whose value the path is, for errors.

    Raises:
        ConfigError: The path begins with `~`, and the home directory is not known here, as in a container whose user
            has neither `HOME` nor a line in /etc/passwd.
    """
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        path = None
    if path is None or (text.startswith("~") and not path.is_absolute()):
        raise ConfigError(
            f"no home directory is known for {text!r}, the value of {setting}",
            advice=f"Set {setting} to an absolute path, or HOME to a directory that this user may write to.",
        )
    return path


def drivers_path(text: str, setting: str, base_dir: Path | None) -> Path:
    """The path on the driver's disk that a user wrote.

    Args:
        text: The path; `~` is expanded.
        setting: The setting whose value the path is, for errors.
        base_dir: The directory of the driver, which relative paths are relative to; None if it is not known here.

    Raises:
        ConfigError: The path is relative and `base_dir` is None, or it begins with `~` and no home directory is known.
    """
    path = expand_home(text, setting)
    if path.is_absolute():
        return path
    if base_dir is None:
        raise ConfigError(
            f"{setting} is the relative path {text!r}, and the driver's directory is not known here",
            advice=f"Set {setting} to an absolute path, or call hubdist.init in the driver.",
        )
    return base_dir / path


def check_entry_path(path: str) -> str:
    """Return `path` if it is a safe, portable path below a model's directory.

    Safe: relative, `/` between names, no empty, `.` or `..` name, no backslash, no control character, encodable as
    UTF-8, names of at most 255 bytes, at most 1,024 bytes and 32 names in all.

    Raises:
        UnsafeArchiveError: The path is not safe and portable. The message shows it escaped and cut.
    """
    shown = repr(path[:100])
    try:
        encoded = path.encode("utf-8")
    except UnicodeEncodeError:
        raise UnsafeArchiveError(f"the file name {shown} is not UTF-8") from None
    names = path.split("/")
    if len(encoded) > _MAX_PATH_BYTES or len(names) > _MAX_DEPTH:
        raise UnsafeArchiveError(f"the file name {shown} is too long or too deep")
    if any(ord(char) < 32 or ord(char) == 127 or char == "\\" for char in path):
        raise UnsafeArchiveError(f"the file name {shown} holds a control character or a backslash")
    for name in names:
        if name in ("", ".", "..") or len(name.encode("utf-8")) > _MAX_NAME_BYTES:
            raise UnsafeArchiveError(f"the file name {shown} may leave the model's directory or is not portable")
    return path


class PathSet:
    """The paths of one model while they come in; refuses duplicates, case-fold and file-directory clashes."""

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[str, bool]] = {}

    def repeats(self, path: str) -> bool:
        """True if a file with exactly this path was added before."""
        return self._kinds.get(path.casefold()) == (path, True)

    def add_file(self, path: str) -> None:
        """Add the path of a file, and its parents as directories.

        Raises:
            UnsafeArchiveError: The path is unsafe or clashes with one that was added before.
        """
        check_entry_path(path)
        names = path.split("/")
        for depth in range(1, len(names)):
            self._claim("/".join(names[:depth]), is_file=False)
        self._claim(path, is_file=True)

    def add_directory(self, path: str) -> None:
        """Add the path of a directory and its parents. A directory may be added twice.

        Raises:
            UnsafeArchiveError: The path is unsafe or clashes with one that was added before.
        """
        check_entry_path(path)
        names = path.split("/")
        for depth in range(1, len(names) + 1):
            self._claim("/".join(names[:depth]), is_file=False)

    def _claim(self, path: str, *, is_file: bool) -> None:
        key = path.casefold()
        known = self._kinds.get(key)
        if known is None:
            self._kinds[key] = (path, is_file)
        elif is_file or known != (path, False):
            raise UnsafeArchiveError(f"the file names {known[0][:100]!r} and {path[:100]!r} clash")


def local_directory(text: str) -> str | None:
    """The directory that a path or a `file://` URL names; None for any other URL."""
    scheme, found, rest = text.partition("://")
    if not found:
        return text
    return "/" + rest.removeprefix("localhost").lstrip("/") if scheme.lower() == "file" else None
