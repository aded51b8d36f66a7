"""Directories on storage with one interface for tests: an emulator of gs://, a mounted directory, fsspec's memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from tests.support.gcs import FakeGcs


class Place(Protocol):
    """A directory on storage, and what others may do to it behind hubdist's back."""

    url: str

    def put(self, path: str, data: bytes) -> None: ...

    def remove(self, path: str) -> None: ...

    def files(self) -> dict[str, bytes]: ...


class GcsPlace:
    """A folder of a bucket of the emulator."""

    def __init__(self, server: FakeGcs, bucket: str, folder: str) -> None:
        self._server = server
        self._bucket = bucket
        self._folder = folder
        self.url = f"gs://{bucket}/{folder}"

    def put(self, path: str, data: bytes) -> None:
        self._server.put(self._bucket, f"{self._folder}/{path}", data)

    def remove(self, path: str) -> None:
        _gcs().rm_file(f"{self._bucket}/{self._folder}/{path}")

    def files(self) -> dict[str, bytes]:
        root = f"{self._bucket}/{self._folder}/"
        return {name.removeprefix(root): _gcs().cat_file(name) for name in _gcs().find(root)}


class MountedPlace:
    """A directory of the local disk."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.url = str(root)

    def put(self, path: str, data: bytes) -> None:
        (self._root / path).parent.mkdir(parents=True, exist_ok=True)
        (self._root / path).unlink(missing_ok=True)
        (self._root / path).write_bytes(data)

    def remove(self, path: str) -> None:
        (self._root / path).unlink()

    def files(self) -> dict[str, bytes]:
        found = (path for path in self._root.rglob("*") if path.is_file())
        return {path.relative_to(self._root).as_posix(): path.read_bytes() for path in found}


class MemoryPlace:
    """A folder of fsspec's memory."""

    def __init__(self, folder: str) -> None:
        self._folder = f"/{folder}"
        self.url = f"memory:/{self._folder}"

    def put(self, path: str, data: bytes) -> None:
        _memory().pipe_file(f"{self._folder}/{path}", data)

    def remove(self, path: str) -> None:
        _memory().rm_file(f"{self._folder}/{path}")

    def files(self) -> dict[str, bytes]:
        found = _memory().find(self._folder)
        return {name.removeprefix(f"{self._folder}/"): _memory().cat_file(name) for name in found}


def put_all(place: Place, folder: str, files: Mapping[str, bytes]) -> None:
    for path, data in files.items():
        place.put(f"{folder}/{path}" if folder else path, data)


def _gcs() -> Any:
    import gcsfs

    return gcsfs.GCSFileSystem(use_listings_cache=False)  # one instance for each address, kept by fsspec


def _memory() -> Any:
    import fsspec

    return fsspec.filesystem("memory")
