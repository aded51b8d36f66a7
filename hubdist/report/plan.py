"""What a load would do, and what a job knows and has done. Frozen values that print well."""

from __future__ import annotations

from dataclasses import dataclass

from hubdist.delivery.routes import Route, RouteOrder
from hubdist.report.delivery import NodeReport, PinReport, size_text


@dataclass(frozen=True, slots=True)
class NodePlan:
    """What one node would do.

    Attributes:
        node: Ray's id of the node, or the host's name without Ray.
        name: The node's address and the first digits of its id.
        order: The routes in the order in which the node would try them, and those that it cannot take.
    """

    node: str
    name: str
    order: RouteOrder


@dataclass(frozen=True, slots=True)
class Plan:
    """What a load would do, as far as this can be told without doing it.

    Attributes:
        handle: The handle without secrets.
        digest: `sha256:<hex>` of the model; None if only a read of the origin can tell.
        total_bytes: Bytes of all files; None if nobody knows yet.
        known: Who knows the model already, such as `this job` or `the shared cache`; None if nobody does.
        read_mode: What TensorFlow would open.
        nodes: One for each node that was asked about.
        notes: What else would happen, such as bytes that go by calls of Ray because a port cannot be reached.
        identity: Who the origin would be asked as, and on which node, without any secret; None if it would not be
            asked, because the settings are offline.
        cache_identity: The same of the shared cache, by the driver's node; None without a shared cache.
    """

    handle: str
    digest: str | None
    total_bytes: int | None
    known: str | None
    read_mode: str
    nodes: tuple[NodePlan, ...]
    notes: tuple[str, ...] = ()
    identity: str | None = None
    cache_identity: str | None = None

    def __str__(self) -> str:
        """A few lines; nodes that would do the same stand together."""
        if self.digest is None:
            lines = [f"{self.handle}: not resolved yet, the origin would be read once"]
        else:
            size = "" if self.total_bytes is None else f", {size_text(self.total_bytes)}"
            lines = [f"{self.handle}: {self.digest[:19]}...{size}, known to {self.known}"]
        if self.identity is not None:
            lines.append(f"the origin would be asked {self.identity}")
        if self.cache_identity is not None:
            lines.append(f"the shared cache would be asked {self.cache_identity}")
        lines.append(f"read mode {self.read_mode}")
        groups: dict[RouteOrder, list[str]] = {}
        for node in self.nodes:
            groups.setdefault(node.order, []).append(node.name)
        for order, names in groups.items():
            lines.append(f"{len(names)} node{'s' if len(names) > 1 else ''}: {', '.join(names)}")
            lines += [f"  {at}. {choice}" for at, choice in enumerate(order.choices, 1)]
            if order.first.route is not Route.DRIVER:  # whose reason says the same
                lines += [f"  not {refused}" for refused in order.refused]
        lines += self.notes
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class RouteTotal:
    """All deliveries of a job that took one route.

    Attributes:
        route: The route; None for those that failed.
        deliveries: Number of deliveries.
        bytes_received: Bytes that nodes received by them.
    """

    route: Route | None
    deliveries: int
    bytes_received: int

    def __str__(self) -> str:
        """A few words."""
        return f"{self.deliveries} {self.route or 'failed'} ({size_text(self.bytes_received)})"


@dataclass(frozen=True, slots=True)
class Status:
    """What this job knows at the moment.

    A status is smaller than 1 MiB when it is sent, however many models and nodes there are. A large job's status shows
    the newest pins and deliveries, and says how many it leaves out. The newest deliveries are whole; older ones come
    without `timeline` and with few of their `sources`. `totals` counts all of them.

    Attributes:
        mode: `ray` with a coordinator, `embedded` if everything happens in this process.
        coordinator: Name of the coordinator's node; None if there is none yet.
        store: Root of the store that this process uses.
        pins: The handles that were resolved, the newest last.
        deliveries: What nodes got, in the order in which they were done.
        agents: Names of the nodes where an agent runs now.
        pins_left_out: How many older pins are not in `pins`.
        deliveries_left_out: How many older deliveries are not in `deliveries`.
        totals: All deliveries since the coordinator started, by route.
    """

    mode: str
    coordinator: str | None
    store: str
    pins: tuple[PinReport, ...] = ()
    deliveries: tuple[NodeReport, ...] = ()
    agents: tuple[str, ...] = ()
    pins_left_out: int = 0
    deliveries_left_out: int = 0
    totals: tuple[RouteTotal, ...] = ()

    def __str__(self) -> str:
        """A few lines."""
        lines = [f"hubdist ({self.mode}), coordinator on {self.coordinator or 'no node yet'}, store {self.store}"]
        if self.pins_left_out:
            lines.append(f"{self.pins_left_out} older handles")
        lines += [str(pin) for pin in self.pins]
        if self.deliveries_left_out:
            totals = ", ".join(str(total) for total in self.totals)
            lines.append(f"{self.deliveries_left_out} older deliveries; all together: {totals}")
        lines += [f"  {delivery}" for delivery in self.deliveries]
        if self.agents:
            lines.append(f"agents on {', '.join(self.agents)}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What `refresh` found when it asked the origin again.

    Attributes:
        handle: The handle without secrets.
        before: `sha256:<hex>` of what the handle stood for until now; None if the job had not resolved it.
        digest: `sha256:<hex>` of what the handle stands for from now on.
        untold: Nodes that could not be told; processes there may still load the old bytes.
    """

    handle: str
    before: str | None
    digest: str
    untold: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """True if the handle stands for other bytes than before."""
        return self.before != self.digest

    def __str__(self) -> str:
        """One line."""
        if self.before is None:
            text = f"{self.handle} is {self.digest}, and was not resolved before"
        elif self.changed:
            text = f"{self.handle} is {self.digest} now, and was {self.before}"
        else:
            text = f"{self.handle} is {self.digest} still"
        return text + (f"; not told: {', '.join(self.untold)}" if self.untold else "")
