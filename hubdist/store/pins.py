"""Pins: which digest a handle stands for, for one job and for the next job, as files in a store."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from hubdist.errors import HandleError, IntegrityError
from hubdist.model.handle import Handle
from hubdist.model.manifest import Digest, Manifest
from hubdist.system.directories import make_private
from hubdist.system.disk import disk_errors, mode_below, unique_name, write_durably


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

    def origin(self, handle: Handle, digest: Digest) -> str | None:
        """The place that was read when a handle was pinned to a digest; None if nobody noted it.

        Args:
            handle: The handle.
            digest: The digest.
        """
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            document = json.loads((self._folder / f"{handle.key}.json").read_bytes())
            return str(document["origin"]) if document["digest"] == str(digest) else None
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

    def keep(self, handle: Handle, digest: Digest, origin: str | None = None) -> None:
        """Pin a handle to a digest.

        Args:
            handle: The handle; its text is written without secrets.
            digest: The model that the handle stands for.
            origin: The place that was read, if that says more than the handle; without secrets.

        Raises:
            StoreError: The directory cannot be written.
        """
        self.keep_named(handle.key, handle.label, digest, origin)

    def keep_named(self, key: str, label: str, digest: Digest, origin: str | None = None) -> None:
        """Pin a handle whose text is not known here, since it holds secrets.

        Args:
            key: The handle's `key`.
            label: The handle's `label`, for people who read the file.
            digest: The model that the handle stands for.
            origin: The place that was read, if that says more than the handle; without secrets.

        Raises:
            StoreError: The directory cannot be written.
        """
        with disk_errors(self._folder):
            make_private(self._folder.parent)
            mode = mode_below(self._folder.parent)  # others need the pins of a store that root fills for them
            self._folder.mkdir(mode=mode, exist_ok=True)
            fields = {"handle": label, "digest": str(digest)} | ({} if origin is None else {"origin": origin})
            document = json.dumps(fields).encode()
            write_durably(self._folder / f"{key}.json", document, unique_name(), mode=mode & 0o644)
