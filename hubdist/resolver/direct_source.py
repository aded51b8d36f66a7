"""The directory that a handle names and that nodes can read themselves: finds it, and lists it as a copy of a model."""

from __future__ import annotations

import logging

from hubdist.config.schema import Config
from hubdist.errors import HubdistError
from hubdist.model.handle import Handle, Kind
from hubdist.model.manifest import Manifest
from hubdist.model.redact import redact_url
from hubdist.origins.uncompressed import direct_url
from hubdist.remote.proven_copies import ProvenCopies
from hubdist.remote.snapshot_copy import RemoteCopy, list_copy

_LOG = logging.getLogger(__name__)


class DirectSource:
    """Finds and lists directories for the route `direct`. Keeps nothing, so it is safe for several threads.

    Args:
        config: The job's settings.
        proven: The directories whose files are known to be a model.
    """

    def __init__(self, config: Config, proven: ProvenCopies) -> None:
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
            return direct_url(handle, self._config.deadlines, ask_hub=wanted)
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
