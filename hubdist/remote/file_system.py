"""Files of a file system, on a mount or on the driver's disk: one walker, and one translation of OSError."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from hubdist.errors import AccessDeniedError, HandleError, HubdistError, ModelNotFoundError, OriginError
from hubdist.model.paths import check_entry_path
from hubdist.remote.identity import this_user
from hubdist.system.foreign import words_of

_MAX_DEPTH = 32
_BAD_PATHS = {errno.ENAMETOOLONG: "is too long for a path", errno.ELOOP: "is a circle of links"}


def walk_files(root: Path, *, strict: bool) -> Iterator[tuple[str, os.stat_result]]:
    """Go through all files below a directory, sorted within each directory; symbolic links are followed.

    Args:
        root: The directory.
        strict: For the user's own files: refuse everything that cannot be a file of a model, even the absence of
            `root`. Otherwise, pass by what is missing, was deleted meanwhile, or is not a file.

    Yields:
        The path below `root`, and the file's status.

    Raises:
        OSError: The file system fails.
        HandleError: A pipe, a device or a link to nothing is there; only if `strict`.
        UnsafeArchiveError: A path is unsafe or too deep for a model; only if `strict`.
        OriginError: The directories are too deep.
    """
    yield from _walk(root, "", 0, strict=strict)


def _walk(folder: Path, prefix: str, depth: int, *, strict: bool) -> Iterator[tuple[str, os.stat_result]]:
    if not strict and depth > _MAX_DEPTH:  # links may form a circle; `check_entry_path` ends it if `strict`
        raise OriginError(f"{folder} is more than {_MAX_DEPTH} directories deep")
    try:
        items = sorted(os.scandir(folder), key=lambda item: item.name)
    except (FileNotFoundError, NotADirectoryError):
        if strict:
            raise
        return
    for item in items:
        path = f"{prefix}{item.name}"
        if strict:
            check_entry_path(path)
        with contextlib.suppress(*(() if strict else (FileNotFoundError,))):
            if item.is_dir():
                yield from _walk(Path(item.path), f"{path}/", depth + 1, strict=strict)
            elif item.is_file():
                yield path, item.stat()
            elif strict:
                raise HandleError(f"{item.path} is neither a file nor a directory")


@contextlib.contextmanager
def os_errors(path: Path, verb: str = "read", *, on_driver: bool = False) -> Iterator[None]:
    """Translate OSError in the block into the errors that `Tree` promises.

    Args:
        path: The path that the block uses, for the error.
        verb: What is being done, as a participle.
        on_driver: The path is the user's own, on the driver's node, and not on a mount that all nodes have.

    Raises:
        ModelNotFoundError: Nothing is at the path.
        AccessDeniedError: This user may not use the path.
        HandleError: The path cannot exist; only if `on_driver`.
        OriginError: Any other OSError.
    """
    try:
        yield
    except HubdistError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise _missing(path, on_driver=on_driver) from None
    except OSError as error:
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            raise _denied(path, verb, error, on_driver=on_driver) from None
        if on_driver and error.errno in _BAD_PATHS:
            raise HandleError(f"{path} {_BAD_PATHS[error.errno]}") from None
        raise OriginError(f"{path} cannot be {verb}: {words_of(error)}") from None


def _missing(path: Path, *, on_driver: bool) -> ModelNotFoundError:
    if on_driver:
        return ModelNotFoundError(
            f"{path} does not exist on the coordinator's node",
            advice="The path must exist where the driver runs; from Ray Client or Serve that is the head node.",
        )
    return ModelNotFoundError(
        f"there is nothing at {path}", advice="A mounted directory must be mounted at the same path on every node."
    )


def _denied(path: Path, verb: str, error: OSError, *, on_driver: bool) -> AccessDeniedError:
    what = f"{path} may not be {verb} ({words_of(error)})"
    advice = "Give this user rights to the directory."
    if on_driver:
        what = f"{path} may not be {verb} by this user"
        advice = "Give the user that runs the driver the right to read it, and to enter every directory above it."
    return AccessDeniedError(what, advice=advice).asked(this_user())
