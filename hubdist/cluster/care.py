"""The care of all nodes' stores, by a care agent on each node, from the process that runs the command.

There is no coordinator: the process starts the agents, asks all of them at once, waits for them with a deadline, and
ends them. A node that fails is named in the answer, and the others have done what was asked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from hubdist.care.collection import Removal
from hubdist.care.listing import StoredModel
from hubdist.care.node_store import sources_of, verify_all
from hubdist.care.place import Answers
from hubdist.care.repair import BlockSource
from hubdist.care.verification import Verified
from hubdist.cluster.agent.peer_blocks import PeerBlocks
from hubdist.cluster.calls import ray_errors, stop_actor, translated
from hubdist.cluster.connection import make_care_agent
from hubdist.cluster.nodes import Node, ProcessRole, alive_nodes, process_role
from hubdist.config.handover import literal_store
from hubdist.config.schema import Config
from hubdist.errors import ConfigError, HubdistError, TransferTimeoutError
from hubdist.model.manifest import Digest
from hubdist.resolver.node_store import open_store
from hubdist.resolver.origin_settings import origin_settings

START_TIMEOUT_S = 180.0
"""Deadline in seconds for an answer beside the time that the work may take: a process may have to be started."""


class ClusterCare:
    """A `CarePlace` of all nodes that are alive. Not safe for several threads.

    Args:
        config: The settings.
        timeout_s: Longest time in seconds for the work of one call on a node; None takes `timeout_s` of the settings.

    Raises:
        ConfigError: This process is not connected to Ray.
        PeerError: The cluster could not be asked for its nodes.
    """

    def __init__(self, config: Config, *, timeout_s: float | None = None) -> None:
        import ray

        if not ray.is_initialized():
            raise ConfigError("this process is not connected to Ray", advice="Call ray.init() first.")
        self._timeout_s = START_TIMEOUT_S + (config.timeout_s if timeout_s is None else timeout_s)
        self._config = config
        self._own_id = own_node_id()
        self._nodes = alive_nodes()
        self._agents: dict[str, Any] = {}

    def __enter__(self) -> Self:
        for node in self._nodes:
            self._agents[node.id] = make_care_agent(config_on(self._config, node.id, self._own_id), node)
        return self

    def __exit__(self, *_: object) -> None:
        """End the agents."""
        for agent in self._agents.values():
            with contextlib.suppress(*ray_errors()):
                stop_actor(agent)
        self._agents.clear()

    def list_models(self) -> Answers[list[StoredModel]]:
        """All models; in each store the one that was used last comes first."""
        return self._ask(lambda agent: agent.list_models.remote())

    def verify(self, digests: Sequence[Digest] | None, *, repair: bool) -> Answers[list[Verified]]:
        """Read every byte again; nodes mend what is damaged from each other, then from the shared cache.

        What no node and no cache has whole, this process's node mends by reading the origin, which only it may do; then
        the others take it from there.

        Args:
            digests: The models; None for all.
            repair: Mend what is damaged; what cannot be mended is moved aside.
        """
        if not repair:
            return self._ask(lambda agent: agent.verify.remote(digests, None, False))
        first = self._ask_each(lambda node, agent: agent.verify.remote(digests, self._peers(node), False))
        damaged = {name: [one.digest for one in found if one.damaged] for name, found in first.by_store.items()}
        left = {digest for several in damaged.values() for digest in several}
        if not left:
            return first
        self._read_origins(sorted(left))
        again = self._ask_each(
            lambda node, agent: agent.verify.remote(damaged.get(node.name, []), self._peers(node), True),
            [node for node in self._nodes if damaged.get(node.name)],
        )
        return Answers(_merged(first.by_store, again.by_store), {**first.failures, **again.failures})

    def remove(self, digests: Sequence[Digest], *, dry_run: bool) -> Answers[list[Removal]]:
        """Delete models that nobody keeps, and nobody on any node uses: a job pins its models on its driver's node.

        Args:
            digests: The models.
            dry_run: Only tell what would be deleted.
        """
        needed = self._needed()
        return self._ask(lambda agent: agent.remove.remote(digests, dry_run, needed))

    def collect(self, *, max_bytes: int | None, max_age_s: float | None, dry_run: bool) -> Answers[list[Removal]]:
        """Delete what dead processes left, and models that are too old or too many.

        Args:
            max_bytes: Most bytes of models that stay on each node; None for no limit.
            max_age_s: Models that were not used for more seconds than this go; None for no limit.
            dry_run: Only tell what would be deleted.
        """
        needed = self._needed()
        return self._ask(lambda agent: agent.collect.remote(max_bytes, max_age_s, dry_run, needed))

    def keep(self, digests: Sequence[Digest]) -> Answers[list[Digest]]:
        """Never evict models, until `release`; the answer has those that are on each node."""
        return self._ask(lambda agent: agent.keep.remote(digests))

    def release(self, digests: Sequence[Digest]) -> Answers[list[Digest]]:
        """Let stores evict models again; the answer has those that were kept."""
        return self._ask(lambda agent: agent.release.remote(digests))

    def peer_blocks(self) -> list[BlockSource]:
        """The stores of all other nodes, for a repair of this node's."""
        return [
            PeerBlocks(node.name, self._agents[node.id], self._config.chunk_timeout_s)
            for node in self._nodes
            if node.id != self._own_id
        ]

    def _needed(self) -> frozenset[Digest]:
        """The models that a process on any node uses, or that a running job has pinned."""
        listed = self.list_models().by_store.values()
        return frozenset(model.digest for models in listed for model in models if model.in_use)

    def _peers(self, of: Node) -> list[tuple[str, Any]]:
        return [(node.name, self._agents[node.id]) for node in self._nodes if node.id != of.id]

    def _read_origins(self, digests: Sequence[Digest]) -> None:
        """Mend models in the store of this process's node by reading their origins."""
        if self._own_id is None or self._config.offline:
            return
        config = config_on(self._config, self._own_id, self._own_id)
        store = open_store(config, self._own_id)
        origins = origin_settings(config)
        sources = sources_of(store, origins=origins, deadlines=config.deadlines)
        verify_all(store, digests, sources, quarantine=False)

    def _ask(self, method: Callable[[Any], Any]) -> Answers[Any]:
        return self._ask_each(lambda _, agent: method(agent))

    def _ask_each(self, method: Callable[[Node, Any], Any], nodes: Sequence[Node] | None = None) -> Answers[Any]:
        """Call the agents of nodes, all at once; wait for all until the deadline."""
        import ray

        asked = {method(node, self._agents[node.id]): node for node in (self._nodes if nodes is None else nodes)}
        ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=self._timeout_s)
        answers: dict[str, Any] = {}
        failures: dict[str, HubdistError] = {
            asked[reference].name: TransferTimeoutError(f"no answer within {self._timeout_s:g} s") for reference in late
        }
        for reference in ready:
            name = asked[reference].name
            try:
                answers[name] = ray.get(reference, timeout=START_TIMEOUT_S)
            except ray_errors() as error:
                failures[name] = translated(error, None)
        return Answers(dict(sorted(answers.items())), failures)


def peers_of_this_node(config: Config, closing: contextlib.ExitStack) -> Sequence[BlockSource]:
    """The stores of all nodes but this process's own, for a repair.

    Args:
        config: The settings.
        closing: Ends the agents on the other nodes.

    Raises:
        ConfigError: This process is not connected to Ray.
        PeerError: The cluster could not be asked for its nodes.
    """
    return closing.enter_context(ClusterCare(config)).peer_blocks()


def own_node_id() -> str | None:
    """Ray's id of the node that this process is on; None for a Ray Client."""
    import ray

    return None if process_role() is ProcessRole.OUTSIDE else str(ray.get_runtime_context().get_node_id())


def config_on(config: Config, node_id: str, own_id: str | None) -> Config:
    """The settings that hold on a node, without functions and handles, which may hold secrets.

    Args:
        config: The settings of this process.
        node_id: The node.
        own_id: The node of this process, whose store the environment may name; None if it is on none.
    """
    if node_id == own_id and not config.names_store:
        return config.replace({"store": literal_store(config, node_id)})
    return config


def _merged(
    first: Mapping[str, Sequence[Verified]], again: Mapping[str, Sequence[Verified]]
) -> dict[str, list[Verified]]:
    """The results of a first round, with those of a second round in their places."""
    merged = {}
    for name, found in first.items():
        second = {one.digest: one for one in again.get(name, ())}
        merged[name] = [_joined(one, second.get(one.digest)) for one in found]
    return merged


def _joined(first: Verified, second: Verified | None) -> Verified:
    """What was wrong at first, and what became of it in the end."""
    if second is None:
        return first
    used = tuple(dict.fromkeys((*first.repaired_from, *second.repaired_from)))
    mended = second.repaired or not second.damage
    return replace(first, repaired=mended, repaired_from=used, quarantined=second.quarantined)
