"""Calls to an fsspec file system, asynchronous or not: each with deadlines, retries and translated errors."""

from __future__ import annotations

import base64
import contextlib
import inspect
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
from fsspec.asyn import sync

from hubdist.errors import AccessDeniedError, HubdistError, LengthMismatchError, ModelNotFoundError
from hubdist.model.handle import Handle
from hubdist.remote.fsspec_files import open_files
from hubdist.remote.identity import identity_of_files
from hubdist.remote.retry import call_storage
from hubdist.remote.tree import StoredFile
from hubdist.system.deadline import Deadline, Deadlines
from hubdist.system.foreign import call_foreign
from hubdist.system.threads import Workers

PART_BYTES = 8 << 20
"""Bytes of one part of an upload, and of one request of a stream."""

_VERSION_KEYS = (
    *("generation", "etag", "ETag", "blob_id", "md5Hash", "LastModified", "last_modified"),
    *("updated", "mtime", "modified", "created"),
)
_CLOSE_S = 5.0


class FsspecClient:
    """The file system that a handle names, for one tree. Safe for several threads.

    Args:
        handle: A TREE or ARCHIVE handle.
        deadlines: Timeouts and retries of each call.
        deadline: When the task must be done that the client is for; None gives each call `total_s`.
        closing: When this is set, nothing is tried again.

    Attributes:
        files: The fsspec file system.
        root: The handle's path in the file system, without a slash at its end.
        anonymous: No credentials are sent, because this node has none; None where this is not known: for all but gs://.

    Raises:
        HandleError: The package for the scheme is not installed here, or its settings do not fit the handle.
        AccessDeniedError: There are no credentials.
        OriginError, TransferTimeoutError: The file system cannot be opened, or not in time.
    """

    def __init__(
        self, handle: Handle, deadlines: Deadlines, deadline: Deadline | None, closing: threading.Event
    ) -> None:
        self._redacted = handle.redacted
        self._scheme = handle.scheme
        self._deadlines = deadlines
        self._deadline = deadline
        self._closing = closing
        self._workers = Workers(f"hubdist-{handle.scheme}")
        self._has_folders = handle.scheme == "hdfs"
        # Where a range begins at 0, fsspec opens a stream of pyarrow's that cannot seek, and then seeks.
        self._range_options: dict[str, Any] = {"seekable": True} if handle.scheme == "hdfs" else {}
        try:
            self.files, root = self._open(handle)
        except BaseException:
            self._workers.close()
            raise
        self.root = root.rstrip("/")
        self.anonymous: bool | None = None
        if handle.scheme == "gs":
            self.anonymous = getattr(self.files.credentials, "credentials", None) is None

    def find_identity(self) -> str:
        """Who this process is to the storage, in words without secrets."""
        return identity_of_files(self._scheme, self.files)

    def close(self) -> None:
        """Close the connections; the file system itself would leave them to the garbage collector."""
        self._workers.close()
        session = getattr(self.files, "_session", None)
        if isinstance(session, aiohttp.ClientSession):
            with contextlib.suppress(HubdistError):  # everything was read or written by now
                call_foreign(lambda: sync(self.files.loop, session.close, timeout=_CLOSE_S), self._redacted, "closed")

    def call(
        self,
        redacted: str,
        method: str,
        *args: object,
        verb: str = "read",
        try_s: float | None = None,
        **options: object,
    ) -> Any:
        """Call a method of the file system.

        Args:
            redacted: The URL that the call is about, without secrets, for errors.
            method: The method's name.
            *args: The method's arguments.
            verb: What is being done, as a participle, for errors.
            try_s: Longest time in seconds for one try; None is `stall_s`.
            **options: The method's keyword arguments.

        Returns:
            What the method returned.

        Raises:
            FileExistsError: As the method raised it.
            ResolveError, TransferError: The translation of any other error.
        """
        function = self._function(method)
        deadline = self._deadline or Deadline(self._deadlines.total_s)
        longest_s = self._deadlines.stall_s if try_s is None else try_s

        def attempt() -> Any:
            wait_s = deadline.within(longest_s)
            if self.files.async_impl:
                return sync(self.files.loop, function, *args, timeout=wait_s, **options)
            return self._workers.call(lambda: function(*args, **options), wait_s)

        return call_storage(
            attempt,
            redacted,
            self._deadlines,
            self._closing,
            verb=verb,
            deadline=deadline,
            anonymous=self.anonymous,
        )

    def fetch(self, redacted: str, name: str, start: int, end: int, version: str = "") -> bytes:
        """Read a range; short where the file ends.

        Args:
            redacted: The file's URL without secrets, for errors.
            name: The file's name in the file system.
            start: Offset of the first byte.
            end: Offset behind the last byte.
            version: The generation to read on gs://; other file systems have no such option and read any.

        Raises:
            ResolveError, TransferError: The file cannot be read.
        """
        options = dict(self._range_options)
        if version and "gs" in self.files.protocol:
            options["generation"] = version
        return bytes(self.call(redacted, "cat_file", name, start=start, end=end, **options))

    def load(self, redacted: str, name: str, max_bytes: int) -> bytes:
        """Read a whole file into memory.

        Args:
            redacted: The file's URL without secrets, for errors.
            name: The file's name in the file system.
            max_bytes: Most bytes that the file may have.

        Raises:
            ModelNotFoundError: Nothing is there.
            LengthMismatchError: The file has more than `max_bytes`.
        """
        if int(self.call(redacted, "info", name)["size"]) > max_bytes:
            raise LengthMismatchError(f"{redacted} has more than {max_bytes} bytes")
        return bytes(self.call(redacted, "cat_file", name))

    def put(self, redacted: str, name: str, body: bytes | Path, *, create: bool) -> None:
        """Write a file.

        Args:
            redacted: The file's URL without secrets, for errors.
            name: The file's name in the file system.
            body: The content, or a local file with it.
            create: Write only if nothing is there yet; this is one step only where the file system has such a mode.

        Raises:
            FileExistsError: Something is there and `create` is set.
            ResolveError, TransferError: The file cannot be written.
        """
        method = "pipe_file" if isinstance(body, bytes) else "put_file"
        known = inspect.signature(self._function(method)).parameters
        options: dict[str, Any] = {"mode": "create"} if create and "mode" in known else {}
        if create and not options and self.call(redacted, "exists", name):
            raise FileExistsError(name)
        if self._has_folders:
            self.call(redacted, "makedirs", name.rpartition("/")[0], verb="written", exist_ok=True)
        if isinstance(body, bytes):
            self.call(redacted, method, name, body, verb="written", **options)
            return
        if "chunksize" in known:
            options["chunksize"] = PART_BYTES
        self.call(redacted, method, str(body), name, verb="written", try_s=self._deadlines.total_s, **options)

    def delete(self, redacted: str, name: str, version: str = "") -> None:
        """Delete a file; one that is missing, or has another version on gs://, is not an error.

        Args:
            redacted: The file's URL without secrets, for errors.
            name: The file's name in the file system.
            version: The generation to delete on gs://; other file systems have no such option and delete any.

        Raises:
            ResolveError, TransferError: The file cannot be deleted.
        """
        with contextlib.suppress(ModelNotFoundError, FileExistsError):  # gcsfs says the latter of another generation
            if version and "gs" in self.files.protocol:
                bucket, _, key = name.lstrip("/").partition("/")
                place = ("DELETE", "b/{}/o/{}", bucket, key)
                self.call(redacted, "call", *place, verb="deleted", ifGenerationMatch=version)
            else:
                self.call(redacted, "rm_file", name, verb="deleted")

    def _function(self, name: str) -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(self.files, f"_{name}" if self.files.async_impl else name)
        return found

    def _open(self, handle: Handle) -> tuple[Any, str]:
        deadlines = self._deadlines

        def attempt() -> tuple[Any, str]:
            wait_s = (self._deadline or Deadline(deadlines.total_s)).within(deadlines.stall_s)
            return self._workers.call(lambda: open_files(handle, deadlines), wait_s)

        try:
            return call_storage(
                attempt, self._redacted, deadlines, self._closing, verb="opened", deadline=self._deadline
            )
        except AccessDeniedError as error:
            if handle.scheme != "gs":
                raise
            from hubdist.remote.gcs_files import login_words

            raise error.asked(login_words()) from None


def stored_file(info: dict[str, Any]) -> StoredFile:
    """The file that an entry of a listing describes; s3, gs, az, hf and memory each use their own keys."""
    version = next((str(info[key]) for key in _VERSION_KEYS if info.get(key) is not None), "")
    md5 = info.get("md5Hash")
    with contextlib.suppress(ValueError):
        return StoredFile(int(info["size"]), version, base64.b64decode(md5).hex() if isinstance(md5, str) else "")
    return StoredFile(int(info["size"]), version)
