"""The files that TensorFlow opens for a model: which kinds of places there are, and how long a model needs them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hubdist.errors import ConfigError
from hubdist.loading.ram_model import RamModel
from hubdist.model.manifest import Manifest
from hubdist.model.redact import redact_url
from hubdist.store.snapshot import Snapshot

_SCHEMES = ("gs", "ram", "file")
"""The schemes that a TensorFlow without plugins opens. Source: tensorflow 2.21.0, REGISTER_FILE_SYSTEM in
core/platform."""


@dataclass(frozen=True, slots=True)
class InPlaceModel:
    """A model that TensorFlow opens at its origin or in the shared cache, without a copy.

    hubdist does not check the files when TensorFlow opens them: the caller has done so.

    Attributes:
        path: A `gs://` URL, or a path that this process can read.
        manifest: The manifest of the files there.
    """

    path: str
    manifest: Manifest

    def release(self) -> None:
        """Do nothing: no snapshot or memory is held."""


ModelFiles = Snapshot | RamModel | InPlaceModel
"""The files that `open_model` loads. Each kind has `path`, `manifest` and `release`."""


def check_in_place(path: str) -> None:
    """Check that TensorFlow itself can open paths of this kind.

    Raises:
        ConfigError: TensorFlow has no file system for the scheme, or the URL has a user or a query.
    """
    scheme, separator, rest = path.partition("://")
    if separator and scheme not in _SCHEMES:
        raise ConfigError(
            f"TensorFlow cannot open {scheme}:// paths by itself: {redact_url(path)} cannot be read in place",
            advice="Use read_mode: store or memory for it; in_place takes gs:// and mounted directories.",
        )
    if scheme == "gs" and separator and ("@" in rest.partition("/")[0] or "?" in rest):
        raise ConfigError(
            f"{redact_url(path)} says more than bucket and directory, which TensorFlow does not understand",
            advice="Use read_mode: store or memory for it.",
        )


class _Lifetime:
    """Lives as long as something needs the files; a copy of its owner holds the same one."""

    def __copy__(self) -> _Lifetime:
        return self

    def __deepcopy__(self, _memo: object) -> _Lifetime:
        return self


def release_with(tensorflow: Any, model: Any, *releases: Callable[[], None]) -> None:
    """Call functions when a loaded model, and all its functions that may read its assets, are garbage.

    A function can outlive the object that it belongs to, and keeps the tensors with the paths of its assets.

    Args:
        tensorflow: The module `tensorflow`.
        model: What `tf.saved_model.load` returned.
        releases: Called once each, by a finalizer: in any thread, at any moment, but not at the end of the process.
    """
    lifetime = _Lifetime()
    for release in releases:
        weakref.finalize(lifetime, release).atexit = False
    # A field of the model, and not a finalizer on it: an unopened object takes over the fields of the loaded one.
    vars(model)["_hubdist_files"] = lifetime
    if tensorflow.compat.v1.executing_eagerly_outside_functions():
        for node in tensorflow.train.TrackableView(model).descendants():
            if isinstance(node, tensorflow.saved_model.Asset):
                weakref.finalize(node.asset_path, _drop, lifetime).atexit = False


def _drop(_lifetime: _Lifetime) -> None:
    """Do nothing: a finalizer lets go of its arguments, and the last owner of the lifetime ends it."""
