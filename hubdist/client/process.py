"""What one process knows of hubdist: its settings, its backend, what handles stand for, and its loaded models."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hubdist.client.backend import Backend
from hubdist.client.local import LocalBackend
from hubdist.client.read_modes import Reader
from hubdist.config.handover import hand_down
from hubdist.config.schema import Config
from hubdist.config.tf_environment import environment_sets_gpu_memory, environment_sets_threads
from hubdist.loading import (
    LoadedModels,
    LoadKey,
    PickleHooks,
    TensorFlowLimits,
    import_modules,
    import_tensorflow,
    open_model,
)
from hubdist.model.handle import handle_text
from hubdist.model.manifest import Digest
from hubdist.model.redact import redact_url
from hubdist.report.plan import Refreshed
from hubdist.resolver.values import CallOptions, LoaderPin
from hubdist.store.claims import HandedOutSnapshots
from hubdist.store.snapshot import Snapshot
from hubdist.system.disk import working_directory
from hubdist.system.tracing import span

_LOG = logging.getLogger(__name__)

_Asked = tuple[str, Path | None]
"""A handle as the user wrote it; and for a relative path, the directory that the process was in."""


class Process:
    """What this process knows. Safe for several threads: fields are set once, and what they hold is guarded.

    Args:
        config: The settings that this process would start a job with.
        asked: The keys that `init` was called with; None if it was not called.
        ray_session: What tells this process's connection to Ray from any other; None without Ray.
        given: Directories that callers of `resolve` hold; they outlive this object.
        hooks: How loaded models are pickled and opened again.
    """

    def __init__(
        self,
        config: Config,
        asked: Mapping[str, Any] | None,
        ray_session: str | None,
        given: HandedOutSnapshots,
        hooks: PickleHooks,
    ) -> None:
        self.ray_session = ray_session
        self._given = given
        self._hooks = hooks
        self._pins: dict[_Asked, tuple[int | None, LoaderPin]] = {}
        """What handles stand for, each with the number of refreshes that were known when it was asked."""
        self._digests: dict[_Asked, set[Digest]] = {}
        """All that a handle has stood for in this process."""
        self._warned: set[Digest] = set()
        self.backend: Backend
        if ray_session is None:
            self.config = config
            self.backend = LocalBackend(config, working_directory())
        else:
            from hubdist.cluster.client import CoordinatorClient

            client = CoordinatorClient(config)
            self.config = client.join(asked)
            self.backend = client
        kept_bytes = self.config.kept_bytes(in_task=self.backend.runs_tasks)
        self.models = LoadedModels(self.config.max_loaded_models, kept_bytes)
        self._reader = Reader(self.config, self.backend.read, lambda: self.backend.sees_drivers_disk)

    def pin_of(self, handle: str | os.PathLike[str], options: CallOptions) -> LoaderPin:
        """What a handle stands for. The backend is asked once for each handle, and again after a refresh.

        Args:
            handle: As the user wrote it.
            options: Route and read mode of the call; the first call of the job decides who reads the origin.

        Raises:
            HubdistError: The handle cannot be resolved.
        """
        text = handle_text(handle)
        epoch = self.backend.epoch()
        asked = _asked(text)
        known_in, pin = self._pins.get(asked, (None, None))
        if pin is None or epoch is None or epoch != known_in:
            with span("hubdist.resolve", handle=redact_url(text)) as seen:
                pin = self.backend.pin(text, options)
                seen.set(digest=str(pin.digest), bytes=pin.total_bytes)
            # The epoch from before the question: a refresh meanwhile makes this answer old.
            self._pins[asked] = epoch, pin
            self._digests.setdefault(asked, set()).add(pin.digest)
        if pin.seen is not None and self.backend.sees_drivers_disk and pin.seen.has_changed():
            self._warn(pin)
        return pin.asked_with(options)

    def give_directory(self, pin: LoaderPin) -> Path:
        """The directory of a model in this node's store, in use for as long as this process lives.

        Raises:
            HubdistError: The model cannot be brought to this node.
        """
        snapshot = self.backend.locate(pin)
        self._given.add(snapshot)  # nobody evicts what a caller got
        return snapshot.path

    def snapshot_of(self, pin: LoaderPin) -> Snapshot:
        """The snapshot of a model in this node's store; the caller releases it.

        Raises:
            HubdistError: The model cannot be brought to this node.
        """
        return self.backend.locate(pin)

    def hold(self, digest: Digest) -> bool:
        """Keep a snapshot while this process lives; False if this node's store lacks it. Nothing is brought."""
        snapshot = self.backend.find(digest)
        if snapshot is not None:
            self._given.add(snapshot)
        return snapshot is not None

    def load(self, pin: LoaderPin, key: LoadKey, options: CallOptions, *, fresh: bool) -> Any:
        """The loaded model of this process, as it was published; loaded if the process has none.

        Args:
            pin: The model.
            key: What tells loaded models apart: digest, tags, options, device.
            options: Route and read mode of the call.
            fresh: Load the model even if the process has it.
        """
        import_modules(self.config.imports)  # before a lock is held: what is imported may load models itself
        return self.models.get(key, lambda: self.open(pin, key, options), fresh=fresh)

    def open(self, pin: LoaderPin, key: LoadKey, options: CallOptions) -> Any:
        """Load a model into an object that nobody else has.

        Args:
            pin: The model.
            key: Tags, options and device of the load.
            options: Route and read mode of the call.
        """
        import_tensorflow()  # before the files are looked for: a delivery that has begun goes on meanwhile
        import_modules(self.config.imports)
        limits = self._limits()
        mode = self.config.wanted_read_mode(pin.settings, options.read_mode)
        if mode == "memory":
            sources = self.backend.access(pin)
            own = self.backend.find(pin.digest)
            return open_model(self._reader.to_memory(sources, own), key, self._hooks, limits)
        if mode == "in_place":
            sources = self.backend.access(pin)
            model = self._reader.in_place(sources, lambda place: open_model(place, key, self._hooks, limits))
            if model is not None:
                return model
        return open_model(self.backend.locate(pin), key, self._hooks, limits)

    def unload(self, handle: str | os.PathLike[str]) -> bool:
        """Forget the loaded models of a handle, also those that it stood for before a refresh.

        Returns:
            True if there were any.
        """
        asked = _asked(handle_text(handle))
        if asked not in self._digests:  # perhaps spelled in another way when it was loaded
            if not self.models:
                return False
            self.pin_of(handle, CallOptions())
        same = [digests for digests in self._digests.values() if digests & self._digests[asked]]
        return self.models.forget(*set().union(*same))

    def refresh(self, handle: str | os.PathLike[str], options: CallOptions) -> Refreshed:
        """Ask the origin again what a handle stands for; loaded models of the old bytes are forgotten.

        Args:
            handle: As the user wrote it.
            options: The route of the call.
        """
        refreshed = self.backend.refresh(handle_text(handle), options)
        if refreshed.changed and refreshed.before is not None:
            self.models.forget(Digest.parse(refreshed.before))
        return refreshed

    def hand_down(self) -> None:
        """Let processes that this one starts have its settings."""
        hand_down(self.config, self.backend.node_id)

    def _limits(self) -> TensorFlowLimits | None:
        """What TensorFlow may take in this process; None for what it takes by itself."""
        given = self.backend.task_resources if self.config.tf_resources == "task" else None
        if given is None:
            return None
        return TensorFlowLimits(
            given.get("CPU", 0.0),
            given.get("GPU", 0.0),
            sets_threads=not environment_sets_threads(),
            sets_memory=not environment_sets_gpu_memory(),
        )

    def _warn(self, pin: LoaderPin) -> None:
        if pin.digest not in self._warned:
            self._warned.add(pin.digest)
            _LOG.warning(
                "hubdist: %s has changed since this job resolved it; it still stands for %s."
                " hubdist.refresh(handle) takes what is there now",
                pin.handle,
                pin.digest,
            )


def _asked(text: str) -> _Asked:
    """What a process remembers a handle by: a relative path means another directory after a chdir."""
    return text, None if "://" in text.rpartition("::")[2] else working_directory()
