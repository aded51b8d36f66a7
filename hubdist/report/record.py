"""Writes and reads the record of a job: a `JobReport` as one JSON document, the only module that knows its form.

The document has `"format": 1`. A change that an older reader would misread needs another number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from hubdist.delivery.routes import Route
from hubdist.errors import HubdistError
from hubdist.report.delivery import NodeReport, PinReport
from hubdist.report.job import MAX_DELIVERIES, MAX_ERRORS, MAX_PINS, JobReport, RecordedError, kind_of
from hubdist.report.plan import RouteTotal

FORMAT = 1

MAX_BYTES = 64 << 20
"""No record is larger; a larger file is not read."""

_POINTS = 64
_SENDERS = 64
_TEXT = 1_000


def write_record(report: JobReport) -> str:
    """The record of a job, as JSON.

    It holds the newest deliveries, pins and errors. Timelines are thinned, and texts of errors are cut.
    """
    deliveries = report.deliveries[-MAX_DELIVERIES:]
    values = {
        "format": FORMAT,
        **{name: getattr(report, name) for name in _PLAIN},
        "versions": dict(report.versions),
        "settings": dict(report.settings),
        "pins": [_values(pin) for pin in report.pins[-MAX_PINS:]],
        "deliveries": [_delivery(one) for one in deliveries],
        "errors": [_error(error) for error in report.errors[-MAX_ERRORS:]],
        "totals": [_values(total) for total in report.totals],
        "pins_left_out": report.pins_left_out + max(0, len(report.pins) - MAX_PINS),
        "deliveries_left_out": report.deliveries_left_out + len(report.deliveries) - len(deliveries),
    }
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def read_record(text: str, where: str) -> JobReport:
    """The job that a record describes.

    Args:
        text: What `write_record` gave.
        where: What errors call the text, such as the name of a file.

    Raises:
        HubdistError: The text is not a record, or one of a format that this version does not know.
    """
    try:
        values = json.loads(text)
        found = values.get("format")
        if found == FORMAT:
            return _report(values)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise HubdistError(f"{where} is not the record of a job: {type(error).__name__}") from None
    raise HubdistError(
        f"{where} is not the record of a job in format {FORMAT}: it says format {str(found)[:20]}",
        advice="Read it with the version of hubdist that wrote it, or a newer one.",
    )


def read_record_file(path: Path) -> JobReport:
    """The job that a file describes.

    Raises:
        HubdistError: The file cannot be read, or is not a record.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise HubdistError(f"{path} is too large for the record of a job")
        return read_record(data.decode(), str(path))
    except OSError as error:
        raise HubdistError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise HubdistError(f"{path} is not the record of a job: it is not UTF-8") from None


_PLAIN = ("job", "session", "coordinator", "began", "written", "closed", "given")


def _delivery(report: NodeReport) -> dict[str, Any]:
    step = -(-len(report.timeline) // _POINTS) or 1
    timeline = [(round(seconds, 4), size) for seconds, size in report.timeline[::-step][::-1]]
    sources = list(report.sources[:_SENDERS])
    rest = sum(size for _, size in report.sources[_SENDERS:])
    if rest:
        sources.append((f"{len(report.sources) - _SENDERS} others", rest))
    whole = replace(report, error=None, timeline=tuple(timeline), sources=tuple(sources))
    return _values(whole) | {"error": None if report.error is None else _error(report.error)}


def _values(one: Any) -> dict[str, Any]:
    """The fields of a value; `dataclasses.asdict` would copy what they hold, which takes ten times as long."""
    return {each.name: getattr(one, each.name) for each in fields(one)}


def _error(error: HubdistError) -> dict[str, str | None]:
    return {
        "kind": kind_of(error),
        "what": _cut(error.what),
        "handle": error.handle,
        "node": error.node,
        "advice": None if error.advice is None else _cut(error.advice),
    }


def _cut(text: str) -> str:
    return text if len(text) <= _TEXT else f"{text[:_TEXT]}..."


def _report(values: Mapping[str, Any]) -> JobReport:
    known = {each.name for each in fields(JobReport)}
    plain = {name: value for name, value in values.items() if name in known}
    return JobReport(
        **plain
        | {
            "given": tuple(values["given"]),
            "pins": tuple(PinReport(**_known(PinReport, pin)) for pin in values["pins"]),
            "deliveries": tuple(_read_delivery(one) for one in values["deliveries"]),
            "errors": tuple(_read_error(error) for error in values["errors"]),
            "totals": tuple(
                RouteTotal(**_known(RouteTotal, total) | {"route": _route(total["route"])})
                for total in values["totals"]
            ),
        }
    )


def _read_delivery(values: Mapping[str, Any]) -> NodeReport:
    return NodeReport(
        **_known(NodeReport, values)
        | {
            "route": _route(values["route"]),
            "sources": tuple((str(name), int(size)) for name, size in values["sources"]),
            "timeline": tuple((float(seconds), int(size)) for seconds, size in values["timeline"]),
            "closed_ports": tuple(values["closed_ports"]),
            "error": None if values["error"] is None else _read_error(values["error"]),
        }
    )


def _read_error(values: Mapping[str, Any]) -> RecordedError:
    return RecordedError(
        values["what"],
        kind=values["kind"],
        handle=values["handle"],
        node=values["node"],
        advice=values["advice"],
    )


def _route(name: str | None) -> Route | None:
    return None if name is None else Route(name)


def _known(kind: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a class has fields for: a later version may write more."""
    known = {each.name for each in fields(kind)}
    return {name: value for name, value in values.items() if name in known}
