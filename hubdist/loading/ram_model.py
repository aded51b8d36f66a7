"""A model's files in TensorFlow's own memory, `ram://`: for nodes without a disk, and for remote TensorFlow workers.

The limits of `ram://`: it appends to files and never truncates them, so each `RamModel` has a directory of its own.
It answers by the beginning of a name whether a file exists, so it takes a model in text form, `saved_model.pbtxt`, for
one with a `saved_model.pb`.
Source: tensorflow 2.21.0, `core/platform/ram_file_system.h`.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from pathlib import PurePosixPath
from typing import Any

from hubdist.errors import ConfigError, IntegrityError
from hubdist.loading.tf_runtime import import_tensorflow
from hubdist.model.chunks import Chunk, cut_chunks
from hubdist.model.manifest import Digest, Entry, Manifest
from hubdist.store.snapshot import Snapshot

_CHUNK_BYTES = 16 << 20

ASSETS = "assets/"
"""The folder of files that functions of a loaded model may still read.

Source: tensorflow 2.21.0, `path_helpers.get_assets_dir`."""


class RamModel:
    """One manifest's files in this process's `ram://`. One thread may use it; any thread may call `release`.

    The caller writes chunk by chunk in the manifest's order, and every piece is checked before it is written. The
    files take their size in memory. The largest one takes up to twice its size for a moment, because it grows by
    doubling.

    Args:
        manifest: The files to come.

    Attributes:
        path: The directory, `ram://hubdist-<unique>`.
        manifest: The files to come.

    Raises:
        ConfigError: TensorFlow cannot be imported, or cannot load this model from memory.
    """

    def __init__(self, manifest: Manifest) -> None:
        paths = {entry.path for entry in manifest.entries}
        if "saved_model.pb" not in paths and "saved_model.pbtxt" in paths:
            raise ConfigError(
                "TensorFlow cannot load a saved_model.pbtxt from memory", advice="Use read_mode: store for this model."
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
            data: The bytes of the chunk.

        Raises:
            IntegrityError: The bytes are not those of the manifest, or the chunk is not the next one. All files are
                freed.
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
        """Check that all files are complete.

        Raises:
            IntegrityError: Chunks are missing. All files are freed.
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
            IntegrityError: The bytes are not those of the manifest.
        """
        with self._gfile.GFile(f"{self.path}/{entry.path}", "rb") as file:
            data = bytes(file.read())
        entry.check_whole(Digest(hashlib.sha256(data).hexdigest()))
        return data

    def keep_assets(self) -> None:
        """Free all files but the assets, which is all that a model needs once it has been loaded."""
        self._remove([path for path in self._left if not path.startswith(ASSETS)])

    def release(self) -> None:
        """Free all files. It only deletes files, so that a finalizer may call it in any thread."""
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
        for folder in sorted(_folders(paths) - kept, reverse=True):  # the inner folder first, a/b before a
            with contextlib.suppress(self._not_found):
                self._gfile.rmtree(f"{self.path}/{folder}".rstrip("/"))


def copy_to_memory(snapshot: Snapshot, ram: RamModel) -> None:
    """Fill a `RamModel` from a snapshot of the same manifest; the caller calls `finish`.

    Args:
        snapshot: Where to read.
        ram: Where to write; it must be empty.

    Raises:
        IntegrityError: The snapshot is damaged.
        StoreError: The disk cannot be read.
    """
    for chunk in cut_chunks(snapshot.manifest, _CHUNK_BYTES):
        data = memoryview(bytearray(chunk.size))
        snapshot.read_chunk(chunk, data)
        ram.write_chunk(chunk, data)


def _folders(paths: list[str]) -> set[str]:
    """Every directory above these files; the empty string is the model's own directory."""
    return {"" if str(folder) == "." else str(folder) for path in paths for folder in PurePosixPath(path).parents}
