"""Load a model by its handle and take one of its signatures: what the ways into Ray Data and Ray Serve share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from hubdist.client.api import load, refresh
from hubdist.errors import DigestMismatchError
from hubdist.loading import LoadKey, SignatureCall, key_of


@dataclass(frozen=True, slots=True, eq=False)
class OpenSignature:
    """A signature of a model that this process has loaded.

    Attributes:
        handle: The model's handle without secrets.
        digest: The digest of the model's files, `sha256:<hex>`.
        call: The signature.
    """

    handle: str
    digest: str
    call: SignatureCall


def open_signature(
    handle: str | os.PathLike[str],
    signature: str | None = None,
    *,
    tags: str | None = None,
    digest: str | None = None,
    pad_to: int | None = None,
    asks_origin: bool = False,
) -> OpenSignature:
    """Load a model and take one of its signatures.

    Args:
        handle: As for `hubdist.load`.
        signature: The signature's name; None takes the usual one, as `SignatureCall` does.
        tags: As for `hubdist.load`.
        digest: The digest that the model's files must have, `sha256:<hex>`; None takes what the handle stands for.
        pad_to: As for `SignatureCall`.
        asks_origin: Where the handle stands for another digest in this job, ask the origin again before giving up.

    Raises:
        DigestMismatchError: The handle stands for other bytes than those of `digest`.
        SignatureError: The model has no such signature.
        HubdistError: As for `hubdist.load`.
    """
    model = load(handle, tags)
    key = _key_of_loaded(model)
    if digest is not None and str(key.digest) != digest and asks_origin:
        refresh(handle)
        model = load(handle, tags)
        key = _key_of_loaded(model)
    if digest is not None and str(key.digest) != digest:
        raise DigestMismatchError(
            "the handle stands for other bytes than those that were asked for",
            expected=digest,
            actual=str(key.digest),
            handle=key.handle,
            advice="Give the digest that `hubdist resolve` prints, or leave it away.",
        )
    return OpenSignature(key.handle, str(key.digest), SignatureCall(model, signature, key.handle, pad_to))


def _key_of_loaded(model: Any) -> LoadKey:
    """What was loaded, of what `load` has returned."""
    key = key_of(model)
    assert key is not None
    return key
