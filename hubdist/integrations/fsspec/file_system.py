"""The file system `hubdist` of fsspec: models by handle, read-only, in ranges, from any process of a job."""

from __future__ import annotations

import errno
import weakref
from collections.abc import Mapping
from typing import Any, NoReturn

from fsspec import AbstractFileSystem
from fsspec.spec import AbstractBufferedFile

from hubdist.client.ranges import ModelRanges, RangeReaders, shared_readers
from hubdist.integrations.fsspec.listing import ManifestListing
from hubdist.integrations.fsspec.urls import PROTOCOL, join_path, split_path
from hubdist.model.manifest import BLOCK_BYTES
from hubdist.model.redact import redact_url

_CACHE_BYTES = 64 << 20


class ModelFile(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    """One file of a model, open for reading. It stays what it is, also if the handle is refreshed meanwhile.

    Args:
        fs: The file system.
        path: The file's path in it.
        ranges: Reads the model.
        inner: The file's path in the model.
        **options: Of `AbstractBufferedFile`.
    """

    def __init__(self, fs: HubdistFileSystem, path: str, *, ranges: ModelRanges, inner: str, **options: Any) -> None:
        self._ranges = ranges
        self._inner = inner
        super().__init__(fs, path, "rb", **options)

    def _fetch_range(self, start: int, end: int) -> bytes:
        return self._ranges.read(self._inner, start, end)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.fs, self.path, self.blocksize, self.loc)


def _reopen(fs: HubdistFileSystem, path: str, block_size: int, at: int) -> Any:
    """What a pickle of an open file gives: the file, opened in the process that reads the pickle."""
    file = fs.open(path, "rb", block_size=block_size)
    file.seek(at)
    return file


class HubdistFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Files of models, by `hubdist://<handle>!/<path>`; see `hubdist.integrations.fsspec.urls`.

    Every block is checked against the model's manifest, and the last ones are kept in memory.

    Args:
        cache_bytes: Most bytes of blocks that this process keeps in memory, for all of its file systems that are made
            with the same number; at least a few MiB, or blocks are read again for each small read.
        fo: Given by fsspec for a handle that holds `::` and is written plainly: what stands behind it.
        target_protocol: Given by fsspec with `fo`: its scheme.
        target_options: Given by fsspec with `fo`: what fsspec would open it with; not used, hubdist reads it.
        **options: Of `AbstractFileSystem`.
    """

    protocol = PROTOCOL
    root_marker = ""

    def __init__(
        self,
        *,
        cache_bytes: int = _CACHE_BYTES,
        fo: str | None = None,
        target_protocol: str | None = None,
        target_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._cache_bytes = cache_bytes
        self._listings: weakref.WeakKeyDictionary[ModelRanges, ManifestListing] = weakref.WeakKeyDictionary()
        self._behind = _with_scheme(fo, target_protocol, target_options)

    @property
    def received_bytes(self) -> int:
        """Bytes of blocks that have come to this process from elsewhere than its node's store."""
        return self._readers.received_bytes

    @property
    def _readers(self) -> RangeReaders:
        # Not a field: fsspec makes a file system for each thread, and a forked child keeps those of its parent.
        return shared_readers(self._cache_bytes)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in path]
        return join_path(*split_path(str(path)))

    @classmethod
    def _parent(cls, path: str) -> str:
        handle, inner = split_path(path)
        return join_path(handle, inner.rpartition("/")[0])

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Name, size in bytes and type of a file or directory, and of a file its digest. Reads no file.

        Args:
            path: The path, or its URL.
            **_: Of fsspec; nothing is known.

        Raises:
            FileNotFoundError: The model has nothing there, or there is no such model.
            HubdistError: As for `hubdist.load`.
        """
        handle, inner = self._split(path)
        return _renamed(handle, self._known(handle, inner, self._list(self._readers.open(handle))))

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """What is in a directory of a model; of a file, the file itself. Reads no file.

        Args:
            path: The path, or its URL.
            detail: False gives names alone.
            **_: Of fsspec; nothing is known.

        Raises:
            FileNotFoundError: The model has nothing there, or there is no such model.
            HubdistError: As for `hubdist.load`.
        """
        handle, inner = self._split(path)
        listing = self._list(self._readers.open(handle))
        self._known(handle, inner, listing)
        infos = [_renamed(handle, info) for info in listing.ls(inner)]
        return infos if detail else [info["name"] for info in infos]

    def exists(self, path: str, **_: Any) -> bool:
        """True if the model has a file or directory there; False also if there is no such model.

        Args:
            path: The path, or its URL.
            **_: Of fsspec; nothing is known.

        Raises:
            HubdistError: Nobody can tell: an origin is not reached, or refuses.
        """
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def glob(self, path: str, maxdepth: int | None = None, **options: Any) -> Any:
        """Files and directories whose path in the model fits a pattern; a handle is never a pattern.

        Args:
            path: A path or URL; behind `!/` it may hold `*`, `**`, `?` and `[...]`.
            maxdepth: How deep `**` goes; None: all the way.
            **options: Of fsspec's `glob`.
        """
        detail = options.pop("detail", False)
        handle, inner = self._split(path)
        pattern = f"{inner}/" if inner and path.endswith("/") else inner
        listing = self._list(self._readers.open(handle))
        found = listing.glob(pattern, maxdepth=maxdepth, detail=True, **options)
        infos = {join_path(handle, name.rstrip("/")): _renamed(handle, info) for name, info in found.items()}
        return infos if detail else list(infos)

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,  # noqa: ARG002 - of fsspec
        cache_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> ModelFile:
        if mode != "rb":
            self._refuse(path)
        handle, inner = self._split(path)
        ranges = self._readers.open(handle)
        info = self._known(handle, inner, self._list(ranges))
        if info["type"] == "directory":
            raise IsADirectoryError(errno.EISDIR, "a directory of a model cannot be opened", _shown(handle, inner))
        options.setdefault("cache_type", "none")  # the blocks are kept already
        return ModelFile(
            self,
            join_path(handle, inner),
            ranges=ranges,
            inner=inner,
            size=info["size"],
            block_size=block_size or BLOCK_BYTES,
            cache_options=cache_options,
            **options,
        )

    def _refuse(self, path: Any, *_: Any, **__: Any) -> NoReturn:
        """Refuse what would change a model."""
        shown = _shown(*self._split(str(path)))
        raise OSError(errno.EROFS, "models are read-only: publish a new version at the origin", shown)

    # What fsspec's own methods for writing come down to.
    mkdir = makedirs = rmdir = rm = rm_file = _rm = touch = pipe_file = cp_file = _refuse

    def put_file(self, lpath: str, rpath: str, **_: Any) -> NoReturn:
        """Refuse to write.

        Args:
            lpath: The local file.
            rpath: Where it would go.
            **_: Of fsspec.

        Raises:
            OSError: Always, with `errno.EROFS`.
        """
        del lpath
        self._refuse(rpath)

    def _split(self, path: str) -> tuple[str, str]:
        """Handle and path in the model; the part behind `::` that fsspec has taken off is put back."""
        handle, inner = split_path(path)
        if self._behind is not None and "::" not in handle:
            return split_path(f"{join_path(handle)}:{self._behind}")
        return handle, inner

    def _list(self, ranges: ModelRanges) -> ManifestListing:
        listing = self._listings.get(ranges)
        if listing is None:
            listing = self._listings[ranges] = ManifestListing(ranges.manifest)
        return listing

    def _known(self, handle: str, inner: str, listing: ManifestListing) -> dict[str, Any]:
        try:
            return listing.info(inner)
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, "the model has no such file", _shown(handle, inner)) from None


def _renamed(handle: str, info: Mapping[str, Any]) -> dict[str, Any]:
    return {**info, "name": join_path(handle, info["name"])}


def _shown(handle: str, inner: str) -> str:
    return f"{PROTOCOL}://{join_path(redact_url(handle), inner)}"


def _with_scheme(fo: str | None, scheme: str | None, options: Mapping[str, Any] | None) -> str | None:
    """What stood behind a `::` of a handle, as the user wrote it, and behind the next one.

    fsspec strips the scheme of some URLs, and hands over the parts behind further `::` as options.
    """
    if fo is None:
        return None
    text = fo if scheme in (None, "file", "local") or "://" in fo else f"{scheme}://{fo}"
    further = dict(options or {})
    behind = _with_scheme(further.get("fo"), further.get("target_protocol"), further.get("target_options"))
    return text if behind is None else f"{text}::{behind}"
