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
import time
from pathlib import Path

from hubdist.config import Config
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
from hubdist.handle import Handle, parse_handle
from hubdist.origins.archives import ArchiveOrigin
from hubdist.origins.local import LocalOrigin
from hubdist.source import FileSink
from hubdist.threads import start_thread

_MARKERS = ".complete"
"""Source: kagglehub 1.0.2, cache.py: the directory where it notes, beside the model's files, what is complete."""


class KaggleOrigin:
    """A model of kaggle.com.

    Args:
        handle: Of kind KAGGLE.
        config: Deadlines.
        scratch: A private directory for the download.

    Raises:
        HandleError: kagglehub is not installed.
        ConfigError: It cannot work here, for this user has no home.
    """

    def __init__(self, handle: Handle, config: Config, scratch: Path) -> None:
        self._handle = handle
        self._config = config
        self._folder = scratch / "kaggle"
        try:
            import kagglehub
        except ImportError:
            raise HandleError(
                "Kaggle models need the package kagglehub, which is not installed where the driver runs",
                advice="Run: pip install 'hubdist[kaggle]'",
                handle=handle.public,
            ) from None
        except RuntimeError as error:  # of pathlib: kagglehub looks for its settings in the home when it is imported
            raise ConfigError(
                f"kagglehub cannot be imported where the driver runs: {error}",
                advice="Set HOME to a directory that this user may write to.",
                handle=handle.public,
            ) from None
        self._kagglehub = kagglehub

    def fetch(self, sink: FileSink) -> None:
        """Download the model and write its files into `sink`."""
        self._folder.mkdir()
        failures: tuple[type[Exception], ...] = (OSError, ValueError, *self._own_errors())  # requests' are OSErrors
        name = self._handle.text.removeprefix("kaggle://")
        download = functools.partial(self._kagglehub.model_download, name, output_dir=str(self._folder))
        _, done = start_thread(download, "hubdist-kaggle")
        self._watch(done)
        try:
            path = done.result()
        except failures as error:
            raise self._translated(error) from error
        except TypeError:
            if hasattr(tarfile, "data_filter"):
                raise
            self._unpack(sink)
            return
        shutil.rmtree(self._folder / _MARKERS, ignore_errors=True)
        LocalOrigin(Path(path)).fetch(sink)

    def _unpack(self, sink: FileSink) -> None:
        """Unpack what kagglehub could not: it asks for tarfile's filters, which Python has since 3.11.4."""
        bundle = next(self._folder.rglob("*.archive"))
        ArchiveOrigin(parse_handle(str(bundle)), self._config, self._folder).fetch(sink)

    def _watch(self, done: concurrent.futures.Future[str]) -> None:
        """Wait for the download for as long as bytes arrive.

        Raises:
            TransferTimeoutError: Nothing arrived for `stall_timeout_s`, or `timeout_s` is over. The thread is left
                behind; it can do no harm in a directory that is removed.
        """
        deadline = time.monotonic() + self._config.timeout_s
        seen = 0
        while not done.done():
            patience_s = min(self._config.stall_timeout_s, deadline - time.monotonic())
            concurrent.futures.wait([done], max(0.0, patience_s))
            now = _size(self._folder)
            if not done.done() and (now == seen or time.monotonic() >= deadline):
                raise TransferTimeoutError(f"Kaggle gave nothing of {self._handle.public} for {patience_s:.0f} s")
            seen = now

    def _own_errors(self) -> tuple[type[Exception], ...]:
        errors = self._kagglehub.exceptions
        return tuple(kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception))

    def _translated(self, error: Exception) -> HubdistError:
        status = getattr(getattr(error, "response", None), "status_code", None)
        public = self._handle.public
        name = type(error).__name__
        if status in (401, 403) or name in ("CredentialError", "UnauthenticatedError"):
            return AccessDeniedError(
                f"Kaggle wants credentials for {public}",
                advice="Set KAGGLE_API_TOKEN, or KAGGLE_USERNAME and KAGGLE_KEY, where the driver runs.",
            )
        if status in (404, 410) or name == "NotFoundError":
            return ModelNotFoundError(f"Kaggle has no model {public}")
        if name == "DataCorruptionError":
            return IntegrityError(f"Kaggle sent other bytes than it announced for {public}")
        return OriginError(f"Kaggle cannot be read ({name})", advice="Is www.kaggle.com reachable from the driver?")


def _size(folder: Path) -> int:
    """Bytes of all files below a directory that somebody writes to."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(parent, name).stat().st_size
    return total
