"""Takes a choice of files out of a snapshot of the whole model, so that they do not leave their origin again."""

from __future__ import annotations

import logging
from collections.abc import Callable

from hubdist.errors import HubdistError, IntegrityError
from hubdist.model.handle import Handle, Kind
from hubdist.model.manifest import Digest
from hubdist.origins import keeps_folder
from hubdist.origins.directory import DirectoryOrigin
from hubdist.resolver.lookup import is_immutable
from hubdist.resolver.values import ResolvedFrom
from hubdist.store.snapshot import Snapshot
from hubdist.store.store import Store
from hubdist.system.deadline import Deadline

_LOG = logging.getLogger(__name__)


def take_from_whole(
    store: Store, handle: Handle, last: Callable[[Handle], Digest | None], deadline: Deadline
) -> tuple[Snapshot, ResolvedFrom] | None:
    """Copy the chosen files of a model that a store has; None, with the reason logged, if that fails.

    Args:
        store: The store, which gets the new snapshot too.
        handle: Any handle; something is done for a choice of files of a numbered version or a commit.
        last: Tells what a handle stood for last time.
        deadline: When it must be done.

    Returns:
        The snapshot, and that it came from the store.
    """
    if handle.kind is not Kind.SELECTION or handle.base is None or not is_immutable(handle):
        return None
    if not keeps_folder(handle.base):  # patterns are for paths as the origin has them
        return None
    whole = last(handle.base)
    found = None if whole is None else store.find(whole)
    if found is None:
        return None
    with found:
        origin = DirectoryOrigin.at_path(found.path, deadline, one_model=False)
        origin.selection = handle.selection
        try:
            with store.stage(keep_folder=True) as stage:
                origin.fetch(stage)
                entries = set(found.manifest.entries)
                if not entries.issuperset(stage.finish().entries):
                    raise IntegrityError(f"the snapshot {whole} in {store.root} is damaged")
                return store.publish(stage), ResolvedFrom.STORE
        except HubdistError as error:
            _LOG.info("hubdist: %s is read from its origin: %s", handle.redacted, error.what)
            return None
