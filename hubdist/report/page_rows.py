"""What the tables of a job's page show: deliveries summed up, so that a job with hundreds of nodes stays readable."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace

from hubdist.delivery.routes import Route
from hubdist.errors import HubdistError
from hubdist.report.delivery import OWN_STORE, NodeReport, PinReport, size_text
from hubdist.report.job import JobReport, kind_of, received_text, when_text

_MAX_ROWS = 80
_MAX_REASONS = 30
_MAX_PINS = 60
_MAX_ERRORS = 40
_MAX_CURVES = 6
_MAX_NAMES = 3
_MAX_TEXT = 400
_MAX_NAME = 100
_MAX_ENDING = 28


@dataclass(frozen=True, slots=True)
class RouteRow:
    """All deliveries that went the same way for the same reason.

    Attributes:
        route: Name of the route, or `failed`.
        reason: Why this route, in words.
        nodes: How many deliveries, and to whom.
        received: Bytes that these nodes received, as text; empty if none were sent.
        median_s: The wait in the median, in seconds.
        longest_s: The longest wait, in seconds.
    """

    route: str
    reason: str
    nodes: str
    received: str
    median_s: float
    longest_s: float


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One delivery.

    Attributes:
        node: Name of the node.
        model: The end of the model's handle.
        handle: The model's handle.
        route: Name of the route, or `failed`.
        received: Bytes that the node received, as text; empty if none were sent.
        senders: From whom, in words.
        seconds: How long it took.
        rate: Bytes in a second, as text; empty if none were sent.
        notes: What did not go as it should, in words.
        failed: True if the node does not have the model.
    """

    node: str
    model: str
    handle: str
    route: str
    received: str
    senders: str
    seconds: float
    rate: str
    notes: str
    failed: bool


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """All errors with the same words.

    Attributes:
        kind: Name of the error's class.
        what: What happened.
        advice: What to do; empty if nobody knows.
        handles: The handles that it happened to.
        nodes: The nodes that it happened on.
        count: How many there were.
    """

    kind: str
    what: str
    advice: str
    handles: str
    nodes: str
    count: int


def fact_rows(job: JobReport) -> list[tuple[str, str]]:
    """What stands at the top of the page: names and values."""
    ok = [one for one in job.deliveries if one.error is None]
    failed = sum(total.deliveries for total in job.totals if total.route is None)
    done = sum(total.deliveries for total in job.totals) - failed
    slowest = max(ok, key=lambda one: one.seconds, default=None)
    facts = [
        ("State", "shut down" if job.closed else "running when this was written"),
        ("Began", when_text(job.began) if job.began else ""),
        ("Written", when_text(job.written)),
        ("Coordinator", job.coordinator or ""),
        ("Session", job.session),
        ("Versions", ", ".join(f"{name} {version}" for name, version in job.versions.items())),
        ("Models", str(len(job.pins) + job.pins_left_out)),
        ("Deliveries", f"{done} done, {failed} failed" if failed else f"{done} done"),
        ("Received", received_text(job.totals)),
        ("Longest wait", "" if slowest is None else f"{slowest.seconds:.2f} s, {slowest.name}"),
    ]
    if not job.session:
        del facts[0]
    return [(name, _cut(value)) for name, value in facts if value]


def route_rows(job: JobReport) -> list[RouteRow]:
    """The routes that nodes took, with the reasons; most deliveries first."""
    groups: dict[tuple[str, str], list[NodeReport]] = {}
    for one in job.deliveries:
        groups.setdefault((_route(one), one.reason), []).append(one)
    rows = [
        RouteRow(
            route,
            _cut(reason),
            f"{len(several)}: {names(one.name for one in several)}",
            _received(sum(one.bytes_received for one in several)),
            statistics.median(one.seconds for one in several),
            max(one.seconds for one in several),
        )
        for (route, reason), several in sorted(groups.items(), key=lambda group: -len(group[1]))
    ]
    return rows[:_MAX_REASONS]


def node_rows(job: JobReport) -> tuple[list[NodeRow], str]:
    """The table of nodes, and what it leaves out in words.

    Failed deliveries stand first, and after them those that took longest.
    """
    ordered = sorted(job.deliveries, key=lambda one: (one.error is None, -one.seconds))
    rest = ordered[_MAX_ROWS:]
    more = ""
    if rest or job.deliveries_left_out:
        count = len(rest) + job.deliveries_left_out
        more = f"{count} more deliveries are not in this table"
        if rest:
            more += f"; {len(rest)} of them took at most {rest[0].seconds:.2f} s"
    return [_node_row(one) for one in ordered[:_MAX_ROWS]], more


def error_rows(job: JobReport) -> list[ErrorRow]:
    """The errors, those with the same words once; most frequent first."""
    groups: dict[tuple[str, str, str], list[HubdistError]] = {}
    for error in job.failures:
        groups.setdefault((kind_of(error), error.what, error.advice or ""), []).append(error)
    rows = [
        ErrorRow(
            kind,
            _cut(what),
            _cut(advice),
            names(error.handle for error in several if error.handle),
            names(error.node for error in several if error.node),
            len(several),
        )
        for (kind, what, advice), several in sorted(groups.items(), key=lambda group: -len(group[1]))
    ]
    return rows[:_MAX_ERRORS]


def setting_rows(job: JobReport) -> list[tuple[str, str, bool]]:
    """Key, value as text, and whether it was given; those that were given stand first."""
    given = set(job.given)
    keys = sorted(job.settings, key=lambda key: (key not in given, key))
    return [(key, _cut(_plain(job.settings[key])), key in given) for key in keys]


def pin_rows(job: JobReport) -> tuple[list[PinReport], int]:
    """The newest handles, and how many older ones there are."""
    shown = [replace(pin, handle=_cut(pin.handle), source=_cut(pin.source, _MAX_NAME)) for pin in job.pins[-_MAX_PINS:]]
    return shown, job.pins_left_out + len(job.pins) - len(shown)


def curves_of(job: JobReport) -> list[tuple[str, list[NodeReport]]]:
    """Handle and its deliveries that bytes came for; the models of most bytes, at most six."""
    groups: dict[tuple[str, str], list[NodeReport]] = {}
    for one in job.deliveries:
        if one.timeline and one.route is not Route.STORE:
            groups.setdefault((one.handle, one.digest), []).append(one)
    largest = sorted(groups.items(), key=lambda group: -sum(one.bytes_received for one in group[1]))
    return [(_cut(handle), several) for (handle, _), several in largest[:_MAX_CURVES]]


def names(found: Iterable[str], most: int = _MAX_NAMES) -> str:
    """A few names, each once, and how many more there are.

    Args:
        found: The names.
        most: How many are shown.
    """
    counted = list(dict.fromkeys(found))
    shown = ", ".join(_cut(name, _MAX_NAME) for name in counted[:most])
    return f"{shown} and {len(counted) - most} more" if len(counted) > most else shown


def _node_row(one: NodeReport) -> NodeRow:
    sent = one.bytes_received and one.error is None
    notes = []
    if one.retries:
        notes.append(f"{one.retries} chunks sent again")
    if one.refused:
        notes.append(f"{one.refused} of them with wrong bytes")
    if one.closed_ports:
        notes.append(f"port not reached: {names(one.closed_ports)}")
    if one.predicted_s is not None:
        notes.append(f"{one.predicted_s:.2f} s predicted")
    had = dict(one.sources).get(OWN_STORE, 0)
    if had:
        notes.append(f"{size_text(had)} were in older snapshots")
    if one.error is not None:
        notes.insert(0, kind_of(one.error))  # its words stand among the errors
    return NodeRow(
        _cut(one.name, _MAX_NAME),
        _ending(one.handle),
        _cut(one.handle, 2 * _MAX_NAME),
        _route(one),
        _received(one.bytes_received),
        names((_sender(name) for name, _ in one.sources if name != OWN_STORE), most=1),
        one.seconds,
        f"{size_text(round(one.bytes_received / one.seconds))}/s" if sent and one.seconds > 0 else "",
        "; ".join(notes),
        one.error is not None,
    )


def _received(count: int) -> str:
    return size_text(count) if count else ""


def _sender(name: str) -> str:
    return _ending(name) if len(name) > _MAX_ENDING else name


def _ending(handle: str) -> str:
    """The last parts of a URL or path, as many as fit into a column."""
    parts = handle.rstrip("/").split("/")
    text = parts.pop()
    while parts and parts[-1] and len(text) + len(parts[-1]) < _MAX_ENDING:
        text = f"{parts.pop()}/{text}"
    text = text if len(text) <= _MAX_ENDING else f"…{text[-_MAX_ENDING:]}"
    return text if text == handle else f"…/{text}" if not text.startswith("…") else text


def _route(one: NodeReport) -> str:
    return "failed" if one.error is not None or one.route is None else str(one.route)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut(text: str, most: int = _MAX_TEXT) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
