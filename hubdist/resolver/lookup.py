"""What is known of a handle before its origin is asked: its pin, which digest it must have, and who has that model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from hubdist.config.model_settings import ModelSettings
from hubdist.config.schema import Config
from hubdist.errors import DigestMismatchError, NotPinnedError
from hubdist.model.handle import Handle, Kind
from hubdist.model.hf_names import SCHEME
from hubdist.model.manifest import Digest, Manifest
from hubdist.model.paths import drivers_path
from hubdist.model.redact import redact_url
from hubdist.origins.huggingface import is_offline, needs_commit
from hubdist.report.delivery import PinReport
from hubdist.resolver.values import Pinned, ResolvedFrom
from hubdist.shared_cache.best_effort import BestEffortCache
from hubdist.store.lock_file import LockFile, check_pin
from hubdist.store.pins import Pins, last_pins
from hubdist.store.store import Store
from hubdist.system.disk import optional_note


class PinTable:
    """Pins in memory. Safe for several threads, of which one at a time changes the pin of a handle."""

    def __init__(self) -> None:
        self._current: dict[str, Pinned] = {}
        self._former: dict[Digest, Pinned] = {}
        """What handles stood for before they were refreshed. A process that loaded such a model may need it again."""

    @property
    def reports(self) -> tuple[PinReport, ...]:
        """What every handle stands for now, in the order in which the handles were pinned."""
        return tuple(pinned.report for pinned in tuple(self._current.values()))

    def find(self, handle: Handle) -> Pinned | None:
        """What a handle stands for; None if it is not pinned."""
        return self._current.get(handle.key)

    def keep(self, pinned: Pinned) -> None:
        """Pin a handle. The model that it stood for before stays known by its digest."""
        before = self._current.get(pinned.handle.key)
        self._current[pinned.handle.key] = pinned
        if before is not None and before.digest != pinned.digest:
            self._former[before.digest] = before

    def update(self, pinned: Pinned) -> None:
        """Replace what is known of a pin by more recent knowledge. A handle that was refreshed since stays as it is."""
        current = self._current.get(pinned.handle.key)
        if current is not None and current.digest == pinned.digest:
            self._current[pinned.handle.key] = pinned

    def of_digest(self, digest: Digest) -> list[Pinned]:
        """The pins of a model, the former one last. Several handles may stand for the same bytes."""
        found = [pinned for pinned in tuple(self._current.values()) if pinned.digest == digest]
        former = self._former.get(digest)
        return found if former is None else [*found, former]

    def is_current(self, digest: Digest) -> bool:
        """True if a handle stands for this model now."""
        return any(pinned.digest == digest for pinned in tuple(self._current.values()))

    def clear(self) -> None:
        """Forget all pins."""
        self._current.clear()
        self._former.clear()


def is_immutable(handle: Handle) -> bool:
    """True for handles whose bytes never change: those of hubs, as for TensorFlow Hub; numbered versions; commits."""
    if handle.kind is Kind.SELECTION and handle.base is not None:
        return is_immutable(handle.base)
    if handle.scheme == SCHEME and handle.kind is not Kind.CUSTOM:
        return not needs_commit(handle)
    return handle.kind is Kind.HUB or (handle.kind is Kind.KAGGLE and handle.text.count("/") == 6)


def check_unchanged(handle: Handle, pinned: Digest | None, found: Digest) -> None:
    """Check that a model that was read again is the one that the job pinned.

    Args:
        handle: The handle, for the error.
        pinned: What the job pinned; None accepts any model.
        found: What was read.

    Raises:
        DigestMismatchError: It is another model.
    """
    if pinned is not None and pinned != found:
        raise DigestMismatchError(
            "the origin changed during the job, and the driver's store lost the model that the job began with",
            expected=str(pinned),
            actual=str(found),
            handle=handle.redacted,
            advice="Start the job again to take the new model.",
        )


class PinPolicy:
    """Which digest a handle must have, by the configuration and the lock file, and which it had last time.

    Safe for several threads and processes.

    Args:
        config: The job's settings.
        store: The driver's store, which remembers the digests of former jobs.
        base_dir: What a relative `lock_file` is relative to; None refuses a relative one.
        models: `Handle.key` -> what the configuration says of the model; None takes it from `config`. The settings that
            the coordinator gets hold no models, because their handles may hold secrets.

    Attributes:
        asks_origins: True if each job must find out whether the pins are up to date (`locked`).

    Raises:
        ConfigError: `lock_file` begins with `~` where no home is known, or it is relative and there is no `base_dir`.
    """

    def __init__(
        self, config: Config, store: Store, base_dir: Path | None, models: Mapping[str, ModelSettings] | None
    ) -> None:
        self._frozen = config.frozen
        self.asks_origins = config.locked
        self._store = store
        self._models = config.model_settings() if models is None else models
        self._last_pins = Pins(last_pins(store.root))
        self._lock_file: LockFile | None = None
        if config.lock_file is not None:
            path = drivers_path(config.lock_file, "lock_file (HUBDIST_LOCK_FILE)", base_dir)
            self._lock_file = LockFile(path, frozen=config.frozen or config.locked)

    def settings_of(self, handle: Handle) -> ModelSettings:
        """What the configuration says of this model alone."""
        return self._models.get(handle.key, ModelSettings())

    def required(self, handle: Handle) -> Digest | None:
        """The only digest that the configuration or the lock file allow; None if they allow any.

        Raises:
            NotPinnedError: The settings are frozen or locked, and nothing pins the handle.
            ConfigError: The lock file is damaged.
        """
        digest = self.settings_of(handle).digest
        if digest is None and self._lock_file is not None:
            digest = self._lock_file.find(handle)
        if digest is None and (self._frozen or self.asks_origins):
            raise NotPinnedError(
                f"the configuration is {'frozen' if self._frozen else 'locked'} and this handle has no pin",
                advice="Pin it with `hubdist lock`, or add it to models with its digest.",
            )
        return digest

    def check_listed(self, handles: Iterable[Handle]) -> None:
        """If the settings are locked, check that something pins each model that they list.

        Raises:
            NotPinnedError: Nothing pins the first of them that is named.
            ConfigError: The lock file is damaged.
        """
        for handle in handles if self.asks_origins else ():
            try:
                self.required(handle)
            except NotPinnedError as error:
                raise error.with_context(handle=handle.redacted) from None

    def last(self, handle: Handle) -> Digest | None:
        """What a handle stood for when this store was last asked; the handle may stand for other bytes by now."""
        return self._last_pins.find(handle)

    def place_of(self, handle: Handle, digest: Digest) -> str | None:
        """Where a handle's model was read, for a branch or tag of Hugging Face: the handle of the commit.

        Args:
            handle: The handle.
            digest: What it stands for.

        Returns:
            The handle; None for other kinds, and where nobody noted it.
        """
        if not needs_commit(handle):
            return None
        found = self._last_pins.origin(handle, digest)
        if found is None and self._lock_file is not None:
            locked = self._lock_file.models().get(handle.label)
            found = locked.origin if locked is not None and locked.digest == digest else None
        return found if found != handle.redacted else None

    def note(self, handle: Handle, digest: Digest, origin: str | None = None) -> None:
        """Note for later jobs what a handle stands for.

        Args:
            handle: The handle.
            digest: The model.
            origin: The place that was read, if that says more than the handle; without secrets.
        """
        if not self._store.read_only:
            with optional_note(self._store.root / "pins"):
                self._last_pins.keep(handle, digest, origin)

    def accept(self, pinned: Pinned, required: Digest | None) -> None:
        """Check what a handle was resolved to, and note the digest for later jobs.

        Args:
            pinned: What the handle was resolved to.
            required: What `required` returned before the handle was resolved.

        Raises:
            DigestMismatchError: Other bytes are pinned.
            NotPinnedError: The lock file is frozen or locked and does not know the handle.
            StoreError: The lock file cannot be written.
        """
        if required is not None:
            check_pin(pinned.handle, required, pinned.digest, "the configuration or hubdist.lock")
        if self._lock_file is not None:
            origin = None if pinned.directory is None else redact_url(pinned.directory)
            self._lock_file.keep(pinned.handle, pinned.digest, origin=origin, total_bytes=pinned.manifest.total_bytes)
        self.note(pinned.handle, pinned.digest, pinned.commit)


class Lookup:
    """Finds models in the driver's store and in the shared cache. Asks no origin and writes nothing.

    Args:
        config: The job's settings.
        store: The driver's store.
        cache: The shared cache, if there is one.
        policy: Tells what a handle stood for last time.
    """

    def __init__(self, config: Config, store: Store, cache: BestEffortCache, policy: PinPolicy) -> None:
        self._offline = config.offline
        self._store = store
        self._cache = cache
        self._policy = policy

    def by_handle(self, handle: Handle, required: Digest | None) -> Pinned | None:
        """What a handle stands for, if that can be told without its origin: it is pinned, immutable, or offline.

        It cannot if the settings are locked: then each job asks the origin.

        Args:
            handle: The handle.
            required: The only digest that the pins allow; None if they allow any.
        """
        if self._policy.asks_origins:
            return None
        digest = required
        immutable = is_immutable(handle)
        offline = is_offline(handle) or (self._offline and not handle.is_drivers)
        if digest is None and (immutable or offline):
            digest = self._policy.last(handle)
        if digest is None and immutable:
            digest = self._cache.digest_of(handle)
        return None if digest is None else self.by_digest(handle, digest)

    def settled(self, handle: Handle) -> Pinned | None:
        """What the store or the shared cache has of a handle whose bytes never change, whatever the settings say."""
        digest = self._policy.last(handle) or self._cache.digest_of(handle)
        return None if digest is None else self.by_digest(handle, digest)

    def by_digest(self, handle: Handle, digest: Digest, manifest: Manifest | None = None) -> Pinned | None:
        """The model with a digest, if the store or the shared cache has it.

        Args:
            handle: The handle that stands for the model.
            digest: The model.
            manifest: Its files, if this job noted them; then the model is known even if nobody has its files.
        """
        snapshot = self._store.find(digest)
        if snapshot is not None:
            with snapshot:
                manifest = snapshot.manifest
        shared = self._cache.find(digest)
        if manifest is not None:
            copy = None if shared is None else shared.copy
            place = self._policy.place_of(handle, digest)
            return Pinned(handle, manifest, ResolvedFrom.STORE, directory=place, shared=copy)
        if shared is None:
            return None
        place = self._policy.place_of(handle, digest)
        return Pinned(handle, shared.manifest, ResolvedFrom.SHARED_CACHE, directory=place, shared=shared.copy)
