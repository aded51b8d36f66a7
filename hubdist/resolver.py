"""Resolve: handle -> snapshot in the driver's store, by the pin that is there or from the origin."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hubdist.config import Config
from hubdist.errors import HubdistError, NotPinnedError
from hubdist.handle import Handle, Kind, parse_handle
from hubdist.manifest import Digest, Manifest
from hubdist.origins import Origin, open_origin
from hubdist.origins.tfhub_cache import find_in_cache
from hubdist.pins import LockFile, Pins, check_pin
from hubdist.report import PinReport
from hubdist.snapshot import Snapshot
from hubdist.store import Store

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a handle stands for.

    Attributes:
        handle: The handle without secrets.
        manifest: The model's files.
        source: Where the bytes came from, in words: `store`, `origin` or `TensorFlow Hub cache`.
        seconds: How long it took.
    """

    handle: str
    manifest: Manifest
    source: str
    seconds: float

    @property
    def digest(self) -> Digest:
        """The digest that names the model."""
        return self.manifest.digest

    def report(self, origin_reads: int) -> PinReport:
        """The same for people."""
        return PinReport(
            self.handle,
            str(self.digest),
            self.manifest.total_bytes,
            len(self.manifest.entries),
            self.source,
            origin_reads,
            self.seconds,
        )


class Resolver:
    """Resolves handles into a store, from several threads and processes at the same time.

    Processes of one node take turns for one handle, so the second finds what the first published.

    Args:
        config: The job's settings.
        store: The driver's store.
        base_dir: What relative paths are relative to; None refuses them.
        wanted: `Handle.key` -> the only digest that is accepted.
    """

    def __init__(
        self, config: Config, store: Store, base_dir: Path | None, wanted: Mapping[str, Digest] | None = None
    ) -> None:
        self._config = config
        self._store = store
        self._base_dir = base_dir
        self._last_pins = Pins(store.root / "pins" / "last")
        self._lock_file = None
        if config.lock_file is not None:
            path = Path(config.lock_file).expanduser()
            self._lock_file = LockFile((base_dir or Path.cwd()) / path, frozen=config.frozen)
        self._wanted = config.wanted_digests() if wanted is None else wanted

    def parse(self, text: str) -> Handle:
        """Parse a handle as this job understands it.

        Raises:
            HandleError: It is none.
        """
        return parse_handle(text, base_dir=self._base_dir, custom_schemes=self._config.origins.keys())

    def resolve(self, handle: Handle) -> Resolution:
        """Find the model of a handle, or read it from its origin, verify and publish it.

        Raises:
            HubdistError: Every kind of it, with the handle filled in.
        """
        begin = time.monotonic()
        try:
            snapshot, source = self._resolve(handle)
        except HubdistError as error:
            raise error.placed(handle=handle.public) from error.__cause__
        with snapshot:
            resolution = Resolution(handle.public, snapshot.manifest, source, time.monotonic() - begin)
        _LOG.info(
            "hubdist: %s is %s, %d bytes from the %s in %.2f s",
            handle.public,
            resolution.digest,
            resolution.manifest.total_bytes,
            source,
            resolution.seconds,
        )
        return resolution

    def _resolve(self, handle: Handle) -> tuple[Snapshot, str]:
        pinned = self._pinned(handle)
        snapshot = self._from_store(handle, pinned)
        if snapshot is not None:
            source = "store"
        else:
            with self._store.lock(f"resolve-{handle.key}", self._config.timeout_s):
                snapshot = self._from_store(handle, pinned)  # another process may have been faster
                source = "store"
                if snapshot is None:
                    snapshot, source = self._from_origin(handle)
        try:
            found = snapshot.manifest.digest
            if pinned is not None:
                check_pin(handle, pinned, found, "the configuration or hubdist.lock")
            if self._lock_file is not None:
                self._lock_file.keep(handle, found)
            if not self._store.read_only:
                self._last_pins.keep(handle, found)
        except BaseException:
            snapshot.release()
            raise
        return snapshot, source

    def _pinned(self, handle: Handle) -> Digest | None:
        pinned = self._wanted.get(handle.key)
        if pinned is None and self._lock_file is not None:
            pinned = self._lock_file.find(handle)
        if pinned is None and self._config.frozen:
            raise NotPinnedError(
                "the configuration is frozen and this handle has no pin",
                advice="Add it to models with its digest, or run once with lock_file and without frozen.",
            )
        return pinned

    def _from_store(self, handle: Handle, pinned: Digest | None) -> Snapshot | None:
        """A hit without asking the origin: pinned, offline, or a handle whose bytes never change by its nature.

        Handles of hubs and numbered Kaggle versions are of the last kind, as they are for TensorFlow Hub.
        """
        immutable = handle.kind is Kind.HUB or (handle.kind is Kind.KAGGLE and handle.text.count("/") == 6)
        digest = pinned
        if digest is None and (immutable or (self._config.offline and handle.kind is not Kind.LOCAL)):
            digest = self._last_pins.find(handle)
        return None if digest is None else self._store.find(digest)

    def _from_origin(self, handle: Handle) -> tuple[Snapshot, str]:
        with self._store.stage() as stage:
            origin, source = self._origin(handle, stage.path)
            origin.fetch(stage)
            return self._store.publish(stage), source

    def _origin(self, handle: Handle, scratch: Path) -> tuple[Origin, str]:
        if self._config.tfhub_cache_dir is not None:
            cached = find_in_cache(handle, Path(self._config.tfhub_cache_dir).expanduser())
            if cached is not None:
                return cached, "TensorFlow Hub cache"
        local = (handle.base or handle).kind is Kind.LOCAL
        if self._config.offline and not local:
            raise NotPinnedError(
                "offline, and this model is not in the store of the driver's node",
                advice="Run once without offline, or put the model on the driver's disk.",
            )
        return open_origin(handle, self._config, scratch), "origin"
