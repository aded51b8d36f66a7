"""Pins: which digest a handle stands for, for one job, for the next job, and in `hubdist.lock`.

Processes that add to `hubdist.lock` take turns by a lock (flock) on the file itself, so that no other file lies beside
it. Each of them replaces the file. So a lock counts only if the file at the path is still the one that was locked; a
process that finds another file there tries again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from hubdist.errors import ConfigError, DigestMismatchError, HandleError, IntegrityError, NotPinnedError, StoreError
from hubdist.model.handle import Handle
from hubdist.model.manifest import Digest, Manifest
from hubdist.system.directories import make_private
from hubdist.system.disk import disk_errors, mode_below, unique_name, write_durably

_LOG = logging.getLogger(__name__)
_WAIT_S = 30.0
"""Longest wait in seconds for other writers. A writer needs some milliseconds, unless it is suspended."""

_POLL_S = 0.005
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
_writing = threading.Lock()
"""The threads of a process take turns by this lock, also where the file system has no locks."""


def last_pins(root: Path) -> Path:
    """The directory of the pins that say what a handle stood for when it was last resolved into a store.

    Args:
        root: The store's root.
    """
    return root / "pins" / "last"


class Pins:
    """Pins in a directory, one small durable file for each handle. Any process may read and write them.

    Args:
        folder: The directory; it is made with the first pin.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, handle: Handle) -> Digest | None:
        """The digest that a handle is pinned to, or None."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError, HandleError):
            return Digest.parse(json.loads((self._folder / f"{handle.key}.json").read_bytes())["digest"])
        return None

    def find_manifest(self, digest: Digest) -> Manifest | None:
        """The manifest of a model that `keep_manifest` has kept, or None."""
        with contextlib.suppress(OSError, IntegrityError):
            manifest = Manifest.from_json((self._folder / f"{digest.value}.manifest").read_bytes())
            return manifest if manifest.digest == digest else None
        return None

    def keep_manifest(self, manifest: Manifest) -> None:
        """Keep the manifest of a model whose files are not in the store that the pins are in.

        Args:
            manifest: The manifest. Its block digests must be proven, since the file does not say whether they are.

        Raises:
            StoreError: The directory cannot be written.
        """
        with disk_errors(self._folder):
            make_private(self._folder)
            write_durably(self._folder / f"{manifest.digest.value}.manifest", manifest.to_json(), unique_name())

    def keep(self, handle: Handle, digest: Digest) -> None:
        """Pin a handle to a digest.

        Args:
            handle: The handle; its text is written without secrets.
            digest: The model that the handle stands for.

        Raises:
            StoreError: The directory cannot be written.
        """
        with disk_errors(self._folder):
            make_private(self._folder.parent)
            mode = mode_below(self._folder.parent)  # others need the pins of a store that root fills for them
            self._folder.mkdir(mode=mode, exist_ok=True)
            document = json.dumps({"handle": handle.label, "digest": str(digest)}).encode()
            write_durably(self._folder / f"{handle.key}.json", document, unique_name(), mode=mode & 0o644)


class LockFile:
    """`hubdist.lock`: pins each handle to the first bytes that it gave, in a file for version control.

    The file is a JSON object, handle without secrets -> digest. Any number of threads and processes may read the file
    and add to it.

    Args:
        path: The file, or a link to it; it is made with the first pin, and keeps its mode.
        frozen: Refuse handles that are not in the file, and never write to it.
        wait_s: Longest wait in seconds for other writers.
    """

    def __init__(self, path: Path, *, frozen: bool, wait_s: float = _WAIT_S) -> None:
        self._path = path
        self._frozen = frozen
        self._wait_s = wait_s

    def find(self, handle: Handle) -> Digest | None:
        """The digest that the file pins a handle to, or None.

        Raises:
            ConfigError: The file is damaged.
        """
        text = self._read().get(handle.label)
        return None if text is None else Digest.parse(text)

    def keep(self, handle: Handle, digest: Digest) -> None:
        """Pin a handle that the file does not have, or compare the digest with the handle's pin.

        Args:
            handle: The handle; its text is written without secrets.
            digest: The model that the handle stands for.

        Raises:
            DigestMismatchError: The file pins other bytes.
            NotPinnedError: The file is frozen and does not have the handle.
            ConfigError: The file is damaged.
            StoreError: The file cannot be written, or another process holds it for too long; nothing is pinned.
        """
        if self._agrees(self._read(), handle, digest):
            return
        if self._frozen:
            raise NotPinnedError(f"{self._path} has no pin for this handle", handle=handle.redacted)
        with disk_errors(self._path, setting="lock_file"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            path = self._path.resolve()  # the target of a link, so that the link stays a link
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._turn(path) as before:
                pins = self._read()
                if self._agrees(pins, handle, digest):
                    return
                pins[handle.label] = str(digest)
                write_durably(path, _text(pins), unique_name(), like=before)

    def _agrees(self, pins: dict[str, str], handle: Handle, digest: Digest) -> bool:
        """True if the handle is pinned to this digest, False if it has no pin."""
        known = pins.get(handle.label)
        if known is not None:
            check_pin(handle, Digest.parse(known), digest, str(self._path))
        return known is not None

    @contextlib.contextmanager
    def _turn(self, path: Path) -> Iterator[os.stat_result]:
        """Let one thread of all processes work at a time; yields the status of the file."""
        deadline = time.monotonic() + self._wait_s
        if not _writing.acquire(timeout=self._wait_s):
            raise self._held()
        try:
            while True:
                with _opened(path) as descriptor:
                    status = os.fstat(descriptor)
                    if _take_lock(descriptor, path) and _is_at(path, status):
                        yield status
                        return
                if time.monotonic() > deadline:
                    raise self._held()
                time.sleep(_POLL_S)
        finally:
            _writing.release()

    def _held(self) -> StoreError:
        return StoreError(
            f"another process has held the lock file {self._path} for {self._wait_s:g} s",
            path=str(self._path),
            advice="Find out which process that is (lsof, fuser), and end it if it hangs.",
        )

    def _read(self) -> dict[str, str]:
        try:
            pins = json.loads(self._path.read_bytes())
            for text in pins.values():
                Digest.parse(text)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, TypeError, RecursionError, HandleError) as error:
            raise ConfigError(
                f"the lock file {self._path} cannot be read: {error}", advice="Mend it, or delete it to begin anew."
            ) from None
        return dict(pins)


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
            advice="If the change is wanted, remove the pin.",
        )


def _text(pins: dict[str, str]) -> bytes:
    return (json.dumps(dict(sorted(pins.items())), indent=2) + "\n").encode()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Descriptor of the file, which is made without pins if it is missing."""
    descriptor = _open(path)
    while descriptor is None:
        _make(path)
        descriptor = _open(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open(path: Path) -> int | None:
    """Open the file for a lock; None if it is missing. NFS locks only files that are open for writing."""
    for flags in (os.O_RDWR, os.O_RDONLY):
        try:
            return os.open(path, flags | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except PermissionError:  # the file may be replaced even if this user may only read it
            if flags == os.O_RDONLY:
                raise
    return None


def _make(path: Path) -> None:
    """Make a file without pins, unless one is there. Readers see it with its whole content or not at all."""
    new = path.with_name(f".{path.name}.{unique_name()}")
    try:
        write_durably(new, _text({}), "new", mode=0o666)
        try:
            os.link(new, path)
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            new.rename(path)
    finally:
        new.unlink(missing_ok=True)


def _take_lock(descriptor: int, path: Path) -> bool:
    """Take the lock if it is free; True also where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        _LOG.warning("hubdist: %s cannot be locked (%s): let one process at a time add to it", path, error.strerror)
    return True


def _is_at(path: Path, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), status)
    except FileNotFoundError:
        return False
