"""The normal forms of paths on the driver's disk, for `handle`: equal models must have equal texts."""

from __future__ import annotations

from pathlib import Path

from hubdist.errors import HandleError
from hubdist.model.hints import suggestion
from hubdist.model.paths import Ending, ending_of
from hubdist.model.redact import redact_url


def path_text(text: str, base_dir: Path | None) -> str:
    """The absolute path that a user wrote, in its normal form.

    Args:
        text: The path; `~` is expanded.
        base_dir: The directory that relative paths are relative to; None refuses relative paths.

    Raises:
        HandleError: The path is relative and `base_dir` is None, or it begins with `~` and no home is known.
    """
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise HandleError(f"no home directory is known for {redact_url(text)!r}") from None
    if not path.is_absolute():
        if base_dir is None:
            meant = suggestion(text)
            raise HandleError(
                f"the path {redact_url(text)!r} is relative",
                advice="Outside the driver write an absolute path: this process runs in another directory."
                + (f" If it is not meant as a path, write {meant}." if meant else ""),
            )
        path = base_dir / path
    # `..` stays: behind a link it is the parent of where the link leads, which only the system can tell.
    names = [name for name in str(path).split("/") if name not in ("", ".")]
    return f"/{model_directory('/'.join(names))}"


def model_directory(path: str) -> str:
    """The path, or the directory of a SavedModel if the path names the file that every SavedModel has."""
    while ending_of(path) is Ending.SAVED_MODEL:  # all of them: a normalised handle may be parsed again
        path = path.rstrip("/").rpartition("/")[0]
    return path
