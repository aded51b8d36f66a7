"""A directory on object storage, by any fsspec file system that is allowed and installed.

gs:// is read and written by `GcsClient`, which is faster than gcsfs, except where only gcsfs can do it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hubdist.errors import IntegrityError, LengthMismatchError, ModelNotFoundError, OriginError
from hubdist.model.handle import Handle
from hubdist.model.source import ByteStream
from hubdist.remote.compressed_objects import is_gzip_encoding
from hubdist.remote.fsspec_client import PART_BYTES, FsspecClient, stored_file
from hubdist.remote.gcs_client import GcsClient
from hubdist.remote.gcs_contents import GcsContents
from hubdist.remote.tree import MAX_OBJECT_BYTES, StoredFile, StoredObject, Tree
from hubdist.system.deadline import Deadline, Deadlines

_EXCLUSIVE = frozenset({"gs", "s3", "memory"})
"""Where `mode="create"` is known to be one step of the storage (in memory: of this process), not a look and a write."""


class RemoteTree(Tree):
    """A directory, or one file, on object storage.

    Args:
        handle: A TREE or ARCHIVE handle.
        deadlines: Timeouts and retries of each call.
        deadline: When the task must be done that the tree is for; None gives each call `total_s`.
        max_bytes: Most bytes of the content of one object that is stored compressed; None: no limit.

    Raises:
        HandleError: The package for the scheme is not installed here, or its settings do not fit the handle.
        AccessDeniedError: There are no credentials.
        OriginError, TransferTimeoutError: The storage cannot be opened, or not in time.
    """

    def __init__(
        self,
        handle: Handle,
        deadlines: Deadlines,
        deadline: Deadline | None = None,
        *,
        max_bytes: int | None = None,
    ) -> None:
        self.redacted = handle.redacted
        self.exclusive = handle.scheme in _EXCLUSIVE
        self._deadlines = deadlines
        self._deadline = deadline
        self._closing = threading.Event()
        self._fsspec = FsspecClient(handle, deadlines, deadline, self._closing)
        self.find_identity = self._fsspec.find_identity
        self._root = self._fsspec.root
        self._gcs: GcsContents | None = None
        self._gcs_usable: bool | None = None
        if handle.scheme == "gs":
            self._gcs = self._make_contents(GcsClient(self._fsspec.files, deadlines), max_bytes)

    def close(self) -> None:
        """Close the connections, also those that other threads wait at."""
        self._closing.set()
        if self._gcs is not None:
            self._gcs.close()
        self._fsspec.close()

    def listing(self, folder: str = "") -> dict[str, StoredFile]:
        """All files below `folder`; a bucket that does not exist is an error."""
        return {name: self._content_file(_joined(folder, name), each) for name, each in self.objects(folder).items()}

    def objects(self, folder: str = "") -> dict[str, StoredObject]:
        """All files below `folder`, as the storage keeps them; no content is measured.

        Raises:
            OriginError: A file is stored in an encoding that hubdist cannot decode.
        """
        root = self._name(folder)
        found = self._call(folder, "find", root, detail=True)
        infos = {
            name[len(root) :].lstrip("/"): info
            for name, info in found.items()
            if info.get("type") == "file" and not name.endswith("/") and name.startswith(f"{root}/")
        }
        return {name: self._object(_joined(folder, name), info) for name, info in infos.items()}

    def look(self, path: str = "") -> StoredObject:
        """Look up how one file is stored; "" is the root itself.

        Raises:
            ModelNotFoundError: No file is there.
            OriginError: The file is stored in an encoding that hubdist cannot decode.
        """
        info = self._call(path, "info", self._name(path))
        if info.get("type") != "file":
            raise ModelNotFoundError(f"{self.url(path)} is not a file")
        return self._object(path, info)

    @contextlib.contextmanager
    def open_stream(self, path: str, stored: StoredObject) -> Iterator[ByteStream]:
        """Read the content of a file in order.

        Args:
            path: The file, "" for the root itself.
            stored: The file as it was listed; where it is stored compressed, no other version is read.

        Raises:
            OriginError: The file is stored compressed, and only gcsfs may read here.
        """
        if stored.gzipped:
            with self._decoding(path).inflated(self._name(path), stored) as content:
                yield content
            return
        with super().open_stream(path, stored) as content:
            yield content

    def fetch(self, path: str, start: int, end: int) -> bytes:
        """Read a range of the stored bytes; short where the file ends.

        Args:
            path: The file, "" for the root itself.
            start: Offset of the first byte.
            end: Offset behind the last byte.
        """
        return self._fsspec.fetch(self.url(path), self._name(path), start, end)

    def read_into(self, path: str, start: int, view: memoryview, version: str = "") -> None:
        """Fill `view` with bytes of a file.

        Args:
            path: The file.
            start: Offset of the first byte.
            view: Where the bytes go.
            version: Read this version only; pinned on gs://, ignored elsewhere.
        """
        if len(view) == 0:
            return
        name, redacted, contents = self._name(path), self.url(path), self._gcs_contents()
        if contents is not None:
            contents.read_into(name, start, view, version)
            return
        try:
            data = self._fsspec.fetch(redacted, name, start, start + len(view), version)
        except ModelNotFoundError:
            if not version:
                raise
            raise IntegrityError(f"{redacted} was replaced or deleted: its version {version} is gone") from None
        if len(data) != len(view):
            raise LengthMismatchError(f"{redacted} ends at byte {start + len(data)}, before byte {start + len(view)}")
        view[:] = data

    def stream(
        self, path: str, start: int, end: int, buffer: memoryview, version: str = ""
    ) -> Iterator[tuple[int, memoryview]]:
        """Read a long range through a small buffer, with one request on gs:// and one for each 8 MiB elsewhere.

        Args:
            path: The file.
            start: Offset of the first byte.
            end: Offset behind the last byte.
            buffer: Reused for every part.
            version: Read this version only; pinned on gs://, ignored elsewhere.

        Yields:
            Offset in the file, and the bytes from there in `buffer`.
        """
        contents = self._gcs_contents()
        if contents is not None:
            return contents.stream(self._name(path), start, end, buffer, version)
        return self._stream_by_fsspec(path, start, end, buffer, version)

    def load(self, path: str) -> bytes | None:
        """A small file as a whole, or None if nothing is there."""
        name, redacted, contents = self._name(path), self.url(path), self._gcs_contents()
        try:
            if contents is not None:
                return contents.load(name)
            return self._fsspec.load(redacted, name, MAX_OBJECT_BYTES)
        except ModelNotFoundError:
            return None

    def create(self, path: str, data: bytes) -> bool:
        """Write a small file that must not exist yet.

        Args:
            path: Where to write.
            data: The content.
        """
        return self._put(path, data, create=True)

    def write(self, path: str, data: bytes) -> None:
        """Write or replace a small file.

        Args:
            path: Where to write.
            data: The content.
        """
        self._put(path, data, create=False)

    def upload(self, path: str, file: Path, *, create: bool = True) -> bool:
        """Write a local file of any size, within `total_s`.

        Args:
            path: Where to write.
            file: The local file.
            create: Write only if nothing is there yet.
        """
        return self._put(path, file, create=create)

    def delete(self, path: str, version: str = "") -> None:
        """Delete a file; a missing file is not an error.

        Args:
            path: The file.
            version: Delete this version only; on gs://, ignored elsewhere.
        """
        self._fsspec.delete(self.url(path), self._name(path), version)

    def _name(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def _call(self, path: str, method: str, *args: object, **options: Any) -> Any:
        return self._fsspec.call(self.url(path), method, *args, **options)

    def _object(self, path: str, info: dict[str, Any]) -> StoredObject:
        # Only Google's storage decodes what it serves; elsewhere a Content-Encoding changes nothing.
        encoding = "" if self._gcs is None else str(info.get("contentEncoding") or "")
        return StoredObject(stored_file(info), is_gzip_encoding(encoding, self.url(path)))

    def _make_contents(self, client: GcsClient, max_bytes: int | None) -> GcsContents:
        def path(name: str) -> str:
            return name[len(self._root) :].lstrip("/")

        return GcsContents(
            client,
            lambda name: self.look(path(name)),
            lambda name: self.url(path(name)),
            self._deadlines,
            self._closing,
            deadline=self._deadline,
            max_bytes=max_bytes,
            anonymous=self._fsspec.anonymous,
        )

    def _content_file(self, path: str, stored: StoredObject) -> StoredFile:
        """The stored file with the size of its content, and without the md5 of the compressed bytes."""
        if not stored.gzipped:
            return stored.file
        size = self._decoding(path).measure(self._name(path), stored)
        return StoredFile(size, stored.file.version, packed=True)

    def _decoding(self, path: str) -> GcsContents:
        contents = self._gcs_contents()
        if contents is None:
            raise OriginError(
                f"{self.url(path)} is stored with Content-Encoding: gzip, which hubdist cannot read where gcsfs uses "
                "client certificates, session_kwargs or a zonal bucket",
                advice="Store the file plainly.",
            )
        return contents

    def _stream_by_fsspec(
        self, path: str, start: int, end: int, buffer: memoryview, version: str
    ) -> Iterator[tuple[int, memoryview]]:
        request_bytes = max(1, PART_BYTES // len(buffer)) * len(buffer)
        for begin in range(start, end, request_bytes):
            data = self.read(path, begin, min(begin + request_bytes, end), version)
            for offset in range(0, len(data), len(buffer)):
                part = buffer[: min(len(buffer), len(data) - offset)]
                part[:] = data[offset : offset + len(part)]
                yield begin + offset, part

    def _gcs_contents(self) -> GcsContents | None:
        """None where gcsfs does more than simple requests: client certificates, own sessions, buckets over gRPC."""
        if self._gcs is not None and self._gcs_usable is None:
            files = self._fsspec.files
            special = files.session_kwargs or getattr(files, "_use_client_cert", False)
            if not special and hasattr(files, "_is_zonal_bucket"):
                special = self._call("", "is_zonal_bucket", self._root.lstrip("/").partition("/")[0])
            self._gcs_usable = not special
        return self._gcs if self._gcs_usable else None

    def _put(self, path: str, body: bytes | Path, *, create: bool) -> bool:
        name, contents = self._name(path), self._gcs_contents()
        try:
            if contents is None:
                self._fsspec.put(self.url(path), name, body, create=create)
            else:
                contents.put(name, body, create=create)
        except FileExistsError:
            return False
        return True


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
