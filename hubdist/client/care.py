"""The care of models on disk: what `hubdist ls`, `verify`, `rm`, `gc`, `keep` and `release` do, for programs.

    with open_care("node") as care:
        for name, models in care.list_models().by_store.items():
            ...

A place is this node's store, which needs no Ray; all nodes' stores, through an actor on each node; or the shared cache.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence

from hubdist.care.node_store import NodeStore, Peers, sources_of
from hubdist.care.place import Answers, CarePlace
from hubdist.care.targets import find_targets
from hubdist.care.verification import Sources
from hubdist.config.schema import Config
from hubdist.errors import ConfigError, DeliveryError, StoreError
from hubdist.model.manifest import Digest
from hubdist.resolver.node_store import open_store
from hubdist.resolver.origin_settings import origin_settings
from hubdist.shared_cache.cache import SharedCache
from hubdist.store.store import Store
from hubdist.system.disk import working_directory
from hubdist.system.ownership import find_root

PLACES = ("node", "all", "shared")


def open_care(
    where: str = "node", config: Config | None = None, *, node_id: str | None = None, peers: Peers | None = None
) -> contextlib.AbstractContextManager[CarePlace]:
    """Open a place whose models are to be cared for.

    Args:
        where: `node`: this node's store, without Ray. `all`: the stores of all nodes of the cluster that this process
            is connected to. `shared`: the shared cache.
        config: The settings; None reads them from `HUBDIST_CONFIG` and the environment.
        node_id: Ray's id of this node, if the store's path has it; None: the path has none.
        peers: For `node`: finds stores of other nodes that a repair may ask; None: there are none.

    Raises:
        ConfigError: There is no such place: no shared cache is set, or this process is connected to no cluster.
        StoreError: The store cannot be used.
    """
    config = config or Config.load()
    if where == "node":
        return _this_node(config, node_id, peers)
    if where == "all":
        from hubdist.cluster.care import ClusterCare

        return ClusterCare(config)
    if where != "shared":
        raise ConfigError(f"there is no place {where!r}", advice=f"Places are {', '.join(PLACES)}.")
    cache = shared_cache_of(config)
    if cache is None:
        raise ConfigError("there is no shared cache", advice="Set shared_cache, or give it by --set shared_cache=URL.")
    from hubdist.care.shared_place import SharedPlace

    return SharedPlace(cache, config.deadlines, _own_store(config))


def targets_in(care: CarePlace, texts: Sequence[str]) -> list[Digest]:
    """The digests that texts stand for, among the models of a place.

    Args:
        care: The place.
        texts: Handles, digests, or the first digits of digests.

    Raises:
        HandleError: A text is neither a digest nor a handle, or several digests begin with it.
        NotPinnedError: The place has no such model.
        DeliveryError: No store of the place tells what it has.
    """
    answers = care.list_models()
    if answers.failures and not answers.by_store:
        raise failed(answers)
    known: dict[Digest, set[str]] = {}
    for models in answers.by_store.values():
        for model in models:
            known.setdefault(model.digest, set()).update(model.handles)
    return find_targets(texts, known, base_dir=working_directory())


def failed(answers: Answers[object]) -> DeliveryError | StoreError:
    """The error for stores that failed: the only store's own, or one that names each node."""
    failures = dict(answers.failures)
    first = next(iter(failures.values()))
    if len(failures) == 1 and not answers.by_store and isinstance(first, StoreError):
        return first
    return DeliveryError(
        f"{len(failures)} of {len(failures) + len(answers.by_store)} stores failed:", failures=failures
    )


def _own_store(config: Config) -> Store | None:
    """This node's store, if it is there."""
    name = socket.gethostname()
    with contextlib.suppress(StoreError):
        if find_root(config.store_root(name)).is_dir():
            return open_store(config, name)
    return None


def _this_node(config: Config, node_id: str | None, peers: Peers | None) -> NodeStore:
    name = socket.gethostname()
    root = config.store_root(node_id or name)
    if not find_root(root).is_dir():
        if "{node_id}" in config.store and node_id is None:
            raise ConfigError(
                f"the store {config.store} has the id of a Ray node in its path, which is not known without Ray",
                advice="Use --where all, or give the directory by --set store=/the/directory.",
            )
        return NodeStore(name, None)
    store = open_store(config, node_id or name)
    return NodeStore(name, store, _sources(config, store, peers))


def _sources(config: Config, store: Store, peers: Peers | None) -> Sources:
    cache = shared_cache_of(config)
    origins = None if config.offline else origin_settings(config)
    return sources_of(store, peers=peers, cache=cache, origins=origins, deadlines=config.deadlines)


def shared_cache_of(config: Config) -> SharedCache | None:
    """The shared cache that the settings name; None if they name none, or one on a network while they are offline."""
    if config.shared_cache is None or (config.offline and "://" in config.shared_cache):
        return None
    return SharedCache(
        config.shared_cache,
        config.deadlines,
        in_flight_bytes=config.max_in_flight_bytes,
        max_bytes=config.max_store_bytes,
        read_only=config.shared_cache_read_only,
    )
