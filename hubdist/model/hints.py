"""Advice for errors: the handle that a user may have meant. Nothing is read."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence

from hubdist.errors import HubdistError, ModelNotFoundError
from hubdist.model.paths import Ending, ending_of
from hubdist.model.redact import redact_url

_PLAIN_NAME = re.compile(r"\w[\w.-]*")
_HOST = re.compile(r"[\w-]+(\.[\w-]+)*\.[A-Za-z]{2,}")


def suggestion(text: str) -> str | None:
    """The handle that a user may have meant by a relative path that does not exist; None if there is no guess.

    Args:
        text: What the user wrote. The guess holds no secrets of it.
    """
    text = text.strip().rstrip("/")
    slash = re.fullmatch(r"([A-Za-z][A-Za-z0-9]+):/([^/].*)", text)
    if slash:  # pathlib turns a URL into this
        return redact_url(f"{slash[1]}://{slash[2]}")
    parts = text.partition("?")[0].split("/")
    if len(parts) < 2 or not all(_PLAIN_NAME.fullmatch(part) for part in parts):
        return None
    if _HOST.fullmatch(parts[0]):
        return redact_url(f"https://{text}")
    home = _home(parts)
    return f"{home}{text}" if home and "?" not in text else None


def _home(parts: list[str]) -> str | None:
    """The beginning of a handle at the hub whose names have this number of parts; None if there is none."""
    is_file = ending_of(parts[-1]) is not Ending.OTHER
    has_version = parts[-1].isdigit()
    if len(parts) == 2 or (len(parts) > 2 and is_file):
        return None if len(parts) == 2 and is_file else "hf://"
    if len(parts) == 3:
        return "https://tfhub.dev/" if has_version else None
    return "kaggle://" if len(parts) == 4 or (len(parts) == 5 and has_version) else None


def storage_directory(host: str, path: str) -> str:
    """The handle of the directory on object storage that has a file, for advice.

    Args:
        host: The host of the file's URL, as a user copies it from a browser.
        path: The path of that URL.

    Returns:
        The handle; an example if the host is not known.
    """
    names = path.strip("/").split("/")[:-1]
    if host in ("storage.googleapis.com", "storage.cloud.google.com") and names:
        return f"gs://{'/'.join(names)}"
    if host in ("huggingface.co", "hf.co") and len(names) >= 4 and names[2] in ("resolve", "blob", "raw"):
        return f"hf://{'/'.join(names[:2] + names[4:])}"
    return "gs://bucket/directory"


@contextlib.contextmanager
def suggesting(texts: Sequence[str | os.PathLike[str]]) -> Iterator[None]:
    """Add the handle that the user may have meant to the block's error for a path that does not exist.

    Args:
        texts: The handles as the user wrote them.

    Raises:
        ModelNotFoundError: The block raised it; it has further advice now.
    """
    try:
        yield
    except ModelNotFoundError as error:
        raise suggested(error, texts) from error.__cause__


def suggested(error: HubdistError, texts: Sequence[str | os.PathLike[str]]) -> HubdistError:
    """An error, with the handle that the user may have meant if the error says that a path does not exist.

    Args:
        error: The error; errors of other kinds are returned as they are.
        texts: The handles as the user wrote them.
    """
    if isinstance(error, ModelNotFoundError):
        for text in map(os.fsdecode, texts):
            meant = suggestion(text)
            if meant is None or meant in (error.advice or ""):  # the advice says so already
                continue
            if (error.handle or "").endswith(f"/{text.strip().rstrip('/')}"):
                return error.advised(f"If it is not meant as a path, write {meant}.")
    return error
