"""Which digest a handle stands for: for one job, for next time, and in `hubdist.lock`.

Those who add to `hubdist.lock` take turns by a lock (flock) on the file itself, so nothing lies beside it. Each of them
replaces the file. So a lock counts only if the file is still the one that was locked; who gets another one tries again.
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
from hubdist.system.disk import disk_errors, make_private, mode_below, write_durably
from hubdist.system.unique_names import unique_name

_LOG = logging.getLogger(__name__)
_WAIT_S = 30.0
"""Longest wait for other writers; one writes for some milliseconds, unless it is suspended."""

_POLL_S = 0.005
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
_writing = threading.Lock()
"""The threads of a process take turns by this, also where the file system has no locks."""


class Pins:
    """Pins in a directory, a small file for each handle, written durably; any process may read and write.

    Args:
        folder: The directory; made when the first pin is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, handle: Handle) -> Digest | None:
        """The digest that is pinned for a handle, or None."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError, HandleError):
            return Digest.parse(json.loads((self._folder / f"{handle.key}.json").read_bytes())["digest"])
        return None

    def find_manifest(self, digest: Digest) -> Manifest | None:
        """The manifest that was kept with a pin, or None."""
        with contextlib.suppress(OSError, IntegrityError):
            manifest = Manifest.from_json((self._folder / f"{digest.value}.manifest").read_bytes())
            return manifest if manifest.digest == digest else None
        return None

    def keep_manifest(self, manifest: Manifest) -> None:
        """Keep the manifest of a model whose files are not in the store beside the pins.

        Raises:
            StoreError: The directory cannot be written.
        """
        with disk_errors(self._folder):
            make_private(self._folder)
            write_durably(self._folder / f"{manifest.digest.value}.manifest", manifest.to_json(), unique_name())

    def keep(self, handle: Handle, digest: Digest) -> None:
        """Pin a handle.

        Raises:
            StoreError: The directory cannot be written.
        """
        with disk_errors(self._folder):
            make_private(self._folder.parent)
            mode = mode_below(self._folder.parent)  # a store that root fills for others is of use to them with its pins
            self._folder.mkdir(mode=mode, exist_ok=True)
            document = json.dumps({"handle": handle.label, "digest": str(digest)}).encode()
            write_durably(self._folder / f"{handle.key}.json", document, unique_name(), mode=mode & 0o644)


class LockFile:
    """`hubdist.lock`: trust on first use. A JSON object, handle without secrets -> digest, for version control.

    Any number of threads and processes may read it and add to it.

    Args:
        path: The file, or a link to it; made with the first pin. It keeps its mode.
        frozen: Refuse handles that are not in it, and never write.
        wait_s: Longest time in seconds to wait for others who add to it.
    """

    def __init__(self, path: Path, *, frozen: bool, wait_s: float = _WAIT_S) -> None:
        self._path = path
        self._frozen = frozen
        self._wait_s = wait_s

    def find(self, handle: Handle) -> Digest | None:
        """The digest that the file pins for a handle, or None.

        Raises:
            ConfigError: The file is damaged.
        """
        text = self._read().get(handle.label)
        return None if text is None else Digest.parse(text)

    def keep(self, handle: Handle, digest: Digest) -> None:
        """Add a handle, or check it against the pin that is there.

        Raises:
            DigestMismatchError: The file pins other bytes.
            NotPinnedError: The file is frozen and does not know the handle.
            StoreError: The file cannot be written, or others hold it for too long; nothing is pinned.
        """
        if self._agrees(self._read(), handle, digest):
            return
        if self._frozen:
            raise NotPinnedError(f"{self._path} has no pin for this handle", handle=handle.redacted)
        with disk_errors(self._path, setting="lock_file"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            path = self._path.resolve()  # where a link leads, for it shall stay a link
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._turn(path) as before:
                pins = self._read()
                if self._agrees(pins, handle, digest):
                    return
                pins[handle.label] = str(digest)
                write_durably(path, _text(pins), unique_name(), like=before)

    def _agrees(self, pins: dict[str, str], handle: Handle, digest: Digest) -> bool:
        """True if a handle is pinned to this digest, False if it has no pin."""
        known = pins.get(handle.label)
        if known is not None:
            check_pin(handle, Digest.parse(known), digest, str(self._path))
        return known is not None

    @contextlib.contextmanager
    def _turn(self, path: Path) -> Iterator[os.stat_result]:
        """Let one thread of all processes work at a time; yields what the file is."""
        deadline = time.monotonic() + self._wait_s
        if not _writing.acquire(timeout=self._wait_s):
            raise self._held()
        try:
            while True:
                with _opened(path) as handle:
                    status = os.fstat(handle)
                    if _take_lock(handle, path) and _is_at(path, status):
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
            advice="Look which process that is (lsof, fuser), and end it if it hangs.",
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
    """Compare what a handle resolved to with its pin.

    Raises:
        DigestMismatchError: They differ.
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
    """The file, made without pins if it is missing."""
    handle = _open(path)
    while handle is None:
        _make(path)
        handle = _open(path)
    try:
        yield handle
    finally:
        os.close(handle)


def _open(path: Path) -> int | None:
    """Open the file for a lock; None if it is missing. NFS locks only what is open for writing."""
    for flags in (os.O_RDWR, os.O_RDONLY):
        try:
            return os.open(path, flags | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except PermissionError:  # a file that may only be read can still be replaced
            if flags == os.O_RDONLY:
                raise
    return None


def _make(path: Path) -> None:
    """Make a file without pins, at once with its content, unless one is there."""
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


def _take_lock(handle: int, path: Path) -> bool:
    """Take the lock if it is free; True also where the file system has none."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
