"""Load a model that a file names by handle and digest, for integrations whose files hold a model by reference."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from hubdist.client.api import load
from hubdist.client.current import current_process
from hubdist.errors import DigestMismatchError, NotPinnedError
from hubdist.loading import load_key
from hubdist.model.handle import handle_text
from hubdist.model.manifest import Digest
from hubdist.model.redact import redact_url
from hubdist.resolver.values import CallOptions, LoaderPin


def load_pinned(
    handle: str | os.PathLike[str], digest: str | None, tags: str | Sequence[str] | None = None, options: Any = None
) -> Any:
    """Load a model into an object that nobody else gets, and accept no other bytes than those of a digest.

    A node or cluster that has the digest is not asked what the handle stands for, and neither is the origin.

    Args:
        handle: As for `hubdist.load`.
        digest: The model's digest, `sha256:<hex>`; None takes what the handle stands for.
        tags: As for `hubdist.load`.
        options: As for `hubdist.load`.

    Returns:
        What `tf.saved_model.load` returns for the model.

    Raises:
        DigestMismatchError: Nobody has the digest, and the handle stands for other bytes now.
        HubdistError: As for `hubdist.load`.
    """
    if digest is None:
        return load(handle, tags, options, own=True)
    wanted = Digest.parse(digest)
    process = current_process()
    text = handle_text(handle)
    redacted = redact_url(text)
    key = load_key(redacted, wanted, tags, options)
    call = CallOptions()
    try:
        return process.open(LoaderPin(redacted, wanted), key, call)
    except NotPinnedError as error:
        pin = process.pin_of(text, call)
        if pin.digest != wanted:
            raise DigestMismatchError(
                "the handle stands for other bytes now",
                expected=digest,
                actual=str(pin.digest),
                handle=pin.handle,
                advice="Bring back the model that was there, or make the file anew with the one that is there now.",
            ) from error
        return process.open(pin, key, call)
