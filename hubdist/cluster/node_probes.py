"""Measures on the nodes of a Ray cluster: a process on each, also where hubdist is missing or has another version.

The class and the functions that it calls are pickled by value, so no node needs hubdist to make them. The job's
coordinator is neither asked nor started.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Self

import ray.cloudpickle
import ray.exceptions

from hubdist.cluster.calls import stop_actor, translated
from hubdist.cluster.connection import make_probe
from hubdist.cluster.nodes import alive_nodes, driver_node, process_role
from hubdist.errors import HubdistError, TransferTimeoutError
from hubdist.health import machine, probe
from hubdist.health.examination import Target
from hubdist.health.probe import Probe

_BY_VALUE = (machine, probe)
_GET_S = 5.0


class NodeProbes:
    """The `Probes` of a cluster; use it in a `with` block, which ends their processes.

    Args:
        make: Makes the actor for a class on a node, by the node's id.
        kind: The class.

    Raises:
        PeerError: The cluster could not be asked for its nodes.
    """

    def __init__(self, make: Any = make_probe, kind: type[Any] = Probe) -> None:
        nodes = alive_nodes()
        self.targets: Sequence[Target] = tuple(Target(node.id, node.name, node.address) for node in nodes)
        drivers = driver_node(nodes, process_role())
        self.driver = next(target for target in self.targets if target.id == drivers.id)
        self._actors: dict[str, Any] = {}
        with contextlib.ExitStack() as stack:
            for module in _BY_VALUE:
                ray.cloudpickle.register_pickle_by_value(module)
                stack.callback(ray.cloudpickle.unregister_pickle_by_value, module)
            for target in self.targets:
                self._actors[target.name] = make(kind, target.id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._actors.values():
            with contextlib.suppress(ray.exceptions.RayError):
                stop_actor(actor)

    def ask(
        self, method: str, arguments: Mapping[str, tuple[Any, ...]], timeout_s: float
    ) -> dict[str, Any | HubdistError]:
        """Call a method of several probes at once; each has an answer or an error when this returns.

        Args:
            method: The method's name.
            arguments: Name of a node -> the arguments for its probe.
            timeout_s: Longest wait in seconds for all of them.
        """
        calls = {name: getattr(self._actors[name], method).remote(*values) for name, values in arguments.items()}
        if not calls:
            return {}
        ready, _ = ray.wait(list(calls.values()), num_returns=len(calls), timeout=timeout_s)
        done = set(ready)
        return {
            name: _result(call, name)
            if call in done
            else TransferTimeoutError(f"no answer within {timeout_s:g} s", node=name)
            for name, call in calls.items()
        }


def _result(call: Any, node: str) -> Any | HubdistError:
    try:
        return ray.get(call, timeout=_GET_S)
    except ray.exceptions.RayError as error:
        return translated(error, node)
