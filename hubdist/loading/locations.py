"""Where TensorFlow opens a model: a snapshot, its own memory, or a remote or mounted path as it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hubdist.errors import AccessDeniedError, ConfigError, HubdistError, ModelNotFoundError, OriginError
from hubdist.loading.ram import RamModel
from hubdist.model.manifest import Manifest
from hubdist.model.redact import redact_url
from hubdist.store.snapshot import Snapshot

_SCHEMES = ("gs", "ram", "file")
"""What a TensorFlow without plugins opens. Source: tensorflow 2.21.0, REGISTER_FILE_SYSTEM in core/platform."""


@dataclass(frozen=True, slots=True)
class InPlace:
    """A path that TensorFlow opens itself. Nobody but the caller says that the manifest's files lie there.

    Attributes:
        path: A `gs://` URL or a path that this process can read.
        manifest: What lies there.
    """

    path: str
    manifest: Manifest

    def release(self) -> None:
        """Nothing is held."""


Place = Snapshot | RamModel | InPlace
"""What `open_model` loads from: each has `path`, `manifest` and `release`."""


def check_in_place(path: str) -> None:
    """Check that a path is of a kind that TensorFlow opens by itself.

    Raises:
        ConfigError: It is not; the scheme and other ways are named.
    """
    scheme, separator, rest = path.partition("://")
    if separator and scheme not in _SCHEMES:
        raise ConfigError(
            f"TensorFlow opens no {scheme}:// paths by itself: {redact_url(path)} cannot be read in place",
            advice="Use read_mode: store or memory for it; in_place takes gs:// and mounted directories.",
        )
    if scheme == "gs" and separator and ("@" in rest.partition("/")[0] or "?" in rest):
        raise ConfigError(
            f"{redact_url(path)} says more than bucket and directory, which TensorFlow does not understand",
            advice="Use read_mode: store or memory for it.",
        )


@contextlib.contextmanager
def in_place_errors(tensorflow: Any, path: str) -> Iterator[None]:
    """Turn TensorFlow's errors in reading a path into typed ones, for a caller who knows another way.

    An error that does not speak of the path or of a request is about the model, such as a missing op, and stays.

    Raises:
        ModelNotFoundError: Nothing is there.
        AccessDeniedError: Reading it wants other credentials.
        OriginError: It cannot be read for another reason.
    """
    errors = tensorflow.errors
    try:
        yield
    except HubdistError:
        raise
    except (errors.OpError, OSError) as error:
        text = str(error)
        if path not in text and "Error executing an HTTP request" not in text:
            raise
        what = f"TensorFlow cannot read {redact_url(path)}: {text.partition(chr(10))[0]}"
        if isinstance(error, errors.PermissionDeniedError | errors.UnauthenticatedError | PermissionError):
            raise AccessDeniedError(
                what, advice="Give this process credentials for it, or use read_mode: store or memory."
            ) from error
        if isinstance(error, errors.NotFoundError | OSError):
            raise ModelNotFoundError(what, advice="Use read_mode: store or memory.") from error
        raise OriginError(what, advice="Use read_mode: store or memory.") from error
