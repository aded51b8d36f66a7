"""The one `Process` of this process: made at the first call, and when Ray has been started, stopped or restarted.

A forked child gets one of its own. What pickles of loaded models call to be opened again is here too, because they
open in whichever process unpickles them.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from typing import Any

from hubdist.client.process import Process
from hubdist.config.handover import stop_handing_down
from hubdist.config.schema import Config
from hubdist.errors import NotPinnedError
from hubdist.loading import (
    Changes,
    LoadKey,
    ModelReference,
    NodePath,
    PartKind,
    PartReference,
    PickleHooks,
    apply_changes,
    free_remote_assets,
    unopened,
)
from hubdist.resolver.values import CallOptions, LoaderPin
from hubdist.store.claims import HandedOutSnapshots

_given = HandedOutSnapshots()
_guard = threading.Lock()
_process: Process | None = None
_of_parent: Process | None = None
"""What the process that this one was forked from knew; its settings hold here too.

Nothing else of it is touched, and it is never dropped: Ray would be told of the end of an actor's handle over the
parent's own connection, which would break that connection.
"""


def current_process() -> Process:
    """What this process knows, with the settings that hold for it.

    Raises:
        ConfigError: The settings are wrong.
        HubdistError: The job's coordinator cannot be reached.
    """
    global _process  # noqa: PLW0603 - a process has one
    session = _ray_session()
    process = _process
    if process is not None and process.ray_session == session:
        return process
    with _guard:
        if _process is None:
            settings = Config.load(inherit=session is None) if _of_parent is None else _of_parent.config
            _process = _made(settings, None, session)
        elif _process.ray_session != session:
            _process = _made(_process.config, None, session)
        if _process.backend.runs_tasks:
            _process.hand_down()
        return _process


def start_process(config: Config | Mapping[str, Any] | None, overrides: Mapping[str, Any]) -> None:
    """Set this process up, in place of what it knew.

    Args:
        config: All settings, or keys that win over YAML and environment.
        overrides: Keys that win over everything.

    Raises:
        ConfigError: A key or value is wrong, or the job already runs with other settings.
    """
    global _process  # noqa: PLW0603 - a process has one
    asked = (config.explicit_values() if isinstance(config, Config) else dict(config or {})) | dict(overrides)
    session = _ray_session()
    settings = config.replace(overrides) if isinstance(config, Config) else Config.load(asked, inherit=session is None)
    with _guard:
        _process = _made(settings, asked, session)
        _process.hand_down()


def end_process() -> None:
    """Forget what this process knows; in the driver, end the job's coordinator and agents."""
    global _process  # noqa: PLW0603 - a process has one
    with _guard:
        if _process is not None and _process.ray_session == _ray_session():
            _process.backend.shutdown()
        _process = None
    stop_handing_down()
    free_remote_assets()


def revive_model(key: LoadKey, changes: Changes) -> ModelReference:
    """What a pickle of a loaded model, or of parts of one, holds once for all of them.

    Args:
        key: The model.
        changes: What the sender had changed.
    """
    return ModelReference(key, lambda: changes, _open_travelled, revive_model)


def revive_part(model: ModelReference, path: NodePath, kind: PartKind, extra: tuple[tuple[str, Any], ...]) -> Any:
    """What such a pickle gives: an object that loads the model at its first use, and becomes it or the part of it.

    Args:
        model: The model.
        path: The part.
        kind: What the part is.
        extra: Plain attributes of this object alone.
    """
    return unopened(PartReference(model, path, kind, extra, revive_part))


def _open_travelled(key: LoadKey, changes: Changes) -> Any:
    """Load what a pickle or a copy stands for, into an object that nobody else gets.

    Raises:
        NotPinnedError: The digest is nowhere to be found, and the handle stands for other bytes now.
    """
    process = current_process()
    options = CallOptions.checked(key.route, key.read_mode)
    try:
        model = process.open(LoaderPin(key.handle, key.digest).asked_with(options), key, options)
    except NotPinnedError as error:
        # A pickle from another job: the handle may still stand for the same bytes.
        pin = process.pin_of(key.handle, options)
        if pin.digest != key.digest:
            raise NotPinnedError(
                f"the pickled model {key.digest} cannot be found, and its handle stands for {pin.digest} now",
                handle=key.handle,
                advice="Load the handle anew and pickle that.",
            ) from error
        model = process.open(pin, key, options)
    apply_changes(model, changes)
    return model


_PICKLE_HOOKS = PickleHooks(_open_travelled, revive_model, revive_part)


def _made(config: Config, asked: Mapping[str, Any] | None, session: str | None) -> Process:
    return Process(config, asked, session, _given, _PICKLE_HOOKS)


def _ray_session() -> str | None:
    """What tells this process's connection to Ray from any other; None if there is none.

    Ray is not imported for this: a process that has not imported it is not connected.
    """
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
