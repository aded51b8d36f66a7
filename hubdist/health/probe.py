"""The process that measures on a node.

`cluster.node_probes` pickles this class by value, for nodes that lack hubdist or have another version. So the module
imports nothing but the standard library and `machine`, and arguments and results are of built-in types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hubdist.health.machine import read_clock, read_facts


class Probe:
    """Measures on one node. Safe for several threads."""

    def __init__(self) -> None:
        self._port: Any = None

    def facts(self, packages: Sequence[str], modules: Sequence[str]) -> dict[str, Any]:
        """As `machine.read_facts`, also where hubdist is missing.

        Args:
            packages: Names as a package index has them.
            modules: Names of modules.
        """
        return read_facts(packages, modules)

    def clock(self) -> float:
        """Seconds since 1970, by the node's clock."""
        return read_clock()

    def store(self, settings: Mapping[str, Any], node_id: str) -> list[Any]:
        """Plain findings of the node's store; see `hubdist.health.stores`.

        Args:
            settings: Keys of the configuration.
            node_id: Ray's id of the node.
        """
        from hubdist.health.stores import examine_store

        return examine_store(settings, node_id)

    def places(
        self,
        settings: Mapping[str, Any],
        wanted: Sequence[tuple[str, str]],
        timeout_s: float,
        values: Mapping[str, str] | None = None,
    ) -> list[Any]:
        """Plain findings of what handles name; see `hubdist.health.places`.

        Args:
            settings: Keys of the configuration.
            wanted: What to read, and what for.
            timeout_s: Longest time in seconds for each.
            values: The driver's variables for origins; None for none.
        """
        from hubdist.health.places import examine_places

        return examine_places(settings, wanted, timeout_s, values)

    def open_port(self, settings: Mapping[str, Any], host: str, secret: bytes) -> Any:
        """Open a port as a delivery would; host and port, or words that say why there is none.

        Args:
            settings: Keys of the configuration.
            host: The node's address.
            secret: What other nodes must know.
        """
        from hubdist.health.ports import open_port

        self._port = open_port(settings, host, secret)
        return self._port if isinstance(self._port, str) else tuple(self._port.address)

    def try_ports(self, targets: Mapping[str, tuple[str, int]], secret: bytes) -> dict[str, str | None]:
        """Try the ports of other nodes; for each name None, or words that say why it cannot be reached.

        Args:
            targets: Name of a node -> its host and port.
            secret: What the nodes know.
        """
        from hubdist.health.ports import try_ports

        return try_ports(targets, secret)

    def close(self) -> None:
        """Close the port."""
        if self._port is not None and not isinstance(self._port, str):
            self._port.stop()
        self._port = None
