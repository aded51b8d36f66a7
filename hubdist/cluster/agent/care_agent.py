"""The care agent: an actor that takes care of one node's store, for a command, and ends with it.

It takes no part in deliveries, so it needs neither a job's coordinator nor its port. `CareAgent` is a plain class;
`cluster.connection` makes an actor with several threads of it, so that it gives blocks to others while it verifies.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from hubdist.care import collection, listing
from hubdist.care.block_sources import StoreBlocks
from hubdist.care.collection import Removal
from hubdist.care.listing import StoredModel
from hubdist.care.node_store import sources_of, verify_all
from hubdist.care.repair import BlockSource
from hubdist.care.verification import Verified
from hubdist.cluster.calls import ray_errors, translated
from hubdist.config.node_settings import NodeSettings
from hubdist.errors import IntegrityError
from hubdist.model.chunks import Piece
from hubdist.model.manifest import Digest, Manifest
from hubdist.resolver.node_store import open_store
from hubdist.shared_cache.cache import SharedCache
from hubdist.store.store import Store


class RequestAgent(Protocol):
    """Calls a method of another node's care agent and waits for the answer; tests pass a fake."""

    def __call__(self, agent: Any, method: str, *args: Any, timeout_s: float, node: str) -> Any:
        """Call.

        Args:
            agent: The agent's handle.
            method: The method's name.
            *args: The method's arguments.
            timeout_s: Deadline in seconds.
            node: The node's name, for errors.

        Raises:
            HubdistError: The method raised this, or the agent gives no answer.
        """
        ...


def request_agent(agent: Any, method: str, *args: Any, timeout_s: float, node: str) -> Any:
    """Call a method of another node's care agent and wait for the answer.

    Args:
        agent: The agent's handle.
        method: The method's name.
        *args: The method's arguments.
        timeout_s: Deadline in seconds.
        node: The node's name, for errors.

    Raises:
        HubdistError: The method raised this, or the agent gives no answer.
    """
    import ray

    try:
        return ray.get(getattr(agent, method).remote(*args), timeout=timeout_s)
    except ray_errors() as error:
        raise translated(error, node) from error


class PeerBlocks:
    """A `BlockSource` of another node's store.

    Args:
        node: The node's name.
        agent: The handle of the node's care agent.
        timeout_s: Deadline of each call in seconds.
        request: Calls the agent.
    """

    def __init__(self, node: str, agent: Any, timeout_s: float, request: RequestAgent = request_agent) -> None:
        self.name = node
        self._request: Callable[..., Any] = functools.partial(request, agent, timeout_s=timeout_s, node=node)

    def manifest(self, digest: Digest) -> Manifest | None:
        """The manifest that the node has of a model; None if it has none.

        Raises:
            HubdistError: The node gives no answer, or its disk refuses.
        """
        found: Manifest | None = self._request("give_manifest", digest)
        return found

    def read(self, manifest: Manifest, piece: Piece) -> bytes:
        """Bytes of one file on that node, which nobody has checked.

        Args:
            manifest: The model.
            piece: Which bytes of which file.

        Raises:
            HubdistError: The node gives no answer, the file is not there, or the disk refuses.
        """
        data: bytes = self._request("give", manifest.digest, piece)
        return data


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
        sources = sources_of(self._store, peers=find, cache=self._shared_cache(), deadlines=deadlines)
        return verify_all(self._store, digests, sources, quarantine=quarantine)

    def remove(self, digests: Sequence[Digest], dry_run: bool) -> list[Removal]:
        """Delete models that nobody uses and nobody keeps.

        Args:
            digests: The models.
            dry_run: Only tell what would be deleted.
        """
        return collection.remove(self._store, digests, dry_run=dry_run)

    def collect(self, max_bytes: int | None, max_age_s: float | None, dry_run: bool) -> list[Removal]:
        """Delete what dead processes left, and models that are too old or too many.

        Args:
            max_bytes: Most bytes of models that stay; None for no limit.
            max_age_s: Models that were not used for more seconds than this go; None for no limit.
            dry_run: Only tell what would be deleted.
        """
        return collection.collect(self._store, max_bytes=max_bytes, max_age_s=max_age_s, dry_run=dry_run)

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
        blocks = StoreBlocks(self._store)
        manifest = blocks.manifest(digest)
        if manifest is None or not 0 <= piece.entry_index < len(manifest.entries):
            raise IntegrityError(f"the store lacks {digest}")
        return blocks.read(manifest, piece)

    def _shared_cache(self) -> SharedCache | None:
        settings = self._settings
        if settings.shared_cache is None:
            return None
        return SharedCache(
            settings.shared_cache,
            settings.deadlines,
            in_flight_bytes=settings.max_in_flight_bytes,
            max_bytes=settings.max_store_bytes,
            read_only=True,
        )
