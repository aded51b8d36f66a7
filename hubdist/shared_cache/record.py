"""The documents of the shared cache and their paths: a snapshot's record, and a handle's pointer to a digest."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping

from hubdist.errors import HandleError, IntegrityError
from hubdist.model.handle import Handle
from hubdist.model.manifest import Digest, Manifest
from hubdist.remote import StoredFile


def snapshot_folder(digest: Digest) -> str:
    """The folder with the files of a snapshot."""
    return f"snapshots/{digest.value}"


def record_path(digest: Digest) -> str:
    """The record of a snapshot."""
    return f"snapshots/{digest.value}.json"


def pointer_path(handle: Handle) -> str:
    """The pointer of a handle."""
    return f"handles/{handle.key}.json"


def encode_record(manifest: Manifest, files: Mapping[str, StoredFile]) -> bytes:
    """The record of a snapshot.

    Args:
        manifest: The snapshot's manifest.
        files: Path -> file as it was listed when all files were right.
    """
    versions = {path: files[path].version for path in sorted(files)}
    document = {"hubdist_record": 1, "manifest": manifest.to_json().decode(), "versions": versions}
    return json.dumps(document, indent=1, ensure_ascii=False).encode()


def decode_record(data: bytes, digest: Digest, redacted: str) -> tuple[Manifest, dict[str, StoredFile]]:
    """Read a record.

    Args:
        data: The record's bytes.
        digest: The digest that the manifest must have.
        redacted: The record's URL without secrets, for errors.

    Returns:
        The manifest, and its files as a listing must show them.

    Raises:
        IntegrityError: The data is not a record of this digest.
    """
    try:
        document = json.loads(data)
        if document["hubdist_record"] != 1:
            raise ValueError("another version")
        manifest = Manifest.from_json(document["manifest"].encode())
        versions = document["versions"]
        files = {entry.path: StoredFile(entry.size, str(versions[entry.path])) for entry in manifest.entries}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{redacted} is not a record of a snapshot: {error}") from None
    if manifest.digest != digest:
        raise IntegrityError(f"{redacted} is the record of {manifest.digest} instead of {digest}")
    return manifest, files


def encode_pointer(handle: Handle, digest: Digest) -> bytes:
    """The pointer of a handle.

    Args:
        handle: The handle; only its form without secrets is written.
        digest: The digest that the handle stands for.
    """
    return json.dumps({"hubdist_handle": 1, "handle": handle.redacted, "digest": str(digest)}, indent=1).encode()


def decode_pointer(data: bytes) -> Digest | None:
    """The digest in a pointer, or None if the pointer is damaged."""
    with contextlib.suppress(ValueError, KeyError, TypeError, HandleError, RecursionError):
        return Digest.parse(json.loads(data)["digest"])
    return None
