"""Which digest a handle stands for: for one job, for next time, and in `hubdist.lock`."""

from __future__ import annotations

import contextlib
import json
import threading
from pathlib import Path

from hubdist.disk import disk_errors, make_private, mode_below, write_durably
from hubdist.errors import ConfigError, DigestMismatchError, HandleError, IntegrityError, NotPinnedError
from hubdist.handle import Handle
from hubdist.makers import unique_name
from hubdist.manifest import Digest, Manifest


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


_writing = threading.Lock()
"""The threads of a process add to a lock file one after another, so that none overwrites what another added."""


class LockFile:
    """`hubdist.lock`: trust on first use. A JSON object, handle without secrets -> digest, for version control.

    Args:
        path: The file; made with the first pin.
        frozen: Refuse handles that are not in it, and never write.
    """

    def __init__(self, path: Path, *, frozen: bool) -> None:
        self._path = path
        self._frozen = frozen

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
        """
        with _writing:
            pins = self._read()
            known = pins.get(handle.label)
            if known is not None:
                check_pin(handle, Digest.parse(known), digest, str(self._path))
                return
            if self._frozen:
                raise NotPinnedError(f"{self._path} has no pin for this handle", handle=handle.public)
            pins[handle.label] = str(digest)
            with disk_errors(self._path, setting="lock_file"):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                text = json.dumps(dict(sorted(pins.items())), indent=2) + "\n"
                write_durably(self._path, text.encode(), unique_name())

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
            handle=handle.public,
            advice="If the change is wanted, remove the pin.",
        )
