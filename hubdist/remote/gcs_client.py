"""A client for objects on gs:// that reads ranges straight into the caller's memory and uploads straight from disk.

gcsfs collects a body in many small buffers on one event loop and joins them, which costs more processor time than
everything else that a copy does. Here each thread has a connection of its own, and the kernel writes into the
caller's buffer. Address and credentials come from gcsfs.

Source: https://cloud.google.com/storage/docs/json_api/v1/objects, `get` (`alt=media`, `generation`, `Range`) and
`insert` (`uploadType=multipart`, `ifGenerationMatch`).
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import itertools
import json
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from hubdist.errors import HubdistError, IntegrityError, LengthMismatchError, OriginError
from hubdist.remote.http_pool import HttpPool
from hubdist.remote.retry import StorageAnswer
from hubdist.system.deadline import Deadlines

_READ_BYTES = 1 << 20
_BOUNDARY = secrets.token_hex(20)
"""Separates the parts of an upload; random, so that no model's bytes can contain it on purpose."""


class MaybeGzippedError(StorageAnswer):
    """An object did not come as asked for, which happens if its metadata has a Content-Encoding.

    Args:
        error: The error to raise if the metadata turn out to have none.
    """

    def __init__(self, error: HubdistError) -> None:
        super().__init__(error.what)
        self.error = error


class GcsClient:
    """Reads and writes objects through a pool of connections, one try each; safe for several threads.

    Args:
        files: A `gcsfs.GCSFileSystem`, which gives address and credentials.
        deadlines: Longest times to connect and without a byte.
    """

    def __init__(self, files: Any, deadlines: Deadlines) -> None:
        self._files = files
        self._pool = HttpPool(deadlines)

    def read_into(self, path: str, start: int, view: memoryview, version: str, redacted: str) -> None:
        """Fill a buffer with an object's bytes from `start` on; one try.

        Args:
            path: The object's path in gcsfs.
            start: Offset of the first byte.
            view: Where the bytes go.
            version: The generation to read, or "" for any.
            redacted: The object's URL without secrets, for errors.

        Raises:
            IntegrityError: The version is gone, or another one came.
            LengthMismatchError: The object ends before the view is full.
            MaybeGzippedError: The object may be stored compressed.
            OSError, http.client.HTTPException: The try failed.
        """
        with self.open_range(path, start, start + len(view), version, redacted) as fill:
            fill(view)

    @contextlib.contextmanager
    def open_range(
        self, path: str, start: int, end: int, version: str, redacted: str, *, stored: bool = False
    ) -> Iterator[Callable[[memoryview], None]]:
        """Ask for a range; one try.

        Args:
            path: The object's path in gcsfs.
            start: Offset of the first byte.
            end: Offset behind the last byte.
            version: The generation to read, or "" for any.
            redacted: The object's URL without secrets, for errors.
            stored: Ask for the stored bytes, even if they are compressed.

        Yields:
            A function that fills a buffer with the next bytes of the range.

        Raises:
            IntegrityError: The version is gone, or another one came.
            LengthMismatchError: The object ends before `end`.
            MaybeGzippedError: The object may be stored compressed; never if `stored`.
            OSError, http.client.HTTPException: The try failed.
        """
        headers = {"Range": f"bytes={start}-{end - 1}"} | ({"Accept-Encoding": "gzip"} if stored else {})
        with self._get(path, version, headers) as response:
            if response.status == 404 and version:
                raise IntegrityError(f"{redacted} was replaced or deleted: its generation {version} is gone")
            if response.status == 416:
                shorter = LengthMismatchError(f"{redacted} ends before byte {start + 1}")
                raise shorter if stored else MaybeGzippedError(shorter)
            if not stored and (response.status == 200 or (response.status == 206 and _names_encoding(response))):
                raise MaybeGzippedError(OriginError(f"{redacted} came as a whole where a range was asked for"))
            if response.status != 206:
                raise _answer_error(response, redacted)
            came = response.headers.get("X-Goog-Generation", version)
            if version and came != version:
                raise IntegrityError(f"{redacted} was replaced: its generation is {came} instead of {version}")
            _check_range(response, start, end, redacted)
            yield functools.partial(_fill, response)

    def load(self, path: str, max_bytes: int, redacted: str) -> bytes:
        """A whole object; one try.

        Args:
            path: The object's path in gcsfs.
            max_bytes: Most bytes that the object may have.
            redacted: The object's URL without secrets, for errors.

        Raises:
            FileNotFoundError: Nothing is there.
            LengthMismatchError: The object is longer than `max_bytes`.
            MaybeGzippedError: The object is stored compressed.
            OSError, http.client.HTTPException: The try failed.
        """
        with self._get(path, "", {}) as response:
            if response.status != 200:
                raise _answer_error(response, redacted)
            if _names_encoding(response):
                raise MaybeGzippedError(OriginError(f"{redacted} came encoded"))
            promised = response.length
            data = response.read(max_bytes + 1)
        if promised is not None and len(data) < min(promised, max_bytes + 1):
            raise http.client.IncompleteRead(data, promised - len(data))
        if len(data) > max_bytes:
            raise LengthMismatchError(f"{redacted} has more than {max_bytes} bytes")
        return data

    def address(self, path: str) -> str:
        """The object's address, as a key for tables."""
        return str(self._files.url(path))

    def close(self) -> None:
        """Close all connections, also those that other threads wait at."""
        self._pool.close()

    def put(self, path: str, body: bytes | Path, redacted: str, *, create: bool) -> None:
        """Write an object, all of it or nothing; one try.

        Args:
            path: The object's path in gcsfs.
            body: The content, or a local file with it.
            redacted: The object's URL without secrets, for errors.
            create: Write only if nothing is there yet.

        Raises:
            FileExistsError: Something is there and `create` is set.
            OSError, http.client.HTTPException: The try failed.
        """
        bucket, name, _ = self._files.split_path(path)
        url = f"{self._files._location}/upload/storage/v1/b/{quote(bucket, safe='')}/o"
        parameters = {"uploadType": "multipart"} | ({"ifGenerationMatch": "0"} if create else {})
        size = len(body) if isinstance(body, bytes) else body.stat().st_size
        head, tail = _multipart(name)
        headers = {
            "Content-Type": f"multipart/related; boundary={_BOUNDARY}",
            "Content-Length": str(len(head) + size + len(tail)),
        }
        with contextlib.ExitStack() as stack:
            data = stack.enter_context(io.BytesIO(body) if isinstance(body, bytes) else body.open("rb"))
            parts = itertools.chain([head], iter(functools.partial(data.read, _READ_BYTES), b""), [tail])
            response = stack.enter_context(self._exchange("POST", url, parameters, headers, parts))
            if response.status != 200:
                raise _answer_error(response, redacted)
            response.read(_READ_BYTES)

    def _get(
        self, path: str, version: str, headers: dict[str, str]
    ) -> contextlib.AbstractContextManager[http.client.HTTPResponse]:
        parameters = {"generation": version} if version else {}
        return self._exchange("GET", self._files.url(path), parameters, headers, None)

    def _exchange(
        self,
        method: str,
        url: str,
        parameters: dict[str, str],
        headers: dict[str, str],
        body: Iterable[bytes] | None,
    ) -> contextlib.AbstractContextManager[http.client.HTTPResponse]:
        parameters = self._files._get_params(parameters)
        if parameters:
            url += ("&" if "?" in url else "?") + urlencode(parameters)
        return self._pool.exchange(method, url, self._files._get_headers(headers), body)


class RangeStream:
    """A range of an object that is read with one request. After a failure, the next call asks for the rest.

    Args:
        client: Reads the object.
        path: The object's path in gcsfs.
        end: Offset behind the last byte of the range.
        version: The generation to read, or "" for any.
        redacted: The object's URL without secrets, for errors.
        stored: Read the stored bytes, even if they are compressed.
    """

    def __init__(
        self, client: GcsClient, path: str, end: int, version: str, redacted: str, *, stored: bool = False
    ) -> None:
        self._open = functools.partial(
            client.open_range, path, end=end, version=version, redacted=redacted, stored=stored
        )
        self._request = contextlib.ExitStack()
        self._fill: Callable[[memoryview], None] | None = None

    def fill(self, at: int, view: memoryview) -> None:
        """Fill a buffer with the next bytes; one try.

        Args:
            at: Offset of the first byte, where the last filled buffer ended.
            view: Where the bytes go.

        Raises:
            IntegrityError: The version is gone, or another one came.
            LengthMismatchError: The object ends before the end of the range.
            MaybeGzippedError: The object may be stored compressed; never if `stored`.
            OSError, http.client.HTTPException: The try failed.
        """
        try:
            if self._fill is None:
                self._fill = self._request.enter_context(self._open(start=at))
            self._fill(view)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the request."""
        self._fill = None
        self._request.close()


def _answer_error(response: http.client.HTTPResponse, path: str) -> Exception:
    """The error that gcsfs raises for an answer of Google's storage, with the answer's headers."""
    import gcsfs.retry
    import google.auth.exceptions

    status, body = response.status, response.read(_READ_BYTES)
    failure: Exception = OSError(f"unexpected status {status}")
    raised = (OSError, ValueError, RuntimeError, gcsfs.retry.HttpError, google.auth.exceptions.GoogleAuthError)
    try:
        gcsfs.retry.validate_response(status, body, path)
    except raised as error:
        failure = error
    vars(failure)["headers"] = dict(response.headers)
    return failure


def _names_encoding(response: http.client.HTTPResponse) -> bool:
    """True if the answer names an encoding: its own, or that of the stored bytes which the server has decoded."""
    names = (response.headers.get(name, "") for name in ("Content-Encoding", "X-Goog-Stored-Content-Encoding"))
    return any(name.strip().lower() not in ("", "identity") for name in names)


def _fill(response: http.client.HTTPResponse, view: memoryview) -> None:
    filled = 0
    while filled < len(view):
        count = response.readinto(view[filled : filled + _READ_BYTES])
        if not count:
            raise http.client.IncompleteRead(b"", len(view) - filled)
        filled += count


def _multipart(name: str) -> tuple[bytes, bytes]:
    """The bytes before and after the content of an object that is uploaded together with its name."""
    head = (
        f"--{_BOUNDARY}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{json.dumps({'name': name})}\r\n"
        f"--{_BOUNDARY}\r\nContent-Type: application/octet-stream\r\n\r\n"
    )
    return head.encode(), f"\r\n--{_BOUNDARY}--\r\n".encode()


def _check_range(response: http.client.HTTPResponse, start: int, end: int, redacted: str) -> None:
    claimed = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(?:\d+|\*)", claimed)
    if match is None or int(match[1]) != start or int(match[2]) >= end:
        raise OSError(f"bytes {start}-{end - 1} were asked for, {claimed!r} came")
    if int(match[2]) != end - 1:
        raise LengthMismatchError(f"{redacted} ends at byte {int(match[2]) + 1}, before byte {end}")
