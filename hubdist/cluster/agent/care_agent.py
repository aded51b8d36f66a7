"""The care agent: an actor that takes care of one node's store, for a command, and ends with it.

It takes no part in deliveries, so it needs neither a job's coordinator nor its port. `CareAgent` is a plain class;
`cluster.connection` makes an actor with several threads of it, so that it gives blocks to others while it verifies.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection, Sequence
from typing import Any

from hubdist.care import collection, listing
from hubdist.care.collection import Removal
from hubdist.care.listing import StoredModel
from hubdist.care.node_store import sources_of, verify_all
from hubdist.care.repair import BlockSource
from hubdist.care.store_blocks import StoreBlocks
from hubdist.care.verification import Verified
from hubdist.cluster.agent.peer_blocks import PeerBlocks, RequestAgent, request_agent
from hubdist.cluster.agent.scrubbing import node_cache
from hubdist.config.node_settings import NodeSettings
from hubdist.model.chunks import Piece
from hubdist.model.manifest import Digest, Manifest
from hubdist.resolver.node_store import open_store
from hubdist.store.store import Store


class CareAgent:
    """Lists, verifies, repairs and removes in the store of one node. Safe for use by several threads.

    Args:
        settings: The settings that hold on the node.
        node_id: Ray's id of the node; the store's root may depend on it.
        request: Calls agents of other nodes; tests pass a fake.
    """

    def __init__(self, settings: NodeSettings, node_id: str, request: RequestAgent = request_agent) -> None:
        self._settings = settings
        self._node_id = node_id
        self._request = request

    @functools.cached_property
    def _store(self) -> Store:
        """Made at the first call, because an error of the actor's constructor would lose its type."""
        return open_store(self._settings, self._node_id)

    def list_models(self) -> list[StoredModel]:
        """All models of the store; the one that was used last comes first."""
        return listing.list_models(self._store)

    def verify(
        self,
        digests: Sequence[Digest] | None,
        peers: Sequence[tuple[str, Any]] | None,
        quarantine: bool,
    ) -> list[Verified]:
        """Read every byte of models again, and repair what is damaged.

        Args:
            digests: The models; None for all.
            peers: Name and care agent of each node that may have right blocks; None repairs nothing.
            quarantine: Move aside what cannot be repaired.

        Raises:
            StoreError: The node has no usable store.
        """
        if peers is None:
            return verify_all(self._store, digests, None)
        blocks = [PeerBlocks(name, agent, self._settings.chunk_timeout_s, self._request) for name, agent in peers]

        def find(_: contextlib.ExitStack) -> Sequence[BlockSource]:
            return blocks

        deadlines = self._settings.deadlines
        sources = sources_of(self._store, peers=find, cache=node_cache(self._settings), deadlines=deadlines)
        return verify_all(self._store, digests, sources, quarantine=quarantine)

    def remove(self, digests: Sequence[Digest], dry_run: bool, needed: Collection[Digest]) -> list[Removal]:
        """Delete models that nobody uses and nobody keeps.

        Args:
            digests: The models.
            dry_run: Only tell what would be deleted.
            needed: Models that somebody on any node needs.
        """
        return collection.remove(self._store, digests, dry_run=dry_run, needed=needed)

    def collect(
        self, max_bytes: int | None, max_age_s: float | None, dry_run: bool, needed: Collection[Digest]
    ) -> list[Removal]:
        """Delete what dead processes left, and models that are too old or too many.

        Args:
            max_bytes: Most bytes of models that stay; None for no limit.
            max_age_s: Models that were not used for more seconds than this go; None for no limit.
            dry_run: Only tell what would be deleted.
            needed: Models that somebody on any node needs.
        """
        return collection.collect(self._store, max_bytes=max_bytes, max_age_s=max_age_s, dry_run=dry_run, needed=needed)

    def keep(self, digests: Sequence[Digest]) -> list[Digest]:
        """Never evict models; returns those that are here."""
        return collection.keep(self._store, digests)

    def release(self, digests: Sequence[Digest]) -> list[Digest]:
        """Let the store evict models again; returns those that were kept."""
        return collection.release(self._store, digests)

    def give_manifest(self, digest: Digest) -> Manifest | None:
        """The manifest of a model, for a node that repairs its own; None if there is none here that can be read."""
        return StoreBlocks(self._store).manifest(digest)

    def give(self, digest: Digest, piece: Piece) -> bytes:
        """Bytes of a model, which the node that asked checks.

        Args:
            digest: The model.
            piece: Which bytes of which file, at most 4 MiB.

        Raises:
            IntegrityError: They are not here.
        """
        return StoreBlocks(self._store).give(digest, piece)
