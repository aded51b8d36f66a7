"""Kaggle models, through the optional package kagglehub.

kagglehub writes to its final path without a lock, so two downloads at the same time can leave a wrong file. Here it
downloads into a private directory, and the files are digested like those of any other origin.

kagglehub also waits without end for a silent server. So it runs in a separate thread that hubdist watches.
"""

from __future__ import annotations

import concurrent.futures
import functools
import importlib.util
import shutil
import tarfile
import time
from pathlib import Path

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
from hubdist.origins.directory import DirectoryOrigin
from hubdist.origins.folder_size import folder_bytes
from hubdist.origins.http.request import HttpRequester
from hubdist.origins.http.retries import retry_step
from hubdist.origins.identity import kaggle_identity
from hubdist.system.answers import retry_after_s
from hubdist.system.deadline import Deadline, Deadlines
from hubdist.system.disk import disk_errors
from hubdist.system.disk_space import Scratch
from hubdist.system.faults import Fault, diagnose, fault_of
from hubdist.system.foreign import own_error
from hubdist.system.mends import CREDENTIALS, error_for
from hubdist.system.quiet import quiet
from hubdist.system.retry import retry
from hubdist.system.threads import leave_behind, start_thread

_POLL_S = 0.2
"""Seconds between two counts of the bytes that have arrived."""

_SITE = "https://www.kaggle.com/"

_MARKERS = ".complete"
"""The directory beside the model's files where kagglehub notes what is complete. Source: kagglehub 1.0.2, cache.py."""


class KaggleOrigin(Origin):
    """A model of kaggle.com.

    Args:
        handle: A handle of kind KAGGLE.
        deadlines: Longest time without a byte, among others.
        scratch: A private directory for the download, with the budget that counts its bytes.
        deadline: When everything must have been read.

    Raises:
        HandleError: kagglehub is not installed.
        ConfigError: kagglehub cannot work here, because this user has no home.
    """

    def __init__(self, handle: Handle, deadlines: Deadlines, scratch: Scratch, deadline: Deadline) -> None:
        super().__init__(handle.redacted, deadline)
        self._handle = handle
        self._deadlines = deadlines
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
        except RuntimeError as error:  # from pathlib: the import of kagglehub looks for settings in the home
            raise ConfigError(
                f"kagglehub cannot be imported where the driver runs ({type(error).__name__})",
                advice="Set HOME to a directory that this user may write to.",
                handle=handle.redacted,
            ) from None
        self._kagglehub = kagglehub

    def _fetch(self, sink: FileSink) -> None:
        root = retry(
            self._try_once,
            self._deadlines,
            self.deadline,
            may_pass=lambda error: fault_of(error) in (Fault.NOT_CONNECTED, Fault.BUSY),
            give_up=lambda error, _: self._translated(error),
            retry_after_s=retry_after_s,
        )
        if root is None:
            self._unpack(sink)
            return
        shutil.rmtree(self._folder / _MARKERS, ignore_errors=True)
        directory = DirectoryOrigin.at_path(root, self.deadline, one_model=False)
        directory.selection = self.selection
        directory.fetch(sink)

    def _try_once(self) -> Path | None:
        """Download into an empty directory; None if kagglehub has downloaded an archive that it cannot unpack."""
        with disk_errors(self._folder):
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir()
        name = self._handle.text.removeprefix("kaggle://")
        thread, done = start_thread(functools.partial(self._download, name), "hubdist-kaggle")
        self._watch(done)
        thread.join(_POLL_S)  # it has its result, and ends at once
        error = done.exception()
        if isinstance(error, TypeError) and not hasattr(tarfile, "data_filter"):
            return None
        if error is not None:
            raise error
        return Path(done.result())

    def _download(self, name: str) -> str:
        folder, paths = str(self._folder), self.selection.literal_paths
        with quiet():
            if paths is None:
                return str(self._kagglehub.model_download(name, output_dir=folder))
            for path in paths:
                self._kagglehub.model_download(name, path, output_dir=folder)
            return folder

    def _unpack(self, sink: FileSink) -> None:
        """Unpack what kagglehub cannot unpack before Python 3.11.4, which has no filters in tarfile."""
        bundle = next(self._folder.rglob("*.archive"))
        ArchiveOrigin(parse_handle(str(bundle)), self._deadlines, self._scratch, self.deadline).fetch(sink)

    def _watch(self, done: concurrent.futures.Future[str]) -> None:
        """Wait for the download for as long as bytes arrive, and count the bytes.

        Raises:
            TransferTimeoutError: Nothing arrived for `stall_s`, or the deadline has passed. The thread is left behind;
                the directory that it writes to is removed.
            StoreFullError: More bytes came than may be written.
        """
        stall_s = self._deadlines.stall_s
        seen, stalled = 0, Deadline(stall_s)
        try:
            while not done.done():
                concurrent.futures.wait([done], min(_POLL_S, stalled.remaining_s(), self.deadline.remaining_s()))
                now = folder_bytes(self._folder)
                self._scratch.count(now)
                if done.done():
                    break
                self.deadline.check(self.redacted)
                if now != seen:
                    seen, stalled = now, Deadline(stall_s)
                elif stalled.remaining_s() <= 0:
                    raise TransferTimeoutError(f"Kaggle gave nothing of {self.redacted} for {stall_s:g} s")
        finally:
            if not done.done():
                leave_behind(done)

    def _translated(self, error: Exception) -> HubdistError:
        redacted, name, found = self.redacted, type(error).__name__, diagnose(error)
        if found.fault is Fault.FULL or isinstance(error, HubdistError):
            return own_error(error, redacted)
        if found.fault in (Fault.DENIED, Fault.NO_CREDENTIALS, Fault.REFUSED_CREDENTIALS):
            refused = AccessDeniedError(f"Kaggle wants credentials for {redacted}", advice=CREDENTIALS["kaggle"])
            return refused.asked(kaggle_identity())
        if found.fault is Fault.MISSING:
            return ModelNotFoundError(f"Kaggle has no model {redacted}")
        if name == "DataCorruptionError":
            return IntegrityError(f"Kaggle sent other bytes than it announced for {redacted}")
        if found.fault in (Fault.LATE, Fault.INTERRUPTED, Fault.DAMAGED, Fault.OTHER):
            return OriginError(f"Kaggle cannot be read ({name})", advice="Is www.kaggle.com reachable from the driver?")
        return error_for(found, redacted, name=name, scheme="kaggle")


def check_kaggle(deadlines: Deadlines, deadline: Deadline) -> None:
    """Check that kaggle.com answers and that kagglehub is installed; credentials are not tried.

    Args:
        deadlines: Timeouts and retries.
        deadline: When it must have answered.

    Raises:
        HandleError: kagglehub is not installed.
        OriginError, TransferTimeoutError: There is no answer.
    """
    if importlib.util.find_spec("kagglehub") is None:
        raise HandleError(
            "Kaggle models need the package kagglehub, which is not installed where the driver runs",
            advice="Run: pip install 'hubdist[kaggle]'",
        )
    requester = HttpRequester(_SITE, deadlines, deadline, headers=None, session=None)
    try:
        retry_step(lambda: requester.get({}), _SITE, deadlines, deadline, time.sleep).close()
    finally:
        requester.close()
