"""Resolve: handle -> manifest, by the pin that is there, from the shared cache, or from the origin.

The model's files are then in the driver's store, in the shared cache, or in both.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from hubdist.config.schema import Config, ModelSettings
from hubdist.errors import HubdistError, NotPinnedError
from hubdist.model.handle import Handle, Kind, parse_handle
from hubdist.model.manifest import Digest, Manifest
from hubdist.model.paths import drivers_path
from hubdist.origins.direct import direct_url
from hubdist.origins.local_changes import Look, look_at
from hubdist.remote.proven_copies import ProvenCopies
from hubdist.remote.snapshot_copy import RemoteCopy, list_copy
from hubdist.report.delivery import PinReport
from hubdist.resolver.origin_fetch import Feed, Fetcher
from hubdist.shared_cache.best_effort import OptionalCache
from hubdist.store.pins import LockFile, Pins, check_pin
from hubdist.store.snapshot import Snapshot
from hubdist.store.store import Store
from hubdist.system.deadline import Deadline
from hubdist.system.disk import optional_note

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a handle stands for.

    Attributes:
        handle: The handle without secrets.
        manifest: The model's files.
        source: Where the bytes came from, in words, such as `store` or `origin`.
        shared: Where the nodes find the files in the shared cache; None if they are in none.
        seconds: How long it took.
        seen: For a path of the driver, what it looked like when it was read; see `origins.looks`.
    """

    handle: str
    manifest: Manifest
    source: str
    shared: RemoteCopy | None = None
    seconds: float = 0.0
    seen: Look | None = None

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


@dataclass(frozen=True, slots=True)
class Pin:
    """What a handle stands for, for whoever loads it: without secrets, with what the configuration says of it.

    Attributes:
        handle: The handle without secrets.
        digest: The model.
        settings: What the configuration says of it.
        seen: See `Resolution`.
    """

    handle: str
    digest: Digest
    settings: ModelSettings = field(default_factory=ModelSettings)
    seen: Look | None = None


class Resolver:
    """Resolves handles, from several threads and processes at the same time.

    Processes of one node take turns for one handle, so the second finds what the first published; clusters that share
    a cache take turns too, for handles whose bytes are known not to change.

    Args:
        config: The job's settings.
        store: The driver's store.
        base_dir: What relative paths are relative to; None refuses them.
        models: `Handle.key` -> what the configuration says of the model; None takes it from `config`.

    Raises:
        ConfigError: A path in the settings begins with `~`, and no home is known here; or it is relative, and there is
            no `base_dir`.
    """

    def __init__(
        self, config: Config, store: Store, base_dir: Path | None, models: Mapping[str, ModelSettings] | None = None
    ) -> None:
        self._config = config
        self._store = store
        self._proven = ProvenCopies(store.root / "pins" / "places")
        self._cache = OptionalCache(config, self._proven)
        self._fetcher = Fetcher(config, store, self._cache, self._proven, base_dir)
        self._base_dir = base_dir
        self._last_pins = Pins(store.root / "pins" / "last")
        self._lock_file = None
        if config.lock_file is not None:
            path = drivers_path(config.lock_file, "lock_file (HUBDIST_LOCK_FILE)", base_dir)
            self._lock_file = LockFile(path, frozen=config.frozen)
        self._models = config.model_settings() if models is None else models
        self._directories: dict[str, str] = {}
        """`Handle.key` -> the directory that was found to be the same model."""

    def parse(self, text: str) -> Handle:
        """Parse a handle as this job understands it.

        Raises:
            HandleError: It is none.
        """
        return parse_handle(text, base_dir=self._base_dir, custom_schemes=self._config.origins.keys())

    def settings_of(self, handle: Handle) -> ModelSettings:
        """What the configuration says of this model alone."""
        return self._models.get(handle.key, ModelSettings())

    def is_chosen(self, handle: Handle) -> bool:
        """True if the settings or the lock file pin the handle.

        Raises:
            HubdistError: They are frozen and do not, or the lock file is damaged.
        """
        return self._pinned(handle) is not None

    def look(self, handle: Handle) -> Resolution | None:
        """As `find`, but nothing is noted or written anywhere.

        Raises:
            HubdistError: Every kind of it.
        """
        return self._look(handle, self._pinned(handle))

    def find(self, handle: Handle) -> Resolution | None:
        """What a handle stands for, if its files are in the driver's store or in the shared cache and may be used.

        What the store has and the shared cache lacks is put there.

        Raises:
            HubdistError: Every kind of it, with the handle filled in.
        """
        return self._timed(handle, lambda: self._find(handle, self._pinned(handle)))

    def resolve(self, handle: Handle, watcher: Feed | None = None) -> Resolution:
        """What a handle stands for; read from its origin, verified and published if that is not known yet.

        Args:
            handle: The handle.
            watcher: Is told what is read while it is read.

        Raises:
            HubdistError: Every kind of it, with the handle filled in.
        """
        deadline = Deadline(self._config.timeout_s)
        resolution = self._timed(handle, lambda: self._resolve(handle, watcher, deadline))
        assert resolution is not None
        return resolution

    def read_anew(self, handle: Handle) -> Resolution:
        """What a handle stands for now, by its origin and not by what is known of it.

        Raises:
            DigestMismatchError: Other bytes are pinned.
            HubdistError: Every other kind of it, with the handle filled in.
        """

        def read() -> Resolution:
            pinned, deadline = self._pinned(handle), Deadline(self._config.timeout_s)
            with self._store.lock(f"resolve-{handle.key}", deadline.remaining_s()):
                return self._read(handle, pinned, None, deadline, anew=True)

        resolution = self._timed(handle, read)
        assert resolution is not None
        return resolution

    def accept(self, handle: Handle, manifest: Manifest, source: str, copy: RemoteCopy) -> Resolution:
        """Take what a node has read directly, if the pins allow it.

        Args:
            handle: The handle.
            manifest: What the node has read.
            source: Where the bytes came from, in words.
            copy: Where it read them, as listed before and after that.

        Raises:
            DigestMismatchError: Another digest is pinned.
        """
        resolution = Resolution(handle.redacted, manifest, source)
        accepted = self._timed(handle, lambda: self._checked(handle, self._pinned(handle), resolution)) or resolution
        self._proven.keep(manifest, copy)
        return accepted

    def recall(self, handle: Handle, digest: Digest, manifest: Manifest | None) -> Resolution | None:
        """As `find`, for what this job resolved before; None if nothing is left of it.

        Args:
            handle: The handle.
            digest: What it stands for.
            manifest: Its files, if they were noted.

        Raises:
            HubdistError: Every kind of it, with the handle filled in.
        """
        return self._timed(
            handle, lambda: self._settle(handle, self._pinned(handle), self._known(handle, digest, manifest))
        )

    def bring(self, handle: Handle, resolution: Resolution) -> tuple[Snapshot, bool]:
        """The files of a resolution in the driver's store; from the shared cache, else from the origin.

        Returns:
            The snapshot, and whether the origin was read. That may stand for other bytes by now; which is for the
            caller to see.

        Raises:
            HubdistError: Every kind of it, with the handle filled in.
        """
        deadline = Deadline(self._config.timeout_s)
        try:
            with self._store.lock(f"bring-{resolution.digest.value}", deadline.remaining_s()):
                snapshot = self._store.find(resolution.digest)
                if snapshot is None and resolution.shared is not None:
                    snapshot = self._fetcher.from_copy(resolution.manifest, resolution.shared)
                if snapshot is not None:
                    return snapshot, False
                return self._fetcher.from_origin(handle, self._directories.get(handle.key), deadline)[0], True
        except HubdistError as error:
            raise error.with_context(handle=handle.redacted) from error.__cause__

    def last_digest(self, handle: Handle) -> Digest | None:
        """What a handle stood for when this store was last asked; it may stand for something else by now."""
        return self._last_pins.find(handle)

    def direct_url(self, handle: Handle, *, wanted: bool) -> str | None:
        """The directory that nodes could read themselves, or None; see `origins.direct`.

        Args:
            handle: Any handle.
            wanted: The user asks for it: a hub is asked too, and a refusal is logged.
        """
        if self._config.offline and handle.kind is not Kind.LOCAL:
            return None
        try:
            url = direct_url(handle, self._config, ask_hub=wanted)
        except HubdistError as error:
            _LOG.warning("hubdist: %s cannot be read directly: %s", handle.redacted, error.what)
            return None
        if url is not None:
            self._directories[handle.key] = url
        return url

    def direct_copy(self, handle: Handle, manifest: Manifest) -> RemoteCopy | None:
        """The directory that `direct_url` found, as it is now, or as it was if only nodes can list it; else None.

        It is a digested copy only if its files are those that were read for this manifest: what lies there now may be
        another model, for the manifest may come from the store.
        """
        url = self._directories.get(handle.key)
        if url is None:
            return None
        try:
            return self._proven.judged(list_copy(url, self._config), manifest.digest)
        except HubdistError as error:
            _LOG.info("hubdist: %s cannot be listed by the driver's node: %s", handle.redacted, error)
            return self._proven.find(manifest.digest, url)

    def _timed(self, handle: Handle, work: Callable[[], Resolution | None]) -> Resolution | None:
        begin = time.monotonic()
        try:
            resolution = work()
        except HubdistError as error:
            raise error.with_context(handle=handle.redacted) from error.__cause__
        if resolution is None:
            return None
        resolution = replace(resolution, seconds=time.monotonic() - begin)
        _LOG.info(
            "hubdist: %s is %s, %d bytes from the %s in %.2f s",
            handle.redacted,
            resolution.digest,
            resolution.manifest.total_bytes,
            resolution.source,
            resolution.seconds,
        )
        return resolution

    def _resolve(self, handle: Handle, watcher: Feed | None, deadline: Deadline) -> Resolution:
        pinned = self._pinned(handle)
        found = self._find(handle, pinned)
        if found is not None:
            return found
        with self._store.lock(f"resolve-{handle.key}", deadline.remaining_s()):
            return self._find(handle, pinned) or self._take_turn(handle, pinned, watcher, deadline)

    def _take_turn(self, handle: Handle, pinned: Digest | None, watcher: Feed | None, deadline: Deadline) -> Resolution:
        """Read the origin; if another cluster does so for the same shared cache, wait and take what it filled in."""
        if pinned is None and not _is_immutable(handle):  # what another cluster read may be old
            return self._read(handle, pinned, watcher, deadline)
        with self._cache.turn(handle.key, lambda: self._find(handle, pinned), deadline) as found:
            return found or self._read(handle, pinned, watcher, deadline)

    def _read(
        self, handle: Handle, pinned: Digest | None, watcher: Feed | None, deadline: Deadline, *, anew: bool = False
    ) -> Resolution:
        seen, directory = look_at(handle), self._directories.get(handle.key)
        snapshot, source = self._fetcher.from_origin(handle, directory, deadline, watcher, anew=anew)
        with snapshot:
            resolution = self._checked(
                handle, pinned, Resolution(handle.redacted, snapshot.manifest, source, seen=seen)
            )
            return replace(resolution, shared=self._cache.share(snapshot, handle))

    def _find(self, handle: Handle, pinned: Digest | None) -> Resolution | None:
        return self._settle(handle, pinned, self._look(handle, pinned))

    def _settle(self, handle: Handle, pinned: Digest | None, found: Resolution | None) -> Resolution | None:
        """Note what was found, and put it into the shared cache if that lacks it."""
        if found is None:
            return None
        snapshot = self._store.find(found.digest)
        if snapshot is not None:
            with snapshot:
                found = replace(found, shared=self._cache.share(snapshot, handle))
        return self._checked(handle, pinned, found)

    def _look(self, handle: Handle, pinned: Digest | None) -> Resolution | None:
        """A hit without asking the origin: pinned, offline, or a handle whose bytes never change by its nature."""
        digest = pinned
        immutable = _is_immutable(handle)
        if digest is None and (immutable or (self._config.offline and not handle.is_drivers)):
            digest = self._last_pins.find(handle)
        if digest is None and immutable:
            digest = self._cache.digest_of(handle)
        return None if digest is None else self._known(handle, digest, None)

    def _known(self, handle: Handle, digest: Digest, manifest: Manifest | None) -> Resolution | None:
        snapshot = self._store.find(digest)
        if snapshot is not None:
            with snapshot:
                manifest = snapshot.manifest
        shared = self._cache.find(digest)
        if manifest is not None:
            return Resolution(handle.redacted, manifest, "store", None if shared is None else shared.copy)
        return None if shared is None else Resolution(handle.redacted, shared.manifest, "shared cache", shared.copy)

    def _checked(self, handle: Handle, pinned: Digest | None, resolution: Resolution) -> Resolution:
        """Compare with the pins, and note the digest for later jobs."""
        if pinned is not None:
            check_pin(handle, pinned, resolution.digest, "the configuration or hubdist.lock")
        if self._lock_file is not None:
            self._lock_file.keep(handle, resolution.digest)
        if not self._store.read_only:
            with optional_note(self._store.root / "pins"):
                self._last_pins.keep(handle, resolution.digest)
        return resolution

    def _pinned(self, handle: Handle) -> Digest | None:
        pinned = self.settings_of(handle).digest
        if pinned is None and self._lock_file is not None:
            pinned = self._lock_file.find(handle)
        if pinned is None and self._config.frozen:
            raise NotPinnedError(
                "the configuration is frozen and this handle has no pin",
                advice="Add it to models with its digest, or run once with lock_file and without frozen.",
            )
        return pinned


def _is_immutable(handle: Handle) -> bool:
    """Handles of hubs and numbered Kaggle versions never change their bytes, as for TensorFlow Hub."""
    return handle.kind is Kind.HUB or (handle.kind is Kind.KAGGLE and handle.text.count("/") == 6)
