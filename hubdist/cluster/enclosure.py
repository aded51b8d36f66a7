"""Enclosures: the files of a small model inside an answer of the coordinator, for a node without an agent.

An agent's process takes most of a second to start; to send a small model takes some milliseconds. So the coordinator
encloses such a model in its answer to the process that asks, and that process writes it into its node's store, as an
agent would: in a stage that checks every block against the manifest. Like chunks that agents send each other by calls
(`agent.chunk_rpc`), the bytes are many small results of one call, which travel inside the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from hubdist.errors import DigestMismatchError
from hubdist.model.chunks import Chunk, cut_chunks
from hubdist.model.manifest import Digest, Manifest
from hubdist.store.snapshot import Snapshot
from hubdist.store.store import Store

MAX_ENCLOSED_BYTES = 4 << 20
"""A larger model is delivered by agents: what an answer costs the coordinator grows with its size, and agents share the
work. A whole number of blocks, so that the files of a small model are one chunk."""

MAX_ENCLOSED_FILES = 256
"""With more files the manifest alone is too large for one small result."""


def fits(manifest: Manifest) -> bool:
    """True if the model is small enough to be enclosed."""
    return manifest.total_bytes <= MAX_ENCLOSED_BYTES and len(manifest.entries) <= MAX_ENCLOSED_FILES


def chunks_of(manifest: Manifest) -> tuple[Chunk, ...]:
    """The files of a small model as one chunk; none if all files are empty."""
    return cut_chunks(manifest, MAX_ENCLOSED_BYTES)


def publish_enclosed(store: Store, digest: Digest, manifest: Manifest, parts: Sequence[bytes]) -> Snapshot:
    """Publish an enclosed model in a node's store. Every block is checked, and that it is the model that was asked for.

    Args:
        store: The node's store.
        digest: The model.
        manifest: The model's files, as they were enclosed.
        parts: The bytes of the files, in order.

    Raises:
        IntegrityError: What was enclosed is not the model.
        StoreError: The store cannot take it.
    """
    found = Manifest.of(manifest.entries).digest  # computed here: the manifest came from another process
    if found != digest:
        raise DigestMismatchError("another model was enclosed", expected=str(digest), actual=str(found))
    data = memoryview(b"".join(parts))
    with store.stage_chunks(manifest) as stage:
        for chunk in chunks_of(manifest):
            stage.write_chunk(chunk, data)
        return store.publish(stage)
