"""Read modes that leave the node's store out: into memory, or in place."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from hubdist.config.schema import Config
from hubdist.delivery.routes import Route
from hubdist.errors import ConfigError, HubdistError, IntegrityError, OriginError
from hubdist.loading import InPlaceModel, RamModel, check_in_place, copy_to_memory
from hubdist.model.chunks import Chunk, cut_chunks
from hubdist.model.manifest import Digest, Manifest
from hubdist.model.redact import redact_url
from hubdist.remote.copy_reader import copy_remote
from hubdist.remote.snapshot_copy import FALLBACK_ERRORS, RemoteCopy, check_copy, probe
from hubdist.resolver.values import ReadSources
from hubdist.store.snapshot import Snapshot
from hubdist.system.log_once import LogOnce

_LOG = logging.getLogger(__name__)
_CHUNK_BYTES = 4 << 20
"""Size of the chunks that a process asks the driver's node for, one after another, each as the answer of a call."""
_T = TypeVar("_T")


class Reader:
    """Reads models for one process, into memory or in place. Safe for several threads.

    Args:
        config: The settings of this process.
        fetch: Returns the bytes of one chunk of a model, from the driver's node.
        sees_drivers_disk: Tells whether a path of the driver is the same path in this process.
    """

    def __init__(
        self, config: Config, fetch: Callable[[Manifest, Chunk], Any], sees_drivers_disk: Callable[[], bool]
    ) -> None:
        self._config = config
        self._fetch = fetch
        self._sees_drivers_disk = sees_drivers_disk
        self._once = LogOnce(_LOG)
        self._digested: dict[str, tuple[Digest, RemoteCopy]] = {}
        """Paths of the driver -> what this process has read there itself."""

    def to_memory(self, sources: ReadSources, own: Snapshot | None) -> RamModel:
        """Read a model into TensorFlow's memory.

        Args:
            sources: Where the model can be read.
            own: The snapshot, if the node's store has it.

        Raises:
            HubdistError: Why the driver's node, which is asked last, could not send the model.
        """
        if own is not None:
            return self._fill(sources.manifest, functools.partial(copy_to_memory, own))
        for route, copy in sources.candidates:
            if copy is None:
                continue
            try:
                return self._fill(sources.manifest, functools.partial(self._copy, sources.manifest, copy))
            except FALLBACK_ERRORS as error:
                self._log_once(route, copy, error)
        return self._fill(sources.manifest, lambda model: self._fetch_all(sources.manifest, model))

    def in_place(self, sources: ReadSources, open_place: Callable[[InPlaceModel], _T]) -> _T | None:
        """Let TensorFlow open a model where it lies, in the best directory that can be read.

        TensorFlow does not check what it reads. So the files must be the model before TensorFlow opens them, and the
        same files afterwards.

        Args:
            sources: Where the model can be read.
            open_place: Opens the model in one directory.

        Returns:
            What `open_place` returned; None if no directory could be read, or is known to hold the model.

        Raises:
            ConfigError: No directory has this model, or TensorFlow can open none of them.
        """
        copies = [(route, copy) for route, copy in sources.candidates if copy is not None]
        if not copies:
            raise ConfigError(
                "read_mode: in_place needs a place that nodes and TensorFlow can read, and this model has none",
                advice="Set shared_cache to a gs:// or mounted directory, or use read_mode: store or memory.",
            )
        unopenable = []
        for route, copy in copies:
            try:
                check_in_place(copy.url)
            except ConfigError as error:
                unopenable.append(error)
                continue
            try:
                self._check_place(route, copy, sources.manifest)
                opened = open_place(InPlaceModel(copy.url, sources.manifest))
                check_copy(copy, self._config.deadlines, max_bytes=self._config.max_store_bytes)
            except FALLBACK_ERRORS as error:
                self._log_once(route, copy, error)
            else:
                return opened
        if len(unopenable) == len(copies):
            raise unopenable[0]
        return None

    def _check_place(self, route: Route, copy: RemoteCopy, manifest: Manifest) -> None:
        """Check that the files in a directory are the model.

        A path of the driver may be another directory on this node, with equal names, sizes and times. So this process
        reads and digests what lies there, once.

        Raises:
            IntegrityError: The files are not the model, or nobody knows.
            HubdistError: The directory cannot be read.
        """
        if not copy.digested:
            raise IntegrityError(
                "it is not known to hold this model: it has changed since it was read, or was not read for it",
                advice="hubdist.refresh(handle) takes what is there now, unless other bytes are pinned.",
            )
        self._probe(copy)
        check_copy(copy, self._config.deadlines, max_bytes=self._config.max_store_bytes)
        _check_unpacked(copy)
        if route is not Route.DIRECT or "://" in copy.url or self._sees_drivers_disk():
            return
        if self._digested.get(copy.url) != (manifest.digest, copy):
            self._copy_in_order(copy, manifest, _WholeFiles(manifest, _drop))
            self._digested[copy.url] = manifest.digest, copy

    def _fill(self, manifest: Manifest, read: Callable[[RamModel], None]) -> RamModel:
        model = RamModel(manifest)
        try:
            read(model)
            model.finish()
        except BaseException:
            model.release()
            raise
        return model

    def _copy(self, manifest: Manifest, copy: RemoteCopy, model: RamModel) -> None:
        self._probe(copy)
        write = model.write_chunk if manifest.blocks_proven else _WholeFiles(manifest, model.write_chunk)
        self._copy_in_order(copy, manifest, write)

    def _probe(self, copy: RemoteCopy) -> None:
        config = self._config
        probe(copy.url, config.deadlines, timeout_s=config.probe_timeout_s, max_bytes=config.max_store_bytes)

    def _copy_in_order(self, copy: RemoteCopy, manifest: Manifest, write: Callable[[Chunk, memoryview], None]) -> None:
        copy_remote(
            copy,
            manifest,
            write,
            self._config.deadlines,
            in_flight_bytes=self._config.max_in_flight_bytes,
            max_bytes=self._config.max_store_bytes,
            ordered=True,
        )

    def _fetch_all(self, manifest: Manifest, model: RamModel) -> None:
        for chunk in cut_chunks(manifest, _CHUNK_BYTES):
            model.write_chunk(chunk, memoryview(self._fetch(manifest, chunk)))

    def _log_once(self, route: Route, copy: RemoteCopy, error: HubdistError) -> None:
        text = f"{route} {redact_url(copy.url)}"
        self._once.log(text, "hubdist: not %s: %s", text, error)


def _drop(chunk: Chunk, data: memoryview) -> None:
    """Drop a chunk that was only read to be digested."""


def _check_unpacked(copy: RemoteCopy) -> None:
    """Check that TensorFlow reads the files as they are.

    Source: tensorflow 2.21.0, `gcs_file_system.cc`, which takes the size of an object's compressed bytes for the
    file's; run against a server: 1,887 of 100,000 bytes came.

    Raises:
        OriginError: One is stored with `Content-Encoding: gzip`.
    """
    packed = sorted(path for path, file in copy.files.items() if file.packed)
    if packed:
        raise OriginError(
            f"{packed[0]} is stored with Content-Encoding: gzip, and TensorFlow would read it cut short",
            advice="Store it plainly, or use read_mode: store or memory.",
        )


class _WholeFiles:
    """Hands chunks on in order, and compares whole files with their digests on the way.

    A copy of which only whole files were digested has no digests of blocks that could be trusted.
    """

    def __init__(self, manifest: Manifest, write: Callable[[Chunk, memoryview], None]) -> None:
        self._manifest = manifest
        self._write = write
        self._digest = hashlib.sha256()

    def __call__(self, chunk: Chunk, data: memoryview) -> None:
        self._write(chunk, data)
        for part in chunk.parts(data):
            entry = self._manifest.entries[part.piece.entry_index]
            self._digest.update(part.data)
            if part.piece.end == entry.size:
                found, self._digest = Digest(self._digest.hexdigest()), hashlib.sha256()
                entry.check_whole(found)
