"""`hubdist.lock`: which bytes each handle stands for, in a file that people keep in version control."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from hubdist.errors import ConfigError, DigestMismatchError, HandleError, NotPinnedError
from hubdist.model.handle import Handle
from hubdist.model.manifest import Digest
from hubdist.store.file_turns import take_file_turn
from hubdist.system.disk import disk_errors, unique_name, write_durably

_WAIT_S = 30.0
"""Longest wait in seconds for other writers. A writer needs some milliseconds, unless it is suspended."""


@dataclass(frozen=True, slots=True)
class LockedModel:
    """What the lock file says of one handle.

    Attributes:
        digest: The model.
        origin: The place that was read, without secrets; None if nobody noted it.
        total_bytes: Bytes of all files; None if nobody noted them.
        resolved: When the handle was first found to stand for this digest, as `2026-11-28T09:30:00Z`; None if nobody
            noted it.
    """

    digest: Digest
    origin: str | None = None
    total_bytes: int | None = None
    resolved: str | None = None

    @classmethod
    def parse(cls, found: Any) -> Self:
        """Read an entry of the file: a digest alone, or an object that has one.

        Raises:
            HandleError, KeyError, TypeError: The entry is neither.
        """
        if isinstance(found, str):
            return cls(Digest.parse(found))
        size = found.get("bytes")
        if not isinstance(size, int | None) or isinstance(size, bool):
            raise TypeError(f"{size!r} is not a number of bytes")
        return cls(Digest.parse(found["digest"]), found.get("origin"), size, found.get("resolved"))

    @property
    def document(self) -> dict[str, str | int]:
        """The entry as `parse` reads it."""
        fields = {
            "digest": str(self.digest),
            "origin": self.origin,
            "bytes": self.total_bytes,
            "resolved": self.resolved,
        }
        return {name: value for name, value in fields.items() if value is not None}


class LockFile:
    """`hubdist.lock`: pins each handle to the first bytes that it gave.

    The file is a JSON object: handle without secrets -> an object with `digest`, `origin`, `bytes` and `resolved`, of
    which only the digest has to be there. A digest alone in place of the object is read too. Handles are sorted, and an
    entry changes only if its digest does, so that a change in version control shows what has changed. Any number of
    threads and processes may read the file and add to it.

    Args:
        path: The file, or a link to it; it is made with the first pin, and keeps its mode.
        frozen: Refuse handles that are not in the file, and never write to it.
        wait_s: Longest wait in seconds for other writers.
        clock: Seconds since 1970.
    """

    def __init__(
        self, path: Path, *, frozen: bool, wait_s: float = _WAIT_S, clock: Callable[[], float] = time.time
    ) -> None:
        self._path = path
        self._frozen = frozen
        self._wait_s = wait_s
        self._clock = clock

    def models(self) -> dict[str, LockedModel]:
        """`Handle.label` -> what the file says of the handle; empty if there is no file.

        Raises:
            ConfigError: The file is damaged.
        """
        try:
            document = json.loads(self._path.read_bytes())
            return {label: LockedModel.parse(found) for label, found in document.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError, HandleError) as error:
            raise ConfigError(
                f"the lock file {self._path} cannot be read: {error}", advice="Mend it, or delete it to begin anew."
            ) from None

    def find(self, handle: Handle) -> Digest | None:
        """The digest that the file pins a handle to, or None.

        Raises:
            ConfigError: The file is damaged.
        """
        found = self.models().get(handle.label)
        return None if found is None else found.digest

    def keep(
        self, handle: Handle, digest: Digest, *, origin: str | None = None, total_bytes: int | None = None
    ) -> None:
        """Pin a handle that the file does not have, or compare the digest with the handle's pin.

        Args:
            handle: The handle; its text is written without secrets.
            digest: The model that the handle stands for.
            origin: The place that was read, without secrets; None for the handle.
            total_bytes: Bytes of all files; None if they are not known.

        Raises:
            DigestMismatchError: The file pins other bytes.
            NotPinnedError: The file is frozen and does not have the handle.
            ConfigError: The file is damaged.
            StoreError: The file cannot be written, or another process holds it for too long; nothing is pinned.
        """
        if self._agrees(self.models(), handle, digest):
            return
        if self._frozen:
            raise NotPinnedError(f"{self._path} has no pin for this handle", handle=handle.redacted)
        new = LockedModel(digest, handle.redacted if origin is None else origin, total_bytes)

        def add(models: dict[str, LockedModel]) -> dict[str, LockedModel]:
            return {} if self._agrees(models, handle, digest) else {handle.label: new}

        self._change(add)

    def put(self, models: Mapping[str, LockedModel]) -> None:
        """Pin handles, whatever the file says of them. An entry whose digest does not change stays as it is.

        Args:
            models: `Handle.label` -> what to write; `resolved` None stands for now.

        Raises:
            ConfigError: The file is damaged.
            StoreError: The file cannot be written, or another process holds it for too long; nothing is pinned.
        """

        def changed(known: dict[str, LockedModel]) -> dict[str, LockedModel]:
            return {
                label: model
                for label, model in models.items()
                if label not in known or known[label].digest != model.digest or known[label].total_bytes is None
            }

        self._change(changed)

    def _change(self, change: Callable[[dict[str, LockedModel]], Mapping[str, LockedModel]]) -> None:
        """Add or replace the entries that a function tells from those that are there."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._clock()))
        with disk_errors(self._path, setting="lock_file"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            path = self._path.resolve()  # the target of a link, so that the link stays a link
            path.parent.mkdir(parents=True, exist_ok=True)
            with take_file_turn(path, _text({}), self._wait_s) as before:
                models = self.models()
                new = change(models)
                if new:
                    models |= {label: replace(model, resolved=model.resolved or now) for label, model in new.items()}
                    write_durably(path, _text(models), unique_name(), like=before)

    def _agrees(self, models: Mapping[str, LockedModel], handle: Handle, digest: Digest) -> bool:
        """True if the handle is pinned to this digest, False if it has no pin."""
        known = models.get(handle.label)
        if known is not None:
            check_pin(handle, known.digest, digest, str(self._path))
        return known is not None


def check_pin(handle: Handle, pinned: Digest, found: Digest, where: str) -> None:
    """Compare the digest that a handle stands for with its pin.

    Args:
        handle: The handle, for the error.
        pinned: The pin.
        found: What the handle stands for.
        where: What pins the handle, for the error.

    Raises:
        DigestMismatchError: The digests differ.
    """
    if pinned != found:
        raise DigestMismatchError(
            f"the origin's bytes are not the ones that {where} pins",
            expected=str(pinned),
            actual=str(found),
            handle=handle.redacted,
            advice="If the change is wanted, take it with `hubdist lock --upgrade HANDLE`, or remove the pin.",
        )


def _text(models: Mapping[str, LockedModel]) -> bytes:
    document = {label: model.document for label, model in sorted(models.items())}
    return (json.dumps(document, indent=2) + "\n").encode()
