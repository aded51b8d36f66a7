"""A model in TensorFlow's own memory, `ram://`: for nodes without a disk, and for workers of another TensorFlow.

What `ram://` cannot do, tensorflow 2.21.0, `core/platform/ram_file_system.h`: files are appended to and never
truncated, so each `RamModel` has a directory of its own; and whether a name exists is answered by its beginning, so
that a model in text form, `saved_model.pbtxt`, is taken for one with a `saved_model.pb`.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from pathlib import PurePosixPath
from typing import Any

from hubdist.errors import ConfigError, IntegrityError
from hubdist.loading.importing import import_tensorflow
from hubdist.model.chunks import Chunk, cut_chunks
from hubdist.model.manifest import Digest, Entry, Manifest
from hubdist.store.snapshot import Snapshot

_CHUNK_BYTES = 16 << 20

ASSETS = "assets/"
"""What functions of a loaded model may still read. Source: tensorflow 2.21.0, `path_helpers.get_assets_dir`."""


class RamModel:
    """One manifest's files in this process's `ram://`. Not for several threads, but `release` is.

    Filled chunk by chunk in the manifest's order; every piece is checked before it is written. The files take their
    size in memory; the largest one for a moment up to twice that, for it grows by doubling.

    Attributes:
        path: The directory, `ram://hubdist-<unique>`.
        manifest: What will be there.

    Raises:
        ConfigError: TensorFlow cannot be imported, or this way cannot hold the model.
    """

    def __init__(self, manifest: Manifest) -> None:
        paths = {entry.path for entry in manifest.entries}
        if "saved_model.pb" not in paths and "saved_model.pbtxt" in paths:
            raise ConfigError(
                "TensorFlow cannot load a saved_model.pbtxt from memory", advice="Use read_mode: stage for this model."
            )
        tensorflow = import_tensorflow()
        self.path = f"ram://hubdist-{secrets.token_hex(16)}"
        self.manifest = manifest
        self._gfile = tensorflow.io.gfile
        self._not_found = tensorflow.errors.NotFoundError
        self._left = [entry.path for entry in manifest.entries]
        self._next = 0
        self._filled = 0
        self._file: Any = None

    def write_chunk(self, chunk: Chunk, data: memoryview) -> None:
        """Check a chunk's bytes and append them to their files.

        Args:
            chunk: The next of `cut_chunks(manifest, ...)`.
            data: Its bytes.

        Raises:
            IntegrityError: The bytes are not the manifest's, or the chunk is not the next one. All is freed.
        """
        try:
            for part in chunk.parts(data):
                self._skip_empty()
                if (part.piece.entry_index, part.piece.start) != (self._next, self._filled):
                    raise IntegrityError(f"chunk {chunk.index} came out of order")
                entry = self.manifest.entries[part.piece.entry_index]
                part.check(entry.path)
                self._append(entry, part.data)
        except BaseException:
            self.release()
            raise

    def finish(self) -> None:
        """Make sure that all files are there.

        Raises:
            IntegrityError: Chunks are missing. All is freed.
        """
        try:
            self._skip_empty()
            if self._next < len(self.manifest.entries):
                raise IntegrityError(
                    f"{self.manifest.digest} is incomplete: {self.manifest.entries[self._next].path} has"
                    f" {self._filled} bytes"
                )
        except BaseException:
            self.release()
            raise

    def read(self, entry: Entry) -> bytes:
        """The bytes of one file.

        Raises:
            IntegrityError: They are not the manifest's.
        """
        with self._gfile.GFile(f"{self.path}/{entry.path}", "rb") as file:
            data = bytes(file.read())
        entry.check_whole(Digest(hashlib.sha256(data).hexdigest()))
        return data

    def keep_assets(self) -> None:
        """Free everything but the assets; for a model that has been loaded."""
        self._remove([path for path in self._left if not path.startswith(ASSETS)])

    def release(self) -> None:
        """Free everything. Does no more than to delete files, so that it may be called by a finalizer."""
        self._file = None
        self._remove(self._left)

    def _append(self, entry: Entry, part: memoryview) -> None:
        if self._file is None:
            target = f"{self.path}/{entry.path}"
            self._gfile.makedirs(target.rpartition("/")[0])
            self._file = self._gfile.GFile(target, "wb")
        self._file.write(bytes(part))
        self._filled += len(part)
        if self._filled == entry.size:
            self._file.close()
            self._file, self._filled = None, 0
            self._next += 1

    def _skip_empty(self) -> None:
        while self._next < len(self.manifest.entries) and self.manifest.entries[self._next].size == 0:
            self._append(self.manifest.entries[self._next], memoryview(b""))

    def _remove(self, paths: list[str]) -> None:
        self._left = [path for path in self._left if path not in set(paths)]
        kept = _folders(self._left)
        for path in paths:
            with contextlib.suppress(self._not_found):
                self._gfile.remove(f"{self.path}/{path}")
        for folder in sorted(_folders(paths) - kept, reverse=True):  # the inner before the outer, a.b before a
            with contextlib.suppress(self._not_found):
                self._gfile.rmtree(f"{self.path}/{folder}".rstrip("/"))


def copy_to_memory(snapshot: Snapshot, ram: RamModel) -> None:
    """Fill a `RamModel` from a snapshot of the same manifest; `finish` is left to the caller.

    Raises:
        IntegrityError: The snapshot is damaged.
        StoreError: The disk refuses.
    """
    for chunk in cut_chunks(snapshot.manifest, _CHUNK_BYTES):
        data = memoryview(bytearray(chunk.size))
        snapshot.read_chunk(chunk, data)
        ram.write_chunk(chunk, data)


def _folders(paths: list[str]) -> set[str]:
    """Every directory above these files; the model's own is the empty string."""
    return {"" if str(folder) == "." else str(folder) for path in paths for folder in PurePosixPath(path).parents}
