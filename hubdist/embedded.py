"""Without Ray: everything happens in this process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from pathlib import Path

from hubdist.config import Config
from hubdist.errors import ConfigError, NotPinnedError
from hubdist.manifest import Digest
from hubdist.report import NodeReport, PinReport, Report, Status
from hubdist.resolver import Resolver
from hubdist.routes import Route
from hubdist.snapshot import Snapshot
from hubdist.store import Store


class Embedded:
    """Resolves into this machine's store; each handle once for the life of the process. Safe for several threads.

    Args:
        config: The settings.
        base_dir: What relative paths are relative to.
    """

    def __init__(self, config: Config, base_dir: Path) -> None:
        self._node = socket.gethostname()
        self._store = Store(config.store_root(self._node), max_bytes=config.max_bytes)
        self._resolver = Resolver(config, self._store, base_dir)
        self._guard = threading.Lock()
        self._resolving: dict[str, threading.Lock] = {}
        self._pins: dict[str, PinReport] = {}

    def resolve(self, text: str) -> tuple[str, Digest]:
        """The public handle and the digest that this process has pinned.

        Raises:
            HubdistError: Every kind of it.
        """
        pin = self._pin(text)
        return pin.handle, Digest.parse(pin.digest)

    def locate(self, handle: str, digest: Digest) -> Snapshot:
        """The snapshot in this machine's store.

        Raises:
            NotPinnedError: It is not there.
        """
        snapshot = self._store.find(digest)
        if snapshot is None:
            raise NotPinnedError(f"{digest} is not in the store {self._store.root}", handle=handle)
        return snapshot

    def prefetch(self, texts: Sequence[str], nodes: Sequence[str] | None) -> Report:
        """Resolve the handles; there is one node."""
        if nodes is not None and set(nodes) - {self._node}:
            raise ConfigError("there are no other nodes: Ray is not running", advice="Call ray.init() first.")
        pins = tuple(self._pin(text) for text in texts)
        return Report(pins, tuple(self._node_report(pin) for pin in pins))

    def status(self) -> Status:
        """What this process has resolved."""
        return Status("embedded", None, str(self._store.root), tuple(self._pins.values()))

    def shutdown(self) -> None:
        """Forget the pins."""
        with self._guard:
            self._pins.clear()

    def _pin(self, text: str) -> PinReport:
        handle = self._resolver.parse(text)
        with self._guard:
            resolving = self._resolving.setdefault(handle.key, threading.Lock())
        with resolving:
            pin = self._pins.get(handle.key)
            if pin is None:
                found = self._resolver.resolve(handle)
                pin = found.report(origin_reads=int(found.source == "origin"))
                self._pins[handle.key] = pin
        return pin

    def _node_report(self, pin: PinReport) -> NodeReport:
        return NodeReport(
            self._node, self._node, pin.handle, pin.digest, Route.STORE, "everything happens in this process"
        )
