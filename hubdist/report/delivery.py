"""What hubdist tells about its work: frozen values that print well."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hubdist.delivery.routes import Route, RouteOrder
from hubdist.errors import HubdistError
from hubdist.report.plot import draw_figure, draw_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_SENDERS = 4


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What asking the origin again has found.

    Attributes:
        handle: The handle without secrets.
        before: `sha256:<hex>` of what it stood for until now; None if the job had not resolved it.
        digest: `sha256:<hex>` of what it stands for from now on.
        untold: Nodes that could not be told; processes there may go on to load what they know.
    """

    handle: str
    before: str | None
    digest: str
    untold: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """True if it stands for other bytes than before."""
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


@dataclass(frozen=True, slots=True)
class NodeReport:
    """How one node got one model.

    Attributes:
        node: Ray's id of the node, or the host's name without Ray.
        name: The node's address and the first digits of its id.
        handle: The model's handle without secrets.
        digest: `sha256:<hex>` of the model.
        route: How the node got it.
        reason: Why this route.
        source: Name of the node that sent the bytes; None if they were there.
        bytes_received: Bytes that came over this route.
        seconds: From the call to the published snapshot; from the first chunk on, if chunks came before that call.
        retries: Chunks that had to be sent again.
        refused: Those of them that came with wrong bytes.
        sources: Who sent -> bytes: the driver's node and other nodes by name, or a public URL.
        timeline: Seconds since this node took part, bytes that had arrived by then.
        error: Why the node does not have the model, or None.
    """

    node: str
    name: str
    handle: str
    digest: str
    route: Route | None
    reason: str
    source: str | None = None
    bytes_received: int = 0
    seconds: float = 0.0
    retries: int = 0
    refused: int = 0
    sources: tuple[tuple[str, int], ...] = ()
    timeline: tuple[tuple[float, int], ...] = ()
    error: HubdistError | None = None

    def __str__(self) -> str:
        """One line."""
        if self.error is not None:
            return f"{self.name}: failed: {self.error}"
        came = f"{_size(self.bytes_received)} from {self._senders}" if self.source else "nothing sent"
        again = f", {self.retries} chunks sent again" if self.retries else ""
        again += f", {self.refused} of them with wrong bytes" if self.refused else ""
        return f"{self.name}: {self.route}, {came} in {self.seconds:.2f} s{again} ({self.reason})"

    @property
    def _senders(self) -> str:
        others = len(dict(self.sources).keys() - {self.source})
        return f"{self.source} and {others} other node{'s' if others > 1 else ''}" if others else str(self.source)


@dataclass(frozen=True, slots=True)
class PinReport:
    """What a handle stands for in this job.

    Attributes:
        handle: The handle without secrets.
        digest: `sha256:<hex>` of the model.
        total_bytes: Bytes of all files.
        files: Number of files.
        source: Where the model came from when the handle was resolved: `store`, `shared cache`, `TensorFlow Hub cache`,
            `origin`, or `origin, by <node>` if that node read the origin itself.
        origin_reads: How often this coordinator read the origin for it.
        seconds: How long it took to resolve.
    """

    handle: str
    digest: str
    total_bytes: int
    files: int
    source: str
    origin_reads: int
    seconds: float

    def __str__(self) -> str:
        """One line."""
        times = {0: "not at all", 1: "once"}.get(self.origin_reads, f"{self.origin_reads} times")
        return (
            f"{self.handle}: {self.digest[:19]}..., {self.files} files, {_size(self.total_bytes)}"
            f" from the {self.source} in {self.seconds:.2f} s, origin read {times}"
        )


@dataclass(frozen=True, slots=True)
class Report:
    """What a prefetch did.

    Attributes:
        pins: One for each handle that could be resolved, in the order of the call.
        nodes: One for each of these handles and each node.
        seconds: From the call to the last node's end.
        unresolved: Why the other handles could not be resolved; the errors name them.
    """

    pins: tuple[PinReport, ...]
    nodes: tuple[NodeReport, ...]
    seconds: float = 0.0
    unresolved: tuple[HubdistError, ...] = ()

    @property
    def bytes_by_source(self) -> dict[str, int]:
        """Who sent -> bytes to all nodes together, most first."""
        total: Counter[str] = Counter()
        for node in self.nodes:
            total.update(dict(node.sources))
        return dict(total.most_common())

    def timeline(self, *, width: int = 60) -> str:
        """When the bytes came, as text: a line for each node, darker where more came.

        Args:
            width: Characters for the time.
        """
        return draw_text(self._curves, [node.name for node in self.nodes if node.error is not None], width=width)

    def plot(self, path: str | Path | None = None) -> Figure | str:
        """Draw when the bytes came and who sent them.

        Args:
            path: Where to save the picture, such as `delivery.png`; None for nowhere.

        Returns:
            A figure of matplotlib; where that is not installed (`pip install 'hubdist[plot]'`), the text of `timeline`,
            and `path` gets that.
        """
        path = None if path is None else Path(path)
        try:
            return draw_figure(self._curves, self.bytes_by_source, path)
        except ImportError:
            text = self.timeline()
            if path is not None:
                path.write_text(text + "\n", encoding="utf-8")
            return text

    @property
    def _curves(self) -> dict[str, tuple[tuple[float, int], ...]]:
        several = len(self.pins) > 1
        return {
            f"{node.name} {node.digest[7:15]}" if several else node.name: node.timeline
            for node in self.nodes
            if node.route is not Route.STORE
        }

    def __str__(self) -> str:
        """A line for each pin, followed by a line for each node, and who sent how much."""
        lines: list[str] = []
        for pin in self.pins:
            lines.append(str(pin))
            lines.extend(f"  {node}" for node in self.nodes if node.digest == pin.digest)
        sent = self.bytes_by_source
        if sent:
            senders = ", ".join(f"{_size(size)} by {name}" for name, size in list(sent.items())[:_MAX_SENDERS])
            more = f" and {len(sent) - _MAX_SENDERS} more" if len(sent) > _MAX_SENDERS else ""
            lines.append(f"{_size(sum(sent.values()))} sent in {self.seconds:.2f} s: {senders}{more}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class NodePlan:
    """What one node would do.

    Attributes:
        node: Ray's id of the node, or the host's name without Ray.
        name: The node's address and the first digits of its id.
        order: The routes that it would try, the first first, and those that it cannot take.
    """

    node: str
    name: str
    order: RouteOrder


@dataclass(frozen=True, slots=True)
class Plan:
    """What a load would do, as far as this can be told without doing it.

    Attributes:
        handle: The handle without secrets.
        digest: `sha256:<hex>` of the model; None if its origin has to be read to know it.
        total_bytes: Bytes of all files, if they are known.
        known: Who knows the model already, such as `this job` or `the shared cache`; None if nobody does.
        read_mode: What TensorFlow would open.
        nodes: One for each node that was asked about.
    """

    handle: str
    digest: str | None
    total_bytes: int | None
    known: str | None
    read_mode: str
    nodes: tuple[NodePlan, ...]

    def __str__(self) -> str:
        """A few lines; nodes that would do the same stand together."""
        if self.digest is None:
            lines = [f"{self.handle}: not resolved yet, the origin would be read once"]
        else:
            size = "" if self.total_bytes is None else f", {_size(self.total_bytes)}"
            lines = [f"{self.handle}: {self.digest[:19]}...{size}, known to {self.known}"]
        lines.append(f"read mode {self.read_mode}")
        groups: dict[RouteOrder, list[str]] = {}
        for node in self.nodes:
            groups.setdefault(node.order, []).append(node.name)
        for order, names in groups.items():
            lines.append(f"{len(names)} node{'s' if len(names) > 1 else ''}: {', '.join(names)}")
            lines += [f"  {at}. {choice}" for at, choice in enumerate(order.choices, 1)]
            if order.first.route is not Route.DRIVER:  # whose reason says the same
                lines += [f"  not {refused}" for refused in order.refused]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class RouteTotal:
    """All deliveries of a job that took one route.

    Attributes:
        route: The route; None for those that failed.
        deliveries: How many.
        bytes_received: Bytes that came.
    """

    route: Route | None
    deliveries: int
    bytes_received: int

    def __str__(self) -> str:
        """A few words."""
        return f"{self.deliveries} {self.route or 'failed'} ({_size(self.bytes_received)})"


@dataclass(frozen=True, slots=True)
class Status:
    """What this job knows at the moment: below 1 MiB when it travels, however many models and nodes there are.

    A large job's status shows the newest pins and deliveries, and says how many it leaves out. The newest deliveries
    are whole; older ones come without `timeline` and with few of their `sources`. `totals` counts all of them.

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


def _size(count: int) -> str:
    if count < 1 << 20:
        return f"{count / 1e3:.1f} kB"
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"
