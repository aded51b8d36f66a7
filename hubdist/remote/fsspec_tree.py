"""A directory on object storage, by any fsspec file system that is allowed and installed."""

from __future__ import annotations

import base64
import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
from fsspec.asyn import sync

from hubdist.config.schema import Config
from hubdist.errors import HubdistError, IntegrityError, LengthMismatchError, ModelNotFoundError, OriginError
from hubdist.model.handle import Handle
from hubdist.model.source import ByteStream
from hubdist.remote.compressed_objects import StoredObject, is_encoded
from hubdist.remote.filesystem import open_files
from hubdist.remote.gcs_client import GcsClient
from hubdist.remote.gcs_contents import GcsContents
from hubdist.remote.retry import call_storage
from hubdist.remote.tree import MAX_OBJECT_BYTES, StoredFile, Tree
from hubdist.system.deadline import Deadline
from hubdist.system.foreign import call_foreign
from hubdist.system.threads import Workers

_VERSION_KEYS = (
    *("generation", "etag", "ETag", "blob_id", "md5Hash", "LastModified", "last_modified"),
    *("updated", "mtime", "modified", "created"),
)
_EXCLUSIVE = frozenset({"gs", "s3", "memory"})
"""Where `mode="create"` is known to be one step of the storage (in memory: of this process), not a look and a write."""

_PART_BYTES = 8 << 20
_CLOSE_S = 5.0


class RemoteTree(Tree):
    """A directory, or one file, on object storage.

    Args:
        handle: A TREE or ARCHIVE handle.
        config: Deadlines and retries.
        deadline: When the work is over that the tree is for; None gives each call `timeout_s`.

    Raises:
        HandleError: The package for the scheme is not installed here, or its settings do not fit the handle.
        AccessDeniedError: There are no credentials.
        OriginError, TransferTimeoutError: It cannot be opened, or not in time.
    """

    def __init__(self, handle: Handle, config: Config, deadline: Deadline | None = None) -> None:
        self.redacted = handle.redacted
        self.exclusive = handle.scheme in _EXCLUSIVE
        self._config = config
        self._deadline = deadline
        self._closing = threading.Event()
        self._workers = Workers(f"hubdist-{handle.scheme}")
        # Where a range begins at 0, fsspec opens a stream of pyarrow's that cannot seek, and then seeks.
        self._range_options: dict[str, Any] = {"seekable": True} if handle.scheme == "hdfs" else {}
        try:
            self._files, root = self._open(handle)
        except BaseException:
            self._workers.close()
            raise
        self._root = root.rstrip("/")
        self._bucket = self._root.lstrip("/").partition("/")[0]
        self._has_folders = handle.scheme == "hdfs"
        self._plain = GcsClient(self._files, config) if handle.scheme == "gs" else None
        self._contents = None if self._plain is None else self._make_contents(self._plain)
        self._plain_checked = False

    def close(self) -> None:
        """Close the connections; the file system's own clean-up leaves them to the collector of garbage."""
        self._closing.set()
        self._workers.close()
        if self._plain is not None:
            self._plain.close()
        if self._contents is not None:
            self._contents.close()
        session = getattr(self._files, "_session", None)
        if isinstance(session, aiohttp.ClientSession):
            with contextlib.suppress(HubdistError):  # everything was read or written by now
                call_foreign(lambda: sync(self._files.loop, session.close, timeout=_CLOSE_S), self.redacted, "closed")

    def listing(self, folder: str = "") -> dict[str, StoredFile]:
        """As `Tree.listing`; a bucket that does not exist is an error."""
        return {name: self._content_file(_joined(folder, name), each) for name, each in self.objects(folder).items()}

    def objects(self, folder: str = "") -> dict[str, StoredObject]:
        """All files below `folder`, as they are stored.

        Raises:
            OriginError: One is stored in an encoding that hubdist cannot decode.
            HubdistError: As `Tree` says.
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
        """How a file is stored, "" for the root itself; raises as `objects`."""
        info = self._call(path, "info", self._name(path))
        if info.get("type") != "file":
            raise ModelNotFoundError(f"{self.url(path)} is not a file")
        return self._object(path, info)

    @contextlib.contextmanager
    def inflated(self, path: str, stored: StoredObject) -> Iterator[ByteStream]:
        """The content of a file that is stored compressed, in order.

        Args:
            path: The file, "" for the root itself.
            stored: As it was listed; no other version is read.

        Raises:
            OriginError: Only gcsfs may read here.
        """
        with self._decoding(path).inflated(self._name(path), stored) as content:
            yield content

    def fetch(self, path: str, start: int, end: int) -> bytes:
        """Bytes `start` (included) to `end` (excluded) of a file, "" for the root itself; short where it ends."""
        return bytes(self._call(path, "cat_file", self._name(path), start=start, end=end, **self._range_options))

    def read_into(self, path: str, start: int, view: memoryview, version: str = "") -> None:
        """As `Tree.read_into`."""
        if len(view) == 0:
            return
        name, redacted, contents = self._name(path), self.url(path), self._plain_contents()
        if contents is not None:
            contents.read_into(name, start, view, version)
            return
        options: dict[str, Any] = dict(self._range_options)
        if version and "gs" in self._files.protocol:
            options["generation"] = version
        try:
            data = self._call(path, "cat_file", name, start=start, end=start + len(view), **options)
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
        """As `Tree.stream`."""
        contents = self._plain_contents()
        if contents is not None:
            return contents.stream(self._name(path), start, end, buffer, version)
        return self._stream_by_fsspec(path, start, end, buffer, version)

    def load(self, path: str) -> bytes | None:
        """As `Tree.load`."""
        name, redacted, contents = self._name(path), self.url(path), self._plain_contents()
        try:
            if contents is not None:
                return contents.load(name)
            size = int(self._call(path, "info", name)["size"])
            if size > MAX_OBJECT_BYTES:
                raise LengthMismatchError(f"{redacted} has more than {MAX_OBJECT_BYTES} bytes")
            return bytes(self._call(path, "cat_file", name))
        except ModelNotFoundError:
            return None

    def create(self, path: str, data: bytes) -> bool:
        """As `Tree.create`."""
        return self._put(path, data, create=True)

    def write(self, path: str, data: bytes) -> None:
        """As `Tree.write`."""
        self._put(path, data, create=False)

    def upload(self, path: str, file: Path, *, create: bool = True) -> bool:
        """As `Tree.upload`; it may take `timeout_s` in all."""
        return self._put(path, file, create=create)

    def delete(self, path: str) -> None:
        """As `Tree.delete`."""
        with contextlib.suppress(ModelNotFoundError):
            self._call(path, "rm_file", self._name(path), verb="deleted")

    def _name(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def _object(self, path: str, info: dict[str, Any]) -> StoredObject:
        # Only Google's storage decodes what it serves; elsewhere a Content-Encoding changes nothing.
        encoding = "" if self._contents is None else str(info.get("contentEncoding") or "")
        return StoredObject(_stored(info), is_encoded(encoding, self.url(path)))

    def _make_contents(self, plain: GcsClient) -> GcsContents:
        def path(name: str) -> str:
            return name[len(self._root) :].lstrip("/")

        return GcsContents(
            plain,
            lambda name: self.look(path(name)),
            lambda name: self.url(path(name)),
            self._config,
            self._closing,
            deadline=self._deadline,
        )

    def _content_file(self, path: str, stored: StoredObject) -> StoredFile:
        """What is stored, with the size of the content, and without the md5 of other bytes."""
        if not stored.encoded:
            return stored.file
        size = self._decoding(path).measure(self._name(path), stored)
        return StoredFile(size, stored.file.version, packed=True)

    def _decoding(self, path: str) -> GcsContents:
        contents = self._plain_contents()
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
        request_bytes = max(1, _PART_BYTES // len(buffer)) * len(buffer)
        for begin in range(start, end, request_bytes):
            data = self.read(path, begin, min(begin + request_bytes, end), version)
            for offset in range(0, len(data), len(buffer)):
                part = buffer[: min(len(buffer), len(data) - offset)]
                part[:] = data[offset : offset + len(part)]
                yield begin + offset, part

    def _plain_objects(self) -> GcsClient | None:
        """None where gcsfs does more than plain requests: client certificates, own sessions, buckets over gRPC."""
        if self._plain is not None and not self._plain_checked:
            special = self._files.session_kwargs or getattr(self._files, "_use_client_cert", False)
            if not special and hasattr(self._files, "_is_zonal_bucket"):
                special = self._call("", "is_zonal_bucket", self._bucket)
            if special:
                self._plain = None
            self._plain_checked = True
        return self._plain

    def _plain_contents(self) -> GcsContents | None:
        return None if self._plain_objects() is None else self._contents

    def _put(self, path: str, body: bytes | Path, *, create: bool) -> bool:
        name, redacted, plain = self._name(path), self.url(path), self._plain_objects()
        try:
            if plain is None:
                self._put_by_fsspec(path, body, create=create)
            else:
                attempt = functools.partial(plain.put, name, body, redacted, create=create)
                call_storage(attempt, redacted, self._config, self._closing, verb="written", deadline=self._deadline)
        except FileExistsError:
            return False
        return True

    def _put_by_fsspec(self, path: str, body: bytes | Path, *, create: bool) -> None:
        name, how = self._name(path), "pipe_file" if isinstance(body, bytes) else "put_file"
        known = inspect.signature(self._function(how)).parameters
        options: dict[str, Any] = {"mode": "create"} if create and "mode" in known else {}
        if create and not options and self._call(path, "exists", name):
            raise FileExistsError(name)
        if self._has_folders:
            self._call(path, "makedirs", name.rpartition("/")[0], verb="written", exist_ok=True)
        if isinstance(body, bytes):
            self._call(path, how, name, body, verb="written", **options)
            return
        if "chunksize" in known:
            options["chunksize"] = _PART_BYTES
        self._call(path, how, str(body), name, verb="written", timeout_s=self._config.timeout_s, **options)

    def _function(self, name: str) -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(self._files, f"_{name}" if self._files.async_impl else name)
        return found

    def _call(
        self, path: str, name: str, *args: object, verb: str = "read", timeout_s: float | None = None, **options: object
    ) -> Any:
        function = self._function(name)
        deadline = self._deadline or Deadline(self._config.timeout_s)
        longest_s = self._config.stall_timeout_s if timeout_s is None else timeout_s

        def attempt() -> Any:
            wait_s = deadline.within(longest_s)
            if self._files.async_impl:
                return sync(self._files.loop, function, *args, timeout=wait_s, **options)
            return self._workers.call(lambda: function(*args, **options), wait_s)

        return call_storage(attempt, self.url(path), self._config, self._closing, verb=verb, deadline=deadline)

    def _open(self, handle: Handle) -> tuple[Any, str]:
        def attempt() -> tuple[Any, str]:
            wait_s = (self._deadline or Deadline(self._config.timeout_s)).within(self._config.stall_timeout_s)
            return self._workers.call(lambda: open_files(handle, self._config), wait_s)

        return call_storage(attempt, self.redacted, self._config, self._closing, verb="opened", deadline=self._deadline)


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _stored(info: dict[str, Any]) -> StoredFile:
    """Whatever the file system says of a file; s3, gs, az, hf and memory each have their own words."""
    version = next((str(info[key]) for key in _VERSION_KEYS if info.get(key) is not None), "")
    md5 = info.get("md5Hash")
    with contextlib.suppress(ValueError):
        return StoredFile(int(info["size"]), version, base64.b64decode(md5).hex() if isinstance(md5, str) else "")
    return StoredFile(int(info["size"]), version)
