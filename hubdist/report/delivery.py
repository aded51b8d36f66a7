"""What was delivered: to one node, for one handle, by one prefetch. Frozen values that print well."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hubdist.delivery.routes import Route
from hubdist.errors import HubdistError
from hubdist.report.plot import draw_figure, draw_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_SENDERS = 4

OWN_STORE = "this node's store"
"""Stands among the senders for bytes that did not travel: the node took them from older snapshots in its store."""


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
        refused: Those of the `retries` that were sent again because wrong bytes had come.
        sources: Who sent -> bytes: the driver's node and other nodes by name, or a public URL; and `this node's store`
            for what the node took from older snapshots, which `bytes_received` does not count.
        timeline: Seconds since this node took part, bytes that had arrived by then.
        closed_ports: Senders whose ports the node could not reach, so that their bytes came by calls of Ray.
        error: Why the node does not have the model, or None.
        predicted_s: Seconds that the planner says for the delivery to all nodes, if the driver's node has the model;
            None without the setting `link`, and for nodes that got nothing by the route `driver`.
        ended: When the node had the model or had failed, in seconds since 1970; 0 if nobody has noted it.
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
    closed_ports: tuple[str, ...] = ()
    error: HubdistError | None = None
    predicted_s: float | None = None
    ended: float = 0.0

    def __str__(self) -> str:
        """One line."""
        if self.error is not None:
            return f"{self.name}: failed: {self.error}"
        came = f"{size_text(self.bytes_received)} from {self.senders}" if self.source else "nothing sent"
        had = dict(self.sources).get(OWN_STORE, 0)
        came += f" and {size_text(had)} from {OWN_STORE}" if had else ""
        again = f", {self.retries} chunks sent again" if self.retries else ""
        again += f", {self.refused} of them with wrong bytes" if self.refused else ""
        closed = f", by calls of Ray from {', '.join(self.closed_ports)}: port not reached" if self.closed_ports else ""
        told = "" if self.predicted_s is None else f", {self.predicted_s:.2f} s predicted"
        return f"{self.name}: {self.route}, {came} in {self.seconds:.2f} s{told}{again}{closed} ({self.reason})"

    @property
    def senders(self) -> str:
        """Who sent, in a few words; the first sender by name."""
        others = len(dict(self.sources).keys() - {self.source, OWN_STORE})
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
        origin_reads: How often the coordinator read the origin for this handle.
        seconds: How long the coordinator took to resolve the handle.
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
            f"{self.handle}: {self.digest[:19]}..., {self.files} files, {size_text(self.total_bytes)}"
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
        """Who sent -> bytes to all nodes together, most first; `this node's store` sums up what all nodes had."""
        total: Counter[str] = Counter()
        for node in self.nodes:
            total.update(dict(node.sources))
        return dict(total.most_common())

    def draw_text(self, *, width: int = 60) -> str:
        """Draw when the bytes came, as text: a line for each node, darker where more came.

        Args:
            width: Characters for the time.
        """
        return draw_text(self._curves, [node.name for node in self.nodes if node.error is not None], width=width)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw when the bytes came and who sent them. Without matplotlib, use `draw_text`.

        Args:
            path: Where to save the picture, such as `delivery.png`; None for nowhere.

        Raises:
            ImportError: matplotlib is not installed: `pip install 'hubdist[plot]'`.
        """
        return draw_figure(self._curves, self.bytes_by_source, None if path is None else Path(path))

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
            same = [node for node in self.nodes if node.digest == pin.digest]
            # Of two handles with the same bytes, one may have waited for the delivery that the other one began.
            lines.extend(f"  {node}" for node in [node for node in same if node.handle == pin.handle] or same)
        sent = self.bytes_by_source
        had = sent.pop(OWN_STORE, 0)
        if sent or had:
            senders = ", ".join(f"{size_text(size)} by {name}" for name, size in list(sent.items())[:_MAX_SENDERS])
            more = f" and {len(sent) - _MAX_SENDERS} more" if len(sent) > _MAX_SENDERS else ""
            by = f": {senders}{more}" if sent else ""
            there = f"; {size_text(had)} were in older snapshots" if had else ""
            lines.append(f"{size_text(sum(sent.values()))} sent in {self.seconds:.2f} s{by}{there}")
        return "\n".join(lines)


def size_text(count: int) -> str:
    """A number of bytes as people read it, such as `1.5 MB`."""
    if count < 1000:
        return f"{count} B"
    if count < 1 << 20:
        return f"{count / 1e3:.1f} kB"
    if count < 1e9:
        return f"{count / 1e6:.1f} MB"
    return f"{count / 1e9:.2f} GB" if count < 1e12 else f"{count / 1e12:.2f} TB"
