"""Blocks of another node's store, for a repair: asked of the agent on that node, by calls of Ray.

A repair is rare and moves a few blocks, so it needs no port and no delivery.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

from hubdist.cluster.calls import ray_errors, translated
from hubdist.model.chunks import Piece
from hubdist.model.manifest import Digest, Manifest


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
