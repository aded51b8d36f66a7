"""An existing TensorFlow Hub cache on the driver's machine, as an origin before the network.

Source: tensorflow_hub 0.16.1, `compressed_module_resolver.py` and `resolver.py`: a model lies in
`<cache dir>/<sha1 of the handle as written>/`, and any non-empty directory counts as a hit there. Here only a
complete one does: downloads that were cut off leave directories that look like hits.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from hubdist.errors import HubdistError
from hubdist.model.handle import Handle, Kind
from hubdist.model.savedmodel import ModelKind, check_checkpoint, model_kind
from hubdist.origins.local import LocalOrigin
from hubdist.system.deadline import Deadline
from hubdist.system.ownership import check_private

_LOG = logging.getLogger(__name__)


def find_in_cache(handle: Handle, cache_dir: Path, deadline: Deadline) -> LocalOrigin | None:
    """The complete copy of a handle in a TensorFlow Hub cache, or None.

    A cache that another user owns or may write to is left alone, with a warning: models are programs.

    Args:
        handle: The handle.
        cache_dir: The cache.
        deadline: When the copy must have been read.
    """
    if handle.kind not in (Kind.HUB, Kind.ARCHIVE) or handle.scheme not in ("http", "https"):
        return None
    for written in (handle.text, f"{handle.text}/"):
        folder = cache_dir / hashlib.sha1(written.encode(), usedforsecurity=False).hexdigest()
        try:
            if not folder.is_dir():
                continue
            check_private(cache_dir)
            check_private(folder)
            origin = LocalOrigin(folder, deadline)
            paths = [file.path for file in origin.entries()]
            if model_kind(paths) is ModelKind.OTHER:
                _LOG.warning("hubdist: %s holds no complete model and is not used", folder)
                continue
            check_checkpoint(folder, paths)
        except (HubdistError, OSError) as error:
            _LOG.warning("hubdist: %s is not used: %s", folder, error)
            continue
        return origin
    return None
