"""Proven copies: directories whose files are known to be a model, because they were listed before and after the read.

A listing tells what a directory holds now; a digest tells what was read there once. The two belong together only if
the directory was listed before the bytes were read and digested, and had not changed afterwards. That listing is kept
beside the pins, and the directory counts as the model for as long as it is listed in the same way.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from dataclasses import replace
from pathlib import Path

from hubdist.errors import HandleError
from hubdist.model.manifest import Digest, Manifest
from hubdist.remote import StoredFile
from hubdist.remote.snapshot_copy import RemoteCopy, find_difference
from hubdist.system.disk import mode_below, optional_note, unique_name, write_durably


class ProvenCopies:
    """The proven copies of one node: for each directory the last model that was read there. Safe for several threads.

    They are kept in memory, and in notes on disk if the disk can be written. Without a note, a directory is unproven.

    Args:
        folder: The directory for the notes; the first note creates it. No note holds a URL.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._guard = threading.Lock()
        self._known: dict[str, tuple[Digest, RemoteCopy]] = {}

    def keep(self, manifest: Manifest, copy: RemoteCopy) -> None:
        """Note that a directory holds a model.

        Nothing is noted if the files are not the manifest's by name and size, or if the storage reports no versions.

        Args:
            manifest: The model that was read there.
            copy: The directory as it was listed both before and after the read.
        """
        if not copy.fits(manifest) or not all(file.version for file in copy.files.values()):
            return
        with self._guard:
            self._known[copy.url] = manifest.digest, replace(copy, digested=True)
        note = self._note(copy.url)
        with optional_note(note):
            self._folder.mkdir(mode=mode_below(self._folder.parent), exist_ok=True)
            files = {path: [file.size, file.version, file.packed, file.changed] for path, file in copy.files.items()}
            document = {"hubdist_place": 1, "digest": str(manifest.digest), "files": files}
            write_durably(note, json.dumps(document).encode(), unique_name(), mode=mode_below(self._folder) & 0o644)

    def find(self, digest: Digest, url: str) -> RemoteCopy | None:
        """The files of a directory as they were when they were a model.

        Args:
            digest: The model.
            url: The directory.

        Returns:
            The listing of that time; None if the last model that was read there is another one, or not known.
        """
        with self._guard:
            known = self._known.get(url)
        known = known or self._load(url)
        return known[1] if known is not None and known[0] == digest else None

    def judged(self, copy: RemoteCopy, digest: Digest) -> RemoteCopy:
        """Mark a listing as digested if its files are the ones that were read as this model.

        Args:
            copy: The directory as it is listed now.
            digest: The model.
        """
        proven = self.find(digest, copy.url)
        same = proven is not None and find_difference(proven.files, copy.files, strictly=True) is None
        return replace(copy, digested=same)

    def _load(self, url: str) -> tuple[Digest, RemoteCopy] | None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, HandleError):
            document = json.loads(self._note(url).read_bytes())
            if document["hubdist_place"] == 1:
                files = {
                    str(path): StoredFile(int(size), str(version), packed=bool(packed), changed=str(changed))
                    for path, (size, version, packed, changed) in document["files"].items()
                }
                return Digest.parse(document["digest"]), RemoteCopy(url, files, digested=True)
        return None

    def _note(self, url: str) -> Path:
        return self._folder / f"{hashlib.sha256(url.encode()).hexdigest()}.json"
