"""The directory behind a handle that nodes can read by themselves: finds it, and lists it as a copy of a model.

Source: TensorFlow Hub's hosting protocol, https://www.tensorflow.org/hub/hosting: a hub that has a model uncompressed
answers `<handle>?tf-hub-format=uncompressed` with status 303 and a `gs://` directory as the body.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from hubdist.config.schema import Config
from hubdist.errors import HandleError, HubdistError, ModelNotFoundError, OriginError
from hubdist.model.access import OriginAccess
from hubdist.model.handle import Handle, Kind, parse_handle
from hubdist.model.manifest import Manifest
from hubdist.model.paths import Ending, ending_of
from hubdist.model.redact import redact_url
from hubdist.origins.directory import is_object
from hubdist.origins.http.text import fetch_text
from hubdist.origins.local import is_directory
from hubdist.remote.snapshot_copy import ProvenCopies, RemoteCopy, list_copy
from hubdist.system.deadline import Deadlines
from hubdist.system.foreign import call_foreign

_ONLY_ARCHIVES = "the origin serves archives only"
_ONE_READER = "only the driver's node reads the hub; the other nodes get the files from each other"
_CHOSEN = "the handle chooses files, and only the driver's node reads those alone"
_ONE_FILE = "the handle names one file, which only the driver reads"
_LOG = logging.getLogger(__name__)


def direct_url(
    handle: Handle, deadlines: Deadlines, *, ask_hub: bool, access: OriginAccess | None = None
) -> str | None:
    """Find the directory that a handle names: on object storage, or a path that may be a mount of all nodes.

    Args:
        handle: Any handle.
        deadlines: Timeouts and retries of the request to a hub.
        ask_hub: Ask a hub for its uncompressed copy; otherwise a hub's handle names no directory.
        access: The headers and logins for hubs; None for none.

    Returns:
        The directory; or None if the handle names none and nothing was asked, or nothing is at the driver's path.

    Raises:
        OriginError: The handle names an archive or a file, or the hub has no uncompressed copy; only with `ask_hub`.
        AccessDeniedError: This user may not see what is at the driver's path, or the hub refuses.
        TransferTimeoutError: The hub did not answer in time.
    """
    return call_foreign(lambda: _direct_url(handle, deadlines, access, ask_hub=ask_hub), handle.redacted)


def _direct_url(handle: Handle, deadlines: Deadlines, access: OriginAccess | None, *, ask_hub: bool) -> str | None:
    is_file = handle.kind is Kind.FILE
    if handle.kind is Kind.TREE:
        # Only a name that looks like a file's is worth a request; nodes find no directory at any other file.
        is_file = ending_of(handle.text) is Ending.MODEL_FILE and is_object(handle, deadlines)
        if not is_file:
            return handle.text
    if handle.kind is Kind.LOCAL:
        try:
            is_file = not is_directory(Path(handle.text))
        except ModelNotFoundError:  # perhaps only the nodes have this path
            return None
        if not is_file:
            return handle.text
    if not ask_hub:
        return None
    if handle.kind is not Kind.HUB:
        reasons = {Kind.HUGGING_FACE: _ONE_READER, Kind.SELECTION: _CHOSEN}
        raise OriginError(_ONE_FILE if is_file else reasons.get(handle.kind, _ONLY_ARCHIVES), handle=handle.redacted)
    return _ask_hub(handle, deadlines, access)


def _ask_hub(handle: Handle, deadlines: Deadlines, access: OriginAccess | None) -> str:
    url = handle.text + ("&" if "?" in handle.text else "?") + "tf-hub-format=uncompressed"
    status, body = fetch_text(url, deadlines, access=access)
    if status != 303:
        raise OriginError(f"{_ONLY_ARCHIVES}: it answers {status}, not 303, to uncompressed", handle=handle.redacted)
    try:
        found = parse_handle(body.strip())
        if found.kind is not Kind.TREE:
            raise HandleError("it is not a directory on object storage")
    except HubdistError as error:
        raise OriginError(
            f"the hub answers {redact_url(body.strip()[:200])!r} where the uncompressed model should be: {error.what}",
            handle=handle.redacted,
        ) from None
    return found.text


class DirectSource:
    """Finds and lists directories for the route `direct`. Keeps nothing, so it is safe for several threads.

    Args:
        config: The job's settings.
        proven: The directories whose files are known to be a model.
        find_access: Returns the headers and logins for hubs.
    """

    def __init__(
        self, config: Config, proven: ProvenCopies, find_access: Callable[[], OriginAccess] = OriginAccess
    ) -> None:
        self._find_access = find_access
        self._config = config
        self._proven = proven

    def find(self, handle: Handle, *, wanted: bool) -> str | None:
        """The directory that nodes could read in place of the driver; None if there is none.

        Args:
            handle: A handle of any kind; most name no directory.
            wanted: True if the user asked for the route `direct`. Then a hub is asked for its uncompressed copy, and a
                refusal is logged.
        """
        if self._config.offline and handle.kind is not Kind.LOCAL:
            return None
        try:
            access = self._find_access() if wanted else None
            return direct_url(handle, self._config.deadlines, ask_hub=wanted, access=access)
        except HubdistError as error:
            _LOG.warning("hubdist: %s cannot be read directly: %s", handle.redacted, error.what)
            return None

    def copy_of(self, url: str, manifest: Manifest) -> RemoteCopy | None:
        """A directory as a copy of a model: its listing of now, or the proven one where only nodes can list it.

        The copy counts as digested only if its files are those that were read for this manifest. What lies there now
        may be another model, because the manifest may come from the store.

        Args:
            url: The directory, as `find` returned it.
            manifest: The model that the handle stands for.
        """
        try:
            return self._proven.judged(
                list_copy(url, self._config.deadlines, max_bytes=self._config.max_store_bytes), manifest.digest
            )
        except HubdistError as error:
            _LOG.info("hubdist: the driver's node cannot list %s: %s", redact_url(url), error)
            return self._proven.find(manifest.digest, url)
