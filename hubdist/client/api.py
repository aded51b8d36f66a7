"""init, resolve, load, prefetch: the composition root.

A process has one `_Process`: its settings, its backend (`LocalBackend`, or `CoordinatorClient` where Ray runs) and its
loaded models. It is made at the first call, and made again if Ray has been started, stopped or restarted since.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from hubdist.client.local import LocalBackend
from hubdist.client.read_modes import Reader
from hubdist.config.schema import Config, ReadMode, RouteName
from hubdist.errors import DeliveryError, NotPinnedError
from hubdist.loading import (
    Bundle,
    Changes,
    LoadedModels,
    LoadKey,
    NodePath,
    PartKind,
    Seal,
    Travel,
    apply_changes,
    free_remote_assets,
    import_modules,
    load_key,
    open_model,
    unopened,
)
from hubdist.model.chunks import Chunk
from hubdist.model.handle import handle_text
from hubdist.model.hints import suggested
from hubdist.model.manifest import Digest, Manifest
from hubdist.report.delivery import Plan, Refreshed, Report, Status
from hubdist.resolver.resolver import Pin
from hubdist.resolver.values import ReadSources
from hubdist.store.claims import HandedOutSnapshots
from hubdist.store.snapshot import Snapshot
from hubdist.system.disk import working_directory

_LOG = logging.getLogger(__name__)


class _Backend(Protocol):
    """How a process gets at models; see `LocalBackend` and `CoordinatorClient`."""

    def resolve(self, text: str, route: RouteName | None, read_mode: ReadMode | None) -> Pin: ...
    def locate(self, pin: Pin, route: RouteName | None) -> Snapshot: ...
    def access(self, pin: Pin, route: RouteName | None) -> ReadSources: ...
    def find(self, digest: Digest) -> Snapshot | None: ...
    def read(self, manifest: Manifest, chunk: Chunk) -> Any: ...
    def prefetch(self, texts: Sequence[str], nodes: Sequence[str] | None) -> Report: ...
    def plan(self, text: str, nodes: Sequence[str] | None, route: RouteName | None) -> Plan: ...
    def status(self) -> Status: ...
    def shutdown(self) -> None: ...
    def refresh(self, text: str, route: RouteName | None) -> Refreshed: ...
    def epoch(self) -> int | None: ...
    @property
    def node_id(self) -> str: ...
    @property
    def runs_tasks(self) -> bool: ...
    @property
    def sees_drivers_disk(self) -> bool: ...


class _Process:
    """What this process knows of hubdist. Its fields are set once; what they point to may be used by all threads.

    Args:
        config: The settings that this process would start with.
        asked: The keys that `init` was called with; None if it was not called.
        ray_session: See `_ray_session`.
    """

    def __init__(self, config: Config, asked: Mapping[str, Any] | None, ray_session: str | None) -> None:
        self.ray_session = ray_session
        self.pins: dict[tuple[str, Path | None], tuple[int | None, Pin]] = {}
        self.digests: dict[tuple[str, Path | None], set[Digest]] = {}
        """All that a handle has stood for in this process."""
        self.warned: set[Digest] = set()
        self.snapshots = _given
        self.way: _Backend
        if ray_session is None:
            self.config = config
            self.way = LocalBackend(config, working_directory())
        else:
            from hubdist.cluster.client import CoordinatorClient

            cluster = CoordinatorClient(config)
            self.config = cluster.join(asked)
            self.way = cluster
        self.models = LoadedModels(self.config.max_loaded, self.config.kept_bytes(in_task=self.way.runs_tasks))
        self.reader = Reader(self.config, self.way.read, lambda: self.way.sees_drivers_disk)

    def resolve(self, handle: str | os.PathLike[str], how: _How) -> Pin:
        """What a handle stands for; asked once per process and handle, and again after a refresh."""
        text = handle_text(handle)
        epoch = self.way.epoch()
        asked = _asked(text)
        known_in, pin = self.pins.get(asked, (None, None))
        if pin is None or epoch is None or epoch != known_in:
            pin = self.way.resolve(text, how.route, how.read_mode)
            self.pins[asked] = epoch, pin  # as of before it was asked: a refresh meanwhile makes it old
            self.digests.setdefault(asked, set()).add(pin.digest)
        if pin.seen is not None and self.way.sees_drivers_disk and pin.seen.has_changed():
            self._warn(pin)
        return pin

    def unload(self, handle: str | os.PathLike[str]) -> bool:
        """Forget the loaded models of a handle, those too that it stood for before a refresh."""
        asked = _asked(handle_text(handle))
        if asked not in self.digests:  # perhaps spelled in another way when it was loaded
            if not self.models:
                return False
            self.resolve(handle, _How())
        same = [digests for digests in self.digests.values() if digests & self.digests[asked]]
        return self.models.forget(*set().union(*same))

    def hand_down(self) -> None:
        """Let processes that this one starts have its settings."""
        self.config.hand_down(self.way.node_id)

    def refresh(self, handle: str | os.PathLike[str], how: _How) -> Refreshed:
        """Ask the origin again; what was known is old from now on."""
        refreshed = self.way.refresh(handle_text(handle), how.route)
        if refreshed.changed and refreshed.before is not None:
            self.models.forget(Digest.parse(refreshed.before))
        return refreshed

    def _warn(self, pin: Pin) -> None:
        if pin.digest not in self.warned:
            self.warned.add(pin.digest)
            _LOG.warning(
                "hubdist: %s has changed since this job resolved it; it still stands for %s."
                " hubdist.refresh(handle) takes what is there now",
                pin.handle,
                pin.digest,
            )

    def load(self, pin: Pin, key: LoadKey, how: _How, *, fresh: bool) -> Any:
        """The loaded model of this process for a key, as it was published."""
        import_modules(self.config.imports)  # before a lock is held: what is imported may load models itself
        return self.models.get(key, lambda: self.open(pin, key, how), fresh=fresh)

    def open(self, pin: Pin, key: LoadKey, how: _How) -> Any:
        """Load a model that nobody else has."""
        import_modules(self.config.imports)
        mode = self.config.wanted_read_mode(pin.settings, how.read_mode)
        if mode == "memory":
            access = self.way.access(pin, how.route)
            own = self.way.find(pin.digest)
            return open_model(self.reader.to_memory(access, own), key, _TRAVEL)
        if mode == "in_place":
            access = self.way.access(pin, how.route)
            model = self.reader.in_place(access, lambda place: open_model(place, key, _TRAVEL))
            if model is not None:
                return model
        return open_model(self.way.locate(pin, how.route), key, _TRAVEL)


@dataclass(frozen=True, slots=True)
class _How:
    """What one call wants other than the settings."""

    route: RouteName | None = None
    read_mode: ReadMode | None = None

    @classmethod
    def checked(cls, route: str | None, read_mode: str | None) -> Self:
        """From what the user wrote.

        Raises:
            ConfigError: It is neither a route nor a read mode.
        """
        if route is None and read_mode is None:
            return cls()
        asked: dict[str, Any] = {"route": route, "read_mode": read_mode}
        asked = {name: value for name, value in asked.items() if value is not None}
        Config.check_call(asked)
        return cls(**asked)


def _asked(text: str) -> tuple[str, Path | None]:
    """What a process remembers a handle by: a relative path means another directory after a chdir."""
    return text, None if "://" in text.rpartition("::")[2] else working_directory()


_given = HandedOutSnapshots()
_guard = threading.Lock()
_process: _Process | None = None
_of_parent: _Process | None = None
"""What the process that this one was forked from knew. Its settings hold here too. The rest is never touched nor
dropped: the end of an actor's handle would be told to Ray over the parent's own connection, and break it."""


def init(config: Config | Mapping[str, Any] | None = None, **overrides: Any) -> None:
    """Set hubdist up. Optional: without it the first call does so, from `HUBDIST_CONFIG` and the environment.

    In the driver this starts the job's coordinator, whose settings hold for all processes of the job; `models` in the
    configuration begin to travel to all nodes. In a task or actor it changes settings for that process alone.
    Processes that this one starts by multiprocessing, joblib or otherwise get the same settings, but for `origins`.

    Args:
        config: A whole `Config`, or a mapping of its keys that wins over YAML and environment.
        **overrides: Single keys of `Config`; they win over everything.

    Raises:
        ConfigError: A key or value is wrong, or the job already runs with other settings.
        UnsafeStoreError: Another user could change the store.
    """
    global _process  # noqa: PLW0603 - a process has one
    asked = (config.explicit_values() if isinstance(config, Config) else dict(config or {})) | overrides
    session = _ray_session()
    settings = config.changed(overrides) if isinstance(config, Config) else Config.load(asked, inherit=session is None)
    with _guard:
        _process = _Process(settings, asked, session)
        _process.hand_down()


def load(
    handle: str | os.PathLike[str],
    tags: str | Sequence[str] | None = None,
    options: Any = None,
    *,
    own: bool = False,
    fresh: bool | None = None,
    device: str | None = None,
    route: str | None = None,
    read_mode: str | None = None,
) -> Any:
    """Load a model, as `tensorflow_hub.load` does, from this node's store.

    The first load of the job resolves the handle; the first on a node brings the files there; the first in a process
    loads them. Later ones return the same object as long as it is as it was published; once somebody has changed it,
    they load anew. So code that changes a model takes one of its own, with `own=True`.

    The object can be pickled and copied: what arrives is an object of its own, at the same digest, with whatever was
    changed, and opens at its first use. In async code use `load_async`.

    Args:
        handle: A URL of tfhub.dev, Kaggle or another hub, of an archive, of a directory on object storage; a path on
            the driver's machine; `zip://inner/dir::<archive>`.
        tags: Tags of the MetaGraph to load, as for `tf.saved_model.load`.
        options: A `tf.saved_model.LoadOptions`.
        own: True gives an object that nobody else will get, for training.
        fresh: True loads the same bytes anew although this process has the model unchanged; None takes the
            configuration's value. For new bytes see `refresh`.
        device: A device of a remote TensorFlow worker that this program is connected to, such as
            `/job:worker/task:0`: the model is loaded there, and that machine needs neither Ray nor the files. Under
            a strategy with such devices this is so by itself.
        route: For this call, which way to try first: `auto`, `shared`, `direct` or `driver`; see `Config`. The first
            call of the job decides who reads the origin.
        read_mode: For this call, what TensorFlow opens: `stage`, `memory` or `in_place`; see `Config`.

    Returns:
        What `tf.saved_model.load` returns for the model.

    Raises:
        HubdistError: Its subclass says what to do; handle and node are named.
    """
    process = _current()
    how = _How.checked(route, read_mode)
    pin = process.resolve(handle, how)
    key = load_key(
        pin.handle,
        pin.digest,
        tags,
        options,
        device,
        route=how.route or pin.settings.route,
        read_mode=how.read_mode or pin.settings.read_mode,
    )
    if own:
        return process.open(pin, key, how)
    return process.load(pin, key, how, fresh=process.config.fresh if fresh is None else fresh)


def resolve(handle: str | os.PathLike[str], *, route: str | None = None) -> str:
    """The directory on this node with a model's files, complete and read-only; brought here if it is missing.

    Works for any files, also those that are no SavedModel. Every call checks names and sizes anew. The directory stays
    for as long as this process lives, also after `shutdown`. In async code use `resolve_async`.

    Args:
        handle: As for `load`.
        route: As for `load`.

    Raises:
        HubdistError: Its subclass says what to do; handle and node are named.
    """
    process = _current()
    how = _How.checked(route, "stage")
    pin = process.resolve(handle, how)
    snapshot = process.way.locate(pin, how.route)
    process.snapshots.add(snapshot)  # in use from now on, so that nobody evicts what the caller got
    return str(snapshot.path)


def plan(handle: str | os.PathLike[str], nodes: Iterable[str] | None = None, *, route: str | None = None) -> Plan:
    """What a load of a handle would do on each node, and why, without doing it.

    The nodes are asked what they have and what they can read, which starts an agent on each for some seconds; answers
    are kept for a while. The origin is not read.

    Args:
        handle: As for `load`.
        nodes: Ids, names or addresses of nodes; None means all that are alive now.
        route: As for `load`.

    Raises:
        HubdistError: The handle cannot be understood, or no such node is alive.
    """
    how = _How.checked(route, None)
    return _current().way.plan(handle_text(handle), None if nodes is None else list(nodes), how.route)


async def load_async(
    handle: str | os.PathLike[str],
    tags: str | Sequence[str] | None = None,
    options: Any = None,
    **arguments: Any,
) -> Any:
    """`load` for async actors and other event loops: runs in a thread and does not block the loop."""
    return await asyncio.to_thread(load, handle, tags, options, **arguments)


async def resolve_async(handle: str | os.PathLike[str], *, route: str | None = None) -> str:
    """`resolve` for async actors and other event loops: runs in a thread and does not block the loop."""
    return await asyncio.to_thread(resolve, handle, route=route)


def prefetch(
    handles: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], nodes: Iterable[str] | None = None
) -> Report:
    """Bring models to nodes before they are needed, with a progress bar.

    Args:
        handles: One handle or several.
        nodes: Ids, names or addresses of nodes; None means all that are alive now.

    Returns:
        What was resolved, and how each node got it.

    Raises:
        DeliveryError: Some nodes or handles failed; the other nodes have the other models.
        HubdistError: One handle alone could not be resolved; all nodes have the others.
    """
    several = [handles] if isinstance(handles, (str, os.PathLike)) else list(handles)
    texts = [handle_text(handle) for handle in several]
    report = _current().way.prefetch(texts, None if nodes is None else list(nodes))
    failures = {node.name: node.error for node in report.nodes if node.error is not None}
    unresolved = [suggested(error, texts) for error in report.unresolved]
    if len(unresolved) == 1 and not failures:
        raise unresolved[0]
    if failures or unresolved:
        failures |= {error.handle or "a handle": error for error in unresolved}
        tried = len(report.nodes) + len(unresolved)
        raise DeliveryError(f"{len(failures)} of {tried} deliveries failed:", failures=failures)
    return report


def refresh(handle: str | os.PathLike[str], *, route: str | None = None) -> Refreshed:
    """Ask the origin again what a handle stands for; from then on every load of this job gives the new bytes.

    Without it a handle stands for the same bytes for the whole job. Objects that were loaded before stay what they
    are, and go on to travel. A digest that the configuration or its lock file pins is kept.

    Args:
        handle: As for `load`.
        route: As for `load`.

    Returns:
        The digests before and after.

    Raises:
        DigestMismatchError: The origin has other bytes than those that are pinned.
        HubdistError: Its subclass says what to do; the handle goes on to stand for what it did.
    """
    return _current().refresh(handle, _How.checked(route, None))


def unload(handle: str | os.PathLike[str]) -> bool:
    """Let go of what this process has loaded of a handle; whoever holds the object may go on to use it.

    Args:
        handle: As for `load`.

    Returns:
        True if hubdist had kept or shared something.

    Raises:
        HubdistError: The handle cannot be understood.
    """
    return _current().unload(handle)


def status() -> Status:
    """What this job has resolved and delivered, and where agents run."""
    return _current().way.status()


def shutdown() -> None:
    """Forget this process's loaded models and settings; from the driver, end the job's coordinator and agents."""
    global _process  # noqa: PLW0603 - a process has one
    with _guard:
        if _process is not None and _process.ray_session == _ray_session():
            _process.way.shutdown()
        _process = None
    Config.stop_handing_down()
    free_remote_assets()


def revive_model(key: LoadKey, changes: Changes) -> Bundle:
    """What a pickle of a loaded model, or of parts of one, holds once for all of them.

    Args:
        key: The model.
        changes: What the sender had changed.
    """
    return Bundle(key, lambda: changes, _open_travelled, revive_model)


def revive_part(bundle: Bundle, path: NodePath, kind: PartKind, extra: tuple[tuple[str, Any], ...]) -> Any:
    """What such a pickle gives: an object that loads the model at its first use, and becomes it or the part of it.

    Args:
        bundle: The model.
        path: The part.
        kind: What the part is.
        extra: Plain attributes of this object alone.
    """
    return unopened(Seal(bundle, path, kind, extra, revive_part))


def _open_travelled(key: LoadKey, changes: Changes) -> Any:
    """Load what a pickle or a copy stands for, into an object that nobody else gets.

    Raises:
        NotPinnedError: The digest is nowhere to be found, and the handle stands for other bytes now.
        HubdistError: Every other kind of it.
    """
    process = _current()
    how = _How(key.route, key.read_mode)
    try:
        model = process.open(Pin(key.handle, key.digest), key, how)
    except NotPinnedError as error:
        # A pickle from another job: the handle may still stand for the same bytes.
        pin = process.resolve(key.handle, how)
        if pin.digest != key.digest:
            raise NotPinnedError(
                f"the pickled model {key.digest} cannot be found, and its handle stands for {pin.digest} now",
                handle=key.handle,
                advice="Load the handle anew and pickle that.",
            ) from error
        model = process.open(pin, key, how)
    apply_changes(model, changes)
    return model


_TRAVEL = Travel(_open_travelled, revive_model, revive_part)


def _current() -> _Process:
    global _process  # noqa: PLW0603 - a process has one
    session = _ray_session()
    process = _process
    if process is not None and process.ray_session == session:
        return process
    with _guard:
        if _process is None:
            settings = Config.load(inherit=session is None) if _of_parent is None else _of_parent.config
            _process = _Process(settings, None, session)
        elif _process.ray_session != session:
            _process = _Process(_process.config, None, session)
        if _process.way.runs_tasks:
            _process.hand_down()
        return _process


def _ray_session() -> str | None:
    """What tells this process's connection to Ray from any other; None if there is none. Does not import ray."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    session = str(ray.get_runtime_context().get_worker_id())
    of_parent = _of_parent is not None and session == _of_parent.ray_session
    return None if of_parent else session


def _begin_child() -> None:
    """In a process that was just forked: Ray's connection belongs to the parent, and locks may be held for ever."""
    global _guard, _given, _process, _of_parent  # noqa: PLW0603 - a process has one of each
    _guard = threading.Lock()
    _given = HandedOutSnapshots()
    if _process is not None:
        _process, _of_parent = None, _process


os.register_at_fork(after_in_child=_begin_child)
