"""Which nodes cannot reach each other's ports, so that bytes go between them by calls of Ray."""

from __future__ import annotations

import logging

from hubdist.cluster.nodes import Node

_LOG = logging.getLogger(__name__)
_MAX_KEPT = 1_000


class ClosedPorts:
    """Says once of each pair of nodes that bytes go by calls of Ray. Owned by the coordinator's event loop.

    Args:
        opens_ports: False if the job's settings let agents open no ports.
    """

    def __init__(self, *, opens_ports: bool) -> None:
        self._opens_ports = opens_ports
        self._known: dict[tuple[str, str], str] = {}

    def note(self, receiver: Node, sending: Node, why: str) -> None:
        """Note that a node cannot reach another node's port, and log it if it is new.

        Args:
            receiver: The node that receives.
            sending: The node whose port is closed.
            why: The reason.
        """
        pair = (receiver.id, sending.id)
        if pair in self._known or len(self._known) >= _MAX_KEPT:
            return
        self._known[pair] = f"{receiver.name} cannot reach the port of {sending.name}"
        text = "hubdist: chunks go from %s to %s by calls of Ray, which takes more processor time: %s"
        _LOG.warning(text, sending.name, receiver.name, why)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a plan says of it: a line for each pair that is known."""
        if not self._opens_ports:
            return ("agents open no ports (data_port is off): bytes go by calls of Ray",)
        return tuple(f"{text}: bytes go by calls of Ray" for text in self._known.values())
