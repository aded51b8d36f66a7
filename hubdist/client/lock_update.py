"""Brings a lock file up to date, or tells whether it is: what `hubdist lock` does."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hubdist.client.backend import Backend
from hubdist.config.model_settings import ModelSettings
from hubdist.errors import HandleError, HubdistError
from hubdist.model.handle import Handle, parse_handle
from hubdist.model.manifest import Digest
from hubdist.resolver.values import CallOptions
from hubdist.store.lock_file import LockedModel, LockFile, check_pin


class LockState(enum.StrEnum):
    """What a lock file says of a handle, compared with what was found; prints as tables show it.

    Attributes:
        ADDED: The file had no pin, and has one now.
        KEPT: The file has a pin, and nobody asked the origin.
        UPGRADED: The origin has other bytes, which are pinned now.
        UP_TO_DATE: The origin has the bytes that are pinned.
        MISSING: The file has no pin.
        OUT_OF_DATE: The origin, or the configuration, has other bytes than the pin.
        NOT_ASKED: The handle holds a secret, which the file does not know.
    """

    ADDED = "added"
    KEPT = "kept"
    UPGRADED = "upgraded"
    UP_TO_DATE = "up to date"
    MISSING = "missing"
    OUT_OF_DATE = "out of date"
    NOT_ASKED = "not asked"


class LockTask(enum.Enum):
    """What to do with a lock file.

    Attributes:
        ADD: Pin handles that have no pin.
        UPGRADE: Ask the origins of all handles, and pin what they have.
        CHECK: Ask the origins of all pinned handles, and change nothing.
    """

    ADD = enum.auto()
    UPGRADE = enum.auto()
    CHECK = enum.auto()


@dataclass(frozen=True, slots=True)
class LockedHandle:
    """What came of one handle.

    Attributes:
        handle: The handle without secrets, as the file has it.
        state: What the file says of it.
        pinned: What the file had pinned; None if nothing.
        found: What the handle stands for; None if nobody asked.
        total_bytes: Bytes of all files; None if they are not known.
    """

    handle: str
    state: LockState
    pinned: Digest | None = None
    found: Digest | None = None
    total_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A handle with what the configuration says of it."""

    handle: Handle
    settings: ModelSettings


class LockUpdate:
    """One run of `hubdist lock`.

    Args:
        backend: Tells what handles stand for. Its settings must have no lock file, and neither be frozen nor locked.
        lock: The lock file.
        task: What to do.

    Attributes:
        failures: Handle without secrets -> why nobody can tell what it stands for.
    """

    def __init__(self, backend: Backend, lock: LockFile, task: LockTask) -> None:
        self._backend = backend
        self._lock = lock
        self._task = task
        self._known = lock.models()
        self.failures: dict[str, HubdistError] = {}

    def run(self, handles: Iterable[Handle], models: Mapping[str, ModelSettings], *, whole: bool) -> list[LockedHandle]:
        """Do the task, and write the file if anything has changed. What fails is in `failures`, and stops nothing else.

        Args:
            handles: The handles.
            models: `Handle.key` -> what the configuration says of the model.
            whole: Take the file's other handles too, unless the task is to add some.

        Returns:
            What came of each handle, in the order of the handles, without those that failed.

        Raises:
            ConfigError: The file is damaged.
            StoreError: The file cannot be written.
        """
        wanted = {handle.label: _Wanted(handle, models.get(handle.key, ModelSettings())) for handle in handles}
        labels = list(wanted)
        if whole and self._task is not LockTask.ADD:
            labels += [label for label in self._known if label not in wanted]
        done = []
        for label in labels:
            try:
                done.append(self._one(label, wanted.get(label)))
            except HubdistError as error:
                self.failures[label] = error
        new = {
            each.handle: LockedModel(each.found, _origin(each.handle), each.total_bytes)
            for each in done
            if each.found is not None
        }
        if new and self._task is not LockTask.CHECK:
            self._lock.put(new)
        return done

    def _one(self, label: str, wanted: _Wanted | None) -> LockedHandle:
        known = self._known.get(label)
        pinned, size = (None, None) if known is None else (known.digest, known.total_bytes)
        if wanted is None:
            handle = _whole_handle(label)
            if handle is None:
                return LockedHandle(label, LockState.NOT_ASKED, pinned, None, size)
            wanted = _Wanted(handle, ModelSettings())
        if self._task is LockTask.ADD and pinned is not None:
            return LockedHandle(label, LockState.KEPT, pinned, None, size)
        if self._task is LockTask.CHECK:
            if pinned is None:
                return LockedHandle(label, LockState.MISSING)
            if wanted.settings.digest not in (None, pinned):
                return LockedHandle(label, LockState.OUT_OF_DATE, pinned, wanted.settings.digest)
        found, size = self._ask(wanted)
        return LockedHandle(label, self._judge(pinned, found), pinned, found, size)

    def _ask(self, wanted: _Wanted) -> tuple[Digest, int | None]:
        """What a handle stands for: as its origin says, unless the task is to add what is missing."""
        text, options = wanted.handle.text, CallOptions(route=wanted.settings.route)
        if self._task is not LockTask.ADD:
            self._backend.refresh(text, options)
        pin = self._backend.pin(text, options)
        if wanted.settings.digest is not None and self._task is not LockTask.CHECK:
            check_pin(wanted.handle, wanted.settings.digest, pin.digest, "the configuration")
        return pin.digest, pin.total_bytes

    def _judge(self, pinned: Digest | None, found: Digest) -> LockState:
        if pinned is None:
            return LockState.ADDED
        if pinned == found:
            return LockState.UP_TO_DATE
        return LockState.OUT_OF_DATE if self._task is LockTask.CHECK else LockState.UPGRADED


def _whole_handle(label: str) -> Handle | None:
    """The handle of an entry; None if the entry does not hold all of it, because it has a secret."""
    try:
        handle = parse_handle(label)
    except HandleError:  # of a scheme that the user registers in a program
        return None
    return handle if handle.label == label else None


def _origin(label: str) -> str:
    """The handle without secrets and without what tells it from others that differ only in these."""
    return label if _whole_handle(label) is not None else label.rpartition("#")[0] or label
