"""Agents in threads of this process instead of actors of Ray: real stores and exchanges, nodes that can be stopped."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hubdist.cluster.agent.agent import NodeAgent
from hubdist.cluster.agent.chunk_rpc import SenderTimes, describe_unit, request_part
from hubdist.cluster.agent.node_port import NodePort
from hubdist.cluster.coordinator.agent_pool import AgentPool
from hubdist.cluster.coordinator.liveness import LivenessTimes
from hubdist.cluster.nodes import ClusterView, Node
from hubdist.config.schema import Config
from hubdist.errors import HubdistError
from hubdist.model.manifest import Manifest
from hubdist.store.store import Store

DRIVER = "driver"

QUICK = LivenessTimes(quiet_s=0.1, silent_s=0.5, look_s=0.05)
"""So that tests need not wait for seconds."""


QUICK_SENDERS = SenderTimes(quiet_s=0.1, silent_s=0.7)
"""Longer than `QUICK`, by which the coordinator lets nodes wait no longer."""


class Reference:
    """What `.remote()` returns."""

    def __init__(self) -> None:
        self.answer: Future[Any] = Future()

    def future(self) -> Future[Any]:
        """As Ray's, one for each who asks."""
        copy: Future[Any] = Future()

        def hand_on(answer: Future[Any]) -> None:
            if copy.set_running_or_notify_cancel():
                error = answer.exception()
                if error is None:
                    copy.set_result(answer.result())
                else:
                    copy.set_exception(error)

        self.answer.add_done_callback(hand_on)
        return copy


class Method:
    """A method of a fake actor."""

    def __init__(self, actor: FakeActor, name: str, results: int = 1) -> None:
        self._actor = actor
        self._name = name
        self._results = results

    def options(self, *, num_returns: int = 1, **_: Any) -> Method:
        return Method(self._actor, self._name, num_returns)

    def remote(self, *arguments: Any) -> Any:
        references = [Reference() for _ in range(self._results)]
        self._actor.call(self._name, arguments, references)
        return references[0] if self._results == 1 else references


class FakeActor:
    """A node's agent; while its node is stopped it takes calls and answers none."""

    def __init__(self, nodes: FakeNodes, config: Config, node: Node) -> None:
        self._nodes = nodes
        self._agent = NodeAgent(
            config.node_settings, node.id, host=nodes.hosts[node.id], request=nodes.request, describe=nodes.describe
        )
        self.node = node
        self.killed = False
        nodes.actors.append(self)

    @property
    def port(self) -> NodePort:
        """The node's port."""
        return self._agent._port

    def __getattr__(self, name: str) -> Method:
        return Method(self, name)

    def call(self, name: str, arguments: tuple[Any, ...], references: list[Reference]) -> None:
        self._nodes.calls[self.node.id, name] += 1

        def work() -> None:
            try:
                self._nodes.enter(self.node.id)
                self._nodes.wait(self.node.id)
                self._nodes.before[name](self.node.id, arguments)
                result = getattr(self._agent, name)(*arguments)
                self._nodes.after[name](self.node.id, arguments)
                self._nodes.wait(self.node.id)
            except Exception as error:  # noqa: BLE001 - Ray hands on whatever a method raises
                results, failed = [], error
            else:
                results, failed = (list(result) if len(references) > 1 else [result]), None
            for at, reference in enumerate(references):
                if failed is None:
                    reference.answer.set_result(results[at])
                else:
                    reference.answer.set_exception(failed)

        thread = threading.Thread(target=work, daemon=True, name=f"{name} of {self.node.id}")
        self._nodes.threads.append(thread)
        thread.start()


def _get_results(references: list[Reference], timeout: float) -> list[Any]:
    return [reference.answer.result(timeout) for reference in references]


class FakeNodes:
    """A driver's node and others.

    Attributes:
        config: Of all agents.
        before: Method -> called in the agent's thread before the method runs, with the node's id and the arguments.
        after: The same, when it has run and the caller has no answer yet.
        calls: Node and method -> how often it was called.
        request: Gets bytes from another agent; for agents that start after it was set.
        cluster: All nodes are alive.
        hosts: Where each node opens its port; None for nodes without ports.
        enter: Called first in each thread of a node, with the node's id; moves the thread to the node's network.
    """

    def __init__(
        self, folder: Path, names: tuple[str, ...], host: str | Mapping[str, str] | None, **settings: Any
    ) -> None:
        self.hosts: Mapping[str, str | None] = (
            host if isinstance(host, Mapping) else dict.fromkeys((DRIVER, *names), host)
        )
        self.enter: Callable[[str], None] = lambda _: None
        self.config = Config(store=str(folder / "{node_id}"), **settings)
        self.nodes = {name: Node(name, f"node {name}", name, name == DRIVER) for name in (DRIVER, *names)}
        self.stores = {name: Store(self.config.store_root(name)) for name in self.nodes}
        self.before: dict[str, Callable[[str, tuple[Any, ...]], None]] = defaultdict(lambda: lambda *_: None)
        self.after = self.before.copy()
        self.calls: Counter[tuple[str, str]] = Counter()
        self.cluster = ClusterView(lambda: list(self.nodes.values()))
        self._actors: dict[bytes, FakeActor] = {}
        self.actors: list[FakeActor] = []
        self.agents = AgentPool(
            self.config,
            lambda config, node: FakeActor(self, config, node),
            self.cluster,
            stop_agent=lambda actor: setattr(actor, "killed", True),
            pickle_agent=self._pickle,
        )
        self.request: Callable[..., bytearray] = functools.partial(
            request_part, load_agent=self._actors.__getitem__, get_results=_get_results, times=QUICK_SENDERS
        )
        self.describe = functools.partial(describe_unit, load_agent=self._actors.__getitem__, times=QUICK_SENDERS)
        self.threads: list[threading.Thread] = []
        self.ended = False
        self._running = {name: threading.Event() for name in self.nodes}
        for event in self._running.values():
            event.set()

    def _pickle(self, actor: FakeActor) -> bytes:
        name = actor.node.id.encode()
        self._actors[name] = actor
        return name

    def stop(self, name: str) -> None:
        """The node gives no answer any more."""
        self._running[name].clear()

    def go_on(self, name: str) -> None:
        """It does again."""
        self._running[name].set()

    def wait(self, name: str) -> None:
        if not self._running[name].wait(60) or self.ended:
            raise HubdistError("the test is over")

    def has(self, name: str, manifest: Manifest) -> bool:
        """True if the node's store has the model."""
        snapshot = self.stores[name].find(manifest.digest)
        if snapshot is not None:
            snapshot.release()
        return snapshot is not None

    def publish(self, name: str, files: dict[str, bytes]) -> Manifest:
        """Put a model into a node's store."""
        with self.stores[name].stage() as stage:
            for path, data in files.items():
                with stage.open_file(path) as file:
                    file.write(data)
            with self.stores[name].publish(stage) as snapshot:
                return snapshot.manifest


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test in an event loop, and end what it leaves behind."""

    async def within() -> None:
        try:
            await asyncio.wait_for(work(), 60)
        finally:
            while left := asyncio.all_tasks() - {asyncio.current_task()}:
                for task in left:
                    task.cancel()
                await asyncio.wait(left, timeout=1)

    asyncio.run(within())


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop run until something is so."""

    def wait() -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    await asyncio.to_thread(wait)


@contextmanager
def fake_nodes(
    folder: Path, *names: str, host: str | Mapping[str, str] | None = "127.0.0.1", **settings: Any
) -> Iterator[FakeNodes]:
    """Nodes with these names; they send by ports, without a host by calls of agents."""
    nodes = FakeNodes(folder, names, host, **settings)
    try:
        yield nodes
    finally:
        nodes.ended = True
        for name in nodes.nodes:
            nodes.go_on(name)
        for thread in nodes.threads:
            thread.join(20)
            assert not thread.is_alive(), thread.name
        for actor in nodes.actors:
            actor.port.stop()
