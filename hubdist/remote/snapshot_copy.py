"""Remote copies: model files on object storage or a mount that a node can read by itself.

The process that finds a copy lists it once; nodes then read exactly those versions. They accept only bytes that the
manifest confirms, and the manifest comes from the coordinator, not from the storage. A reader that does not check
bytes, such as TensorFlow in place, needs a copy that is `digested`.

A listing tells what a directory holds now; a digest tells what was read there once. The two belong together only if the
directory was listed before the bytes were read and digested, and had not changed afterwards. `ProvenCopies` keeps that
listing beside the pins, and the directory counts as the model for as long as it is listed in the same way.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hubdist.errors import (
    HandleError,
    HubdistError,
    IntegrityError,
    ModelNotFoundError,
    ResolveError,
    TransferError,
    TransferTimeoutError,
)
from hubdist.model.manifest import Digest, Manifest
from hubdist.model.redact import redact_url
from hubdist.remote import StoredFile, Tree, open_tree
from hubdist.system.deadline import Deadlines
from hubdist.system.disk import mode_below, optional_note, unique_name, write_durably
from hubdist.system.threads import run_within

_PROBE_BYTES = 1024
FALLBACK_ERRORS = (HandleError, IntegrityError, ResolveError, TransferError)
"""Errors after which the next source is tried. Errors of the node's own disk are not: another source fails too."""


@dataclass(frozen=True, slots=True)
class RemoteCopy:
    """Where nodes can read a model's files, and which versions of them. Can be pickled.

    Attributes:
        url: The directory, on object storage or a path; may hold secrets.
        files: Path below the directory -> the file as it was listed.
        digested: The files were listed like this before and after the manifest's digests were computed from them.
            Otherwise they may be any files, and readers must check every byte.
    """

    url: str
    files: Mapping[str, StoredFile]
    digested: bool = False

    def __repr__(self) -> str:
        return f"RemoteCopy({self.redacted!r}, {len(self.files)} files)"

    @property
    def redacted(self) -> str:
        """The URL without secrets."""
        return redact_url(self.url)

    def fits(self, manifest: Manifest) -> bool:
        """True if the copy has exactly the manifest's files, by name and size."""
        sizes = {entry.path: entry.size for entry in manifest.entries}
        return {path: file.size for path, file in self.files.items()} == sizes


def list_copy(url: str, deadlines: Deadlines, *, max_bytes: int | None = None) -> RemoteCopy:
    """List the files of a directory as they are now.

    Args:
        url: The directory, on object storage or a path.
        deadlines: Timeouts and retries of each call.
        max_bytes: Most bytes of the content of one object that is stored compressed; None: no limit.

    Raises:
        ModelNotFoundError: The directory holds no files, or does not exist.
        ResolveError, TransferError: The directory cannot be read.
    """
    with open_tree(url, deadlines, max_bytes=max_bytes) as tree:
        return RemoteCopy(url, _list_files(tree))


def check_copy(copy: RemoteCopy, deadlines: Deadlines, *, max_bytes: int | None = None) -> None:
    """Check that the directory still holds the same versions of the same files; for readers that check no bytes.

    Because nobody checks the bytes, the times that a writer cannot set back are compared too.

    Args:
        copy: The files as they were listed.
        deadlines: Timeouts and retries of each call.
        max_bytes: Most bytes of the content of one object that is stored compressed; None: no limit.

    Raises:
        IntegrityError: A file was added, removed or replaced; the error names the file.
        ResolveError, TransferError: The directory cannot be read.
    """
    with open_tree(copy.url, deadlines, max_bytes=max_bytes) as tree:
        found = tree.listing()
    difference = find_difference(copy.files, found, strictly=True)
    if difference is not None:
        path, what = difference
        raise IntegrityError(f"{copy.redacted}/{path} {what} after it was listed")


def find_difference(
    expected: Mapping[str, StoredFile], found: Mapping[str, StoredFile], *, strictly: bool = False
) -> tuple[str, str] | None:
    """Find the first path at which two listings differ.

    Args:
        expected: The earlier listing.
        found: The listing of now.
        strictly: Compare `StoredFile.changed` as well.

    Returns:
        The path, and what happened to the file, in words; None if the listings are equal.
    """
    for path in sorted(expected.keys() | found.keys()):
        before, after = expected.get(path), found.get(path)
        if before is None:
            return path, "was added"
        if after is None:
            return path, "was deleted"
        if before != after:
            return path, f"was replaced ({_described(before)}, now {_described(after)})"
        if strictly and before.changed != after.changed:
            return path, "was written to, or its rights were changed,"
    return None


def probe(place: RemoteCopy | str, deadlines: Deadlines, *, timeout_s: float, max_bytes: int | None = None) -> None:
    """Find out, with one small read, whether this process can read a directory.

    Args:
        place: A copy, or the URL of a directory, which is then listed first.
        deadlines: The longest time to connect; the other limits follow from `timeout_s`.
        timeout_s: Longest time in seconds. A mount that hangs cannot be interrupted: its thread is left behind.
        max_bytes: Most bytes of the content of one object that is stored compressed; None: no limit.

    Raises:
        TransferTimeoutError: There was no answer in time.
        ResolveError, TransferError: The directory cannot be read.
    """
    url = place if isinstance(place, str) else place.url
    quick = replace(deadlines, retries=0, total_s=timeout_s, stall_s=timeout_s)

    def look() -> None:
        with open_tree(url, quick, max_bytes=max_bytes) as tree:
            files = _list_files(tree) if isinstance(place, str) else place.files
            path, file = min(files.items(), key=lambda item: (item[1].size == 0, item[1].size))
            tree.read(path, 0, min(file.size, _PROBE_BYTES), file.version)

    try:
        run_within(look, "hubdist-probe", timeout_s)
    except HubdistError:
        raise
    except TimeoutError:
        raise TransferTimeoutError(f"{redact_url(url)} could not be read within {timeout_s:g} s") from None


def _list_files(tree: Tree) -> dict[str, StoredFile]:
    files = tree.listing()
    if not files:
        raise ModelNotFoundError(f"there is no directory with files at {tree.redacted}")
    return files


def _described(file: StoredFile) -> str:
    return f"{file.size} bytes, version {file.version or 'unknown'}"


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
