"""Directories and files on object storage, by any fsspec file system that is allowed and installed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Self

import aiohttp
import fsspec
import tenacity
from fsspec.asyn import sync

from hubdist.config import Config
from hubdist.errors import (
    AccessDeniedError,
    HandleError,
    HubdistError,
    ModelNotFoundError,
    OriginError,
    TransferTimeoutError,
)
from hubdist.handle import Handle
from hubdist.source import ByteStream, FileSink, SourceFile, copy_source

_PACKAGES = {
    "gs": "gcsfs",
    "s3": "s3fs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "adl": "adlfs",
    "hf": "huggingface_hub",
    "hdfs": "pyarrow",
    "oci": "ocifs",
    "oss": "ossfs",
}
_VERSION_KEYS = (
    *("generation", "etag", "ETag", "blob_id", "md5Hash", "LastModified", "last_modified"),
    *("updated", "mtime", "modified", "created"),
)
_FIRST_WAIT_S = 0.5
_MAX_WAIT_S = 20.0
_CLOSE_S = 5.0


class ObjectsOrigin:
    """A directory on object storage as a `Source`.

    The listing is taken again after the copy: a file that was replaced or changed meanwhile is an error, never a mix.
    """

    def __init__(self, handle: Handle, config: Config) -> None:
        self._remote = _Remote(handle, config)

    def fetch(self, sink: FileSink) -> None:
        """Write every file of the directory into `sink`."""
        with self._remote:
            before = self._remote.listing()
            copy_source(self, sink)
            if self._remote.listing() != before:
                raise _changed(self._remote.public)

    def entries(self) -> list[SourceFile]:
        """All files below the directory."""
        return [SourceFile(path, size) for path, (size, _) in self._remote.listing().items()]

    def read(self, path: str, start: int, end: int) -> bytes:
        """Bytes `start` (included) to `end` (excluded) of a file."""
        return self._remote.read(f"{self._remote.root}/{path}", start, end)


@contextlib.contextmanager
def open_object(handle: Handle, config: Config) -> Iterator[ByteStream]:
    """One file on object storage as a stream, such as an archive.

    The object is looked at again when the block ends: one that was replaced meanwhile is an error, never a mix.
    """
    with _Remote(handle, config) as remote:
        before = remote.file()
        yield _ObjectStream(remote, before[0])
        if remote.file() != before:
            raise _changed(remote.public)


class _ObjectStream:
    def __init__(self, remote: _Remote, size: int) -> None:
        self._remote = remote
        self._size = size
        self._at = 0
        self._buffer = memoryview(b"")

    def read(self, size: int) -> bytes:
        if len(self._buffer) == 0 and self._at < self._size:
            end = min(self._at + (8 << 20), self._size)
            data = self._remote.read(self._remote.root, self._at, end)
            if len(data) != end - self._at:
                raise OriginError(f"{self._remote.public} ended at byte {self._at + len(data)} of {self._size}")
            self._buffer, self._at = memoryview(data), end
        data, self._buffer = bytes(self._buffer[:size]), self._buffer[size:]
        return data


class _Remote:
    """A path on a file system, with deadlines, retries and errors that say what to do."""

    def __init__(self, handle: Handle, config: Config) -> None:
        self.public = handle.public
        self._config = config
        try:
            # Made where it is used and never shared: gcsfs does not survive a fork.
            self._files: Any = fsspec.filesystem(handle.scheme, skip_instance_cache=True, use_listings_cache=False)
        except ImportError:
            package = _PACKAGES.get(handle.scheme, handle.scheme)
            raise HandleError(
                f"{handle.scheme}:// needs the package {package}, which is not installed where the driver runs",
                advice=f"Run: pip install {package}",
                handle=handle.public,
            ) from None
        except ValueError as error:
            raise HandleError(f"fsspec cannot open {handle.scheme}://: {error}", handle=handle.public) from None
        self.root = str(self._files._strip_protocol(handle.text)).rstrip("/")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections; the file system's own clean-up leaves them to the collector of garbage."""
        session = getattr(self._files, "_session", None)
        if isinstance(session, aiohttp.ClientSession):
            with contextlib.suppress(TimeoutError, fsspec.FSTimeoutError):
                sync(self._files.loop, session.close, timeout=_CLOSE_S)

    def listing(self) -> dict[str, tuple[int, str]]:
        """Path below the root -> size and whatever marks this version of the object."""
        found = self._call("find", self.root, detail=True)
        files = {
            name[len(self.root) :].lstrip("/"): (int(info["size"]), _version(info))
            for name, info in found.items()
            if info.get("type") == "file" and not name.endswith("/") and name != self.root
        }
        if not files:
            raise ModelNotFoundError(f"there is no directory with files at {self.public}")
        return files

    def file(self) -> tuple[int, str]:
        """Size and version of the root, which is one object."""
        info = self._call("info", self.root)
        if info.get("type") != "file":
            raise ModelNotFoundError(f"{self.public} is no file")
        return int(info["size"]), _version(info)

    def read(self, path: str, start: int, end: int) -> bytes:
        return bytes(self._call("cat_file", path, start=start, end=end))

    def _call(self, verb: str, *args: object, **options: object) -> Any:
        attempt: Callable[..., Any] = getattr(self._files, verb)
        if self._files.async_impl:
            call = getattr(self._files, f"_{verb}")

            def attempt(*args: object, **options: object) -> Any:
                return sync(self._files.loop, call, *args, timeout=self._config.stall_timeout_s, **options)

        try:
            return tenacity.Retrying(
                retry=tenacity.retry_if_exception(_may_pass),
                stop=tenacity.stop_after_attempt(self._config.retries + 1)
                | tenacity.stop_after_delay(self._config.timeout_s),
                wait=tenacity.wait_exponential(_FIRST_WAIT_S, _MAX_WAIT_S) + tenacity.wait_random(0, _FIRST_WAIT_S),
                reraise=True,
            )(attempt, *args, **options)
        except FileNotFoundError:
            raise ModelNotFoundError(f"there is nothing at {self.public}") from None
        except (TimeoutError, fsspec.FSTimeoutError) as error:
            raise TransferTimeoutError(
                f"{self.public} gave nothing for {self._config.stall_timeout_s:g} s, {self._config.retries + 1} times"
            ) from error
        except _backend_errors() as error:
            raise _translated(error, self.public) from error


def _backend_errors() -> tuple[type[Exception], ...]:
    """What fsspec's file systems raise: OSError by fsspec's rules, and the own errors of those that do not follow."""
    import gcsfs.retry
    import google.auth.exceptions

    return (
        OSError,
        ValueError,
        RuntimeError,
        aiohttp.ClientError,
        gcsfs.retry.HttpError,
        google.auth.exceptions.GoogleAuthError,
    )


def _changed(public: str) -> OriginError:
    return OriginError(f"{public} changed while it was read", advice="Try again.")


def _version(info: dict[str, Any]) -> str:
    """Whatever the file system says of an object's version; s3, gs, az, hf and memory each have their own words."""
    return next((str(info[key]) for key in _VERSION_KEYS if info.get(key) is not None), "")


def _may_pass(error: BaseException) -> bool:
    """True for what another try may mend; a missing object or a missing right never."""
    if isinstance(error, (FileNotFoundError, HubdistError)) or _is_forbidden(error):
        return False
    status = getattr(error, "code", getattr(error, "status", None))
    if isinstance(status, int) and 400 <= status < 500:
        return status in (408, 429)
    return isinstance(error, (OSError, TimeoutError)) or type(error).__module__.startswith("aiohttp")


def _is_forbidden(error: BaseException) -> bool:
    """A missing right; gcsfs.retry.validate_response tells it by the text of a plain OSError alone."""
    return isinstance(error, PermissionError) or (type(error) is OSError and str(error).startswith("Forbidden"))


def _translated(error: Exception, public: str) -> HubdistError:
    status = getattr(error, "code", getattr(error, "status", None))
    name = type(error).__name__
    if _is_forbidden(error) or status in (401, 403) or "Credential" in name or "Auth" in name:
        return AccessDeniedError(
            f"{public} may not be read ({name})", advice="Give the driver's node credentials for this storage."
        )
    if status in (404, 410):
        return ModelNotFoundError(f"there is nothing at {public}")
    return OriginError(f"{public} cannot be read: {name}")
