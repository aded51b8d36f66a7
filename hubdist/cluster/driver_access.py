"""How the coordinator gets the values of `origin_headers`, tokens and `NETRC` from the driver's environment.

The coordinator is a process of Ray's, whose environment is that of its node, not the driver's. What Ray makes an actor
with is kept by its control service and may be written to a disk, and `runtime_env` is shown by its dashboard. So the
values lie in an object of the driver's process, and the actor is made with the way to it, which it follows again where
Ray restarts it. The object ends with the driver.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Self

from hubdist.cluster.calls import result_of
from hubdist.cluster.nodes import ProcessRole
from hubdist.config.origin_access import driver_values, lend_tokens, origin_access
from hubdist.config.schema import Config
from hubdist.model.access import OriginAccess

_LOG = logging.getLogger(__name__)
_GET_S = 10.0


class DriverAccess:
    """A way to the driver's values. Pickles as the way alone, by Ray only. Safe for several threads.

    Args:
        way: Ray's reference of the values, or that reference pickled; None where the driver has none.
        timeout_s: Longest wait for the values.
    """

    def __init__(self, way: Any | None = None, timeout_s: float = _GET_S) -> None:
        self._way = way
        self._timeout_s = timeout_s
        self._values: Mapping[str, str] | None = None

    @classmethod
    def of_driver(cls, config: Config, role: ProcessRole) -> Self:
        """The values of this process; none if it is a task or actor, which has no environment of the user's own.

        Args:
            config: The settings.
            role: What this process is to its job.
        """
        if role is ProcessRole.TASK:
            return cls()
        import ray

        values = driver_values(config, same_disk=role is ProcessRole.DRIVER)
        if not values:
            return cls()
        return cls(_pickled(ray.put(values)) if role is ProcessRole.DRIVER else ray.put(values))

    def access(self, config: Config) -> OriginAccess:
        """What servers of hubs and archives get to know; without the driver's values, by this node's environment.

        Args:
            config: The settings.
        """
        return origin_access(config, self._get())

    def _get(self) -> Mapping[str, str]:
        if self._values is None and self._way is not None:
            import ray
            import ray.exceptions

            reference = ray.cloudpickle.loads(self._way) if isinstance(self._way, bytes) else self._way
            try:
                found: Mapping[str, str] = result_of(reference, self._timeout_s)
                self._values = found
                lend_tokens(found)
            except ray.exceptions.RayError as error:
                _LOG.warning("hubdist: the driver does not give its variables: %s", type(error).__name__)
        return self._values or {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the way, and never the values."""
        return type(self), (self._way, self._timeout_s)


def _pickled(reference: Any) -> Any:
    """A reference as bytes, which keep its object for as long as this process runs.

    Of an actor that is made with a reference, Ray prints as an error that a restart fails once the object is lost. This
    object is not lost before the driver, and then nobody restarts the actor.
    """
    import ray
    import ray.exceptions

    try:
        return ray.cloudpickle.dumps(reference)
    except ray.exceptions.OufOfBandObjectRefSerializationException:  # the user has forbidden it: Ray prints its line
        return reference
