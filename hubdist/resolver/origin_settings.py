"""How origins are read, by the settings of a job or of a command."""

from __future__ import annotations

import functools
from collections.abc import Callable

from hubdist.config.origin_access import origin_access
from hubdist.config.schema import Config
from hubdist.model.access import OriginAccess
from hubdist.origins import OriginSettings
from hubdist.store.store import Store


def origin_settings(
    config: Config, find_access: Callable[[], OriginAccess] | None = None, *, store: Store | None = None
) -> OriginSettings:
    """How origins are read.

    Args:
        config: The settings.
        find_access: Returns what servers of hubs and archives get to know; None asks this process's environment.
        store: As for `OriginSettings`.
    """
    access = find_access or functools.partial(origin_access, config)
    return OriginSettings(config.deadlines, config.max_store_bytes, config.origins, access, store)
