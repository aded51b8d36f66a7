"""What a node agent needs of the settings, as a plain value.

An agent's process starts while a node waits for a model. So it must not load what makes the whole `Config`: pydantic
alone would take a third of the time that the agent's own modules need.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hubdist.errors import ConfigError, StoreError
from hubdist.model.paths import expand_home
from hubdist.system.deadline import Deadlines
from hubdist.system.ownership import place_for_store


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """The settings of a job that hold for work on its nodes; `Config.node_settings` makes them.

    The attributes are the keys of the same names, but for these.

    Attributes:
        names_store: True if `store` was given; else each process goes by its environment.
        deadlines: The limits for reads of origins and storage.
    """

    store: str
    names_store: bool
    max_store_bytes: int | None
    low_store_percent: int
    scrub_rate: float | None
    max_in_flight_bytes: int
    shared_cache: str | None
    data_port: str
    data_ports: str | None
    timeout_s: float
    chunk_timeout_s: float
    probe_timeout_s: float
    deadlines: Deadlines
    export_metrics: bool = True

    @property
    def opens_port(self) -> bool:
        """True if nodes send bytes by a port of their own."""
        return self.data_port == "auto"

    @property
    def port_range(self) -> range | None:
        """The ports to choose from; None lets the system choose."""
        if self.data_ports is None:
            return None
        first, _, last = self.data_ports.partition("-")
        return range(int(first), int(last) + 1)

    def store_root(self, node_id: str) -> Path:
        """The directory of the store on a node, by the environment of this process.

        Args:
            node_id: Ray's id of the node, for the placeholder `{node_id}`.

        Raises:
            StoreError: The path begins with `~`, and this process's user has no home.
        """
        cache = os.environ.get("XDG_CACHE_HOME", "")
        if not self.names_store and cache.startswith("/"):
            return Path(cache) / "hubdist"
        try:
            return expand_home(self.store.format(node_id=node_id), "store (HUBDIST_STORE)")
        except ConfigError as error:
            advice = f"Set store (HUBDIST_STORE) to {place_for_store()}."
            raise StoreError(error.what, path=self.store, advice=advice) from None


def find_tls_files() -> tuple[str, str, str] | None:
    """The certificate, key and authority with which Ray encrypts in this process; None if it does not encrypt."""
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return None
    names = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")
    certificate, key, authority = (os.environ.get(name, "") for name in names)
    return certificate, key, authority
