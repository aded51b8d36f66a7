"""Kaggle models, through the optional package kagglehub.

kagglehub writes to its final path without a lock, so two downloads at once can leave a wrong file. It downloads into
a private directory here, and what it left is digested like any other origin.

It also waits for ever where a server is silent. So it runs in a thread of its own that is watched from outside.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import os
import shutil
import tarfile
from pathlib import Path

from hubdist.config.schema import Config
from hubdist.errors import (
    AccessDeniedError,
    ConfigError,
    HandleError,
    HubdistError,
    IntegrityError,
    ModelNotFoundError,
    OriginError,
    TransferTimeoutError,
)
from hubdist.model.handle import Handle, parse_handle
from hubdist.model.source import FileSink
from hubdist.origins.archive_origin import ArchiveOrigin
from hubdist.origins.base import Origin
from hubdist.origins.local import LocalOrigin
from hubdist.system.deadline import Deadline
from hubdist.system.disk import disk_errors
from hubdist.system.disk_space import Scratch
from hubdist.system.foreign import Fault, fault_of, own_error
from hubdist.system.threads import leave_behind, start_thread

_LOOK_S = 0.2
"""How often to look at what has arrived."""

_MARKERS = ".complete"
"""Source: kagglehub 1.0.2, cache.py: the directory where it notes, beside the model's files, what is complete."""


class KaggleOrigin(Origin):
    """A model of kaggle.com.

    Args:
        handle: Of kind KAGGLE.
        config: Deadlines.
        scratch: A private directory for the download, which counts its bytes.
        deadline: When all of it must have been read.

    Raises:
        HandleError: kagglehub is not installed.
        ConfigError: It cannot work here, for this user has no home.
    """

    def __init__(self, handle: Handle, config: Config, scratch: Scratch, deadline: Deadline) -> None:
        super().__init__(handle.redacted, deadline)
        self._handle = handle
        self._config = config
        self._scratch = scratch
        self._folder = scratch.path / "kaggle"
        try:
            import kagglehub
        except ImportError:
            raise HandleError(
                "Kaggle models need the package kagglehub, which is not installed where the driver runs",
                advice="Run: pip install 'hubdist[kaggle]'",
                handle=handle.redacted,
            ) from None
        except RuntimeError as error:  # of pathlib: kagglehub looks for its settings in the home when it is imported
            raise ConfigError(
                f"kagglehub cannot be imported where the driver runs ({type(error).__name__})",
                advice="Set HOME to a directory that this user may write to.",
                handle=handle.redacted,
            ) from None
        self._kagglehub = kagglehub

    def _fetch(self, sink: FileSink) -> None:
        with disk_errors(self._folder):
            self._folder.mkdir()
        name = self._handle.text.removeprefix("kaggle://")
        download = functools.partial(self._kagglehub.model_download, name, output_dir=str(self._folder))
        _, done = start_thread(download, "hubdist-kaggle")
        self._watch(done)
        error = done.exception()
        if isinstance(error, TypeError) and not hasattr(tarfile, "data_filter"):
            self._unpack(sink)
            return
        if error is not None:
            raise self._translated(error) if isinstance(error, Exception) else error
        shutil.rmtree(self._folder / _MARKERS, ignore_errors=True)
        LocalOrigin(Path(done.result()), self.deadline).fetch(sink)

    def _unpack(self, sink: FileSink) -> None:
        """Unpack what kagglehub could not: it asks for tarfile's filters, which Python has since 3.11.4."""
        bundle = next(self._folder.rglob("*.archive"))
        ArchiveOrigin(parse_handle(str(bundle)), self._config, self._scratch, self.deadline).fetch(sink)

    def _watch(self, done: concurrent.futures.Future[str]) -> None:
        """Wait for the download for as long as bytes arrive, and count them.

        Raises:
            TransferTimeoutError: Nothing arrived for `stall_timeout_s`, or the deadline is over. The thread is left
                behind; the directory that it writes to is removed.
            StoreFullError: It has more bytes than may be written.
        """
        patience_s = self._config.stall_timeout_s
        seen, waits = 0, Deadline(patience_s)
        try:
            while not done.done():
                concurrent.futures.wait([done], min(_LOOK_S, waits.remaining_s(), self.deadline.remaining_s()))
                now = _size(self._folder)
                self._scratch.count(now)
                if done.done():
                    break
                self.deadline.check(self.redacted)
                if now != seen:
                    seen, waits = now, Deadline(patience_s)
                elif waits.remaining_s() <= 0:
                    raise TransferTimeoutError(f"Kaggle gave nothing of {self.redacted} for {patience_s:g} s")
        finally:
            if not done.done():
                leave_behind(done)

    def _translated(self, error: Exception) -> HubdistError:
        redacted, name, fault = self.redacted, type(error).__name__, fault_of(error)
        if fault is Fault.FULL or isinstance(error, HubdistError):
            return own_error(error, redacted)
        if fault is Fault.DENIED:
            return AccessDeniedError(
                f"Kaggle wants credentials for {redacted}",
                advice="Set KAGGLE_API_TOKEN, or KAGGLE_USERNAME and KAGGLE_KEY, where the driver runs.",
            )
        if fault is Fault.MISSING:
            return ModelNotFoundError(f"Kaggle has no model {redacted}")
        if name == "DataCorruptionError":
            return IntegrityError(f"Kaggle sent other bytes than it announced for {redacted}")
        return OriginError(f"Kaggle cannot be read ({name})", advice="Is www.kaggle.com reachable from the driver?")


def _size(folder: Path) -> int:
    """Bytes of all files below a directory that somebody writes to."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(parent, name).stat().st_size
    return total
