"""The dashboard of hubdist's metrics for Grafana, beside the dashboards that Ray writes.

    python -m hubdist.cluster.grafana > configs/grafana-hubdist.json

It has the variables of Ray's own dashboards: the data source, the session and the node.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from hubdist.cluster.metrics import (
    DELIVERIES,
    DELIVERY_SECONDS,
    EVICTIONS,
    HITS,
    RECEIVED,
    REFUSED,
    RESOLVE_SECONDS,
    RESOLVES,
    RETRIES,
    Metric,
)

FILE = "hubdist_grafana_dashboard.json"
"""The name of the file in the directory that Ray's Grafana reads; Ray's own are named in the same way."""

UID = "rayHubdistDashboard"
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_FILTER = 'SessionName=~"$SessionName",node=~"$Node"'
_WIDTH, _HEIGHT, _STAT_HEIGHT = 12, 8, 4


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana's JSON has it."""
    received, deliveries = RECEIVED.exported[0], DELIVERIES.exported[0]
    travelled = f'{received}{{{_FILTER},route!="resolve",source!="own_store"}}'
    failed = f'{deliveries}{{{_FILTER},outcome="failed"}}'
    stats = [
        _stat("Received by nodes", "bytes", f"sum(max_over_time({travelled}[$__range]))"),
        _stat(
            "Read from the origin",
            "bytes",
            f'sum(max_over_time({received}{{{_FILTER},source="origin"}}[$__range]))',
        ),
        _stat("Deliveries", "short", f"sum(max_over_time({deliveries}{{{_FILTER}}}[$__range]))"),
        _stat("Failed deliveries", "short", f"sum(max_over_time({failed}[$__range])) or vector(0)", bad=True),
    ]
    panels = [
        _graph("Received until then, by source", RECEIVED, "bytes", [(_sum(RECEIVED, "source"), "{{source}}")]),
        _graph("Received until then, by route", RECEIVED, "bytes", [(_sum(RECEIVED, "route"), "{{route}}")]),
        _graph(
            "Received until then, by node", RECEIVED, "bytes", [(f"topk(20, {_sum(RECEIVED, 'node')})", "{{node}}")]
        ),
        _graph(
            "Deliveries", DELIVERIES, "short", [(_increase(DELIVERIES, "route, outcome"), "{{route}}, {{outcome}}")]
        ),
        _graph("Wait for a model, all until then", DELIVERY_SECONDS, "s", _quantiles(DELIVERY_SECONDS), stack=False),
        _graph(
            "Time to resolve a handle, all until then", RESOLVE_SECONDS, "s", _quantiles(RESOLVE_SECONDS), stack=False
        ),
        _graph(
            "Handles resolved", RESOLVES, "short", [(_increase(RESOLVES, "source, outcome"), "{{source}}, {{outcome}}")]
        ),
        _graph("Found in the node's store", HITS, "short", [(_increase(HITS, "node"), "{{node}}")]),
        _graph(
            "Chunks sent again",
            RETRIES,
            "short",
            [(_increase(RETRIES, "node"), "{{node}}"), (_increase(REFUSED, "node"), "{{node}}, wrong bytes")],
        ),
        _graph("Evictions", EVICTIONS, "short", [(_increase(EVICTIONS, "node"), "{{node}}")]),
    ]
    return {
        "uid": UID,
        "title": "hubdist",
        "description": "How models of hubdist come to the nodes of a Ray cluster.",
        "tags": ["ray", "hubdist"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "",
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": _variables()},
        "panels": _placed(stats, panels),
    }


def dashboard_text() -> str:
    """The dashboard as the text of a file."""
    return json.dumps(dashboard(), indent=2) + "\n"


# A delivery is soon over, and Prometheus sees a counter for the first time when it has counted already. `rate` and
# `increase` would call that no change. So sums are shown as they are, and a counter that is new counts as a whole.


def _sum(metric: Metric, by: str) -> str:
    return f"sum by ({by}) ({metric.exported[0]}{{{_FILTER}}})"


def _increase(metric: Metric, by: str) -> str:
    now = f"{metric.exported[0]}{{{_FILTER}}}"
    return f"sum by ({by}) ({now} - {now} offset $__rate_interval or {now})"


def _quantiles(metric: Metric) -> list[tuple[str, str]]:
    counts = f"sum by (le) ({metric.exported[0]}{{{_FILTER}}})"
    return [
        (f"histogram_quantile({share}, {counts})", name)
        for share, name in ((0.5, "median"), (0.9, "90 of 100"), (0.99, "99 of 100"))
    ]


def _variables() -> list[dict[str, Any]]:
    sessions = f"label_values({DELIVERIES.exported[0]}, SessionName)"
    nodes = f'label_values({DELIVERIES.exported[0]}{{SessionName=~"$SessionName"}}, node)'
    source = {
        "name": "datasource",
        "type": "datasource",
        "query": "prometheus",
        "refresh": 1,
        "hide": 0,
        "label": "Data source",
    }
    return [source, _variable("SessionName", "Session", sessions), _variable("Node", "Node", nodes)]


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "definition": query,
        "query": query,
        "refresh": 2,
        "sort": 2 if name == "SessionName" else 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "hide": 0,
        "options": [],
        "regex": "",
    }


def _targets(expressions: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    return [
        {"refId": "ABCDEFGH"[at], "datasource": _SOURCE, "expr": expression, "legendFormat": legend}
        for at, (expression, legend) in enumerate(expressions)
    ]


def _stat(title: str, unit: str, expression: str, *, bad: bool = False) -> dict[str, Any]:
    steps = [{"color": "green", "value": None}] + [{"color": "red", "value": 1}] * bad
    return {
        "type": "stat",
        "title": title,
        "datasource": _SOURCE,
        "targets": _targets([(expression, "")]),
        "fieldConfig": {
            "defaults": {"unit": unit, "thresholds": {"mode": "absolute", "steps": steps}},
            "overrides": [],
        },
        "options": {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "graphMode": "none",
            "colorMode": "value",
            "justifyMode": "auto",
            "textMode": "auto",
            "wideLayout": True,
            "showPercentChange": False,
            "percentChangeColorMode": "standard",
            "orientation": "auto",
        },
    }


def _graph(
    title: str, metric: Metric, unit: str, expressions: Sequence[tuple[str, str]], *, stack: bool = True
) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": title,
        "description": metric.text,
        "datasource": _SOURCE,
        "targets": _targets(expressions),
        "fieldConfig": {
            "defaults": {
                "unit": unit,
                "min": 0,
                "custom": {
                    "fillOpacity": 20 if stack else 0,
                    "lineWidth": 1,
                    "showPoints": "never",
                    "stacking": {"mode": "normal" if stack else "none", "group": "A"},
                },
            },
            "overrides": [],
        },
        "options": {
            "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def _placed(stats: Sequence[dict[str, Any]], panels: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The panels with their numbers and places: small ones in the first row, below them two in a row."""
    width = 24 // len(stats)
    small = [
        panel | {"id": at + 1, "gridPos": {"x": width * at, "y": 0, "w": width, "h": _STAT_HEIGHT}}
        for at, panel in enumerate(stats)
    ]
    large = [
        panel
        | {
            "id": len(stats) + at + 1,
            "gridPos": {"x": _WIDTH * (at % 2), "y": _STAT_HEIGHT + _HEIGHT * (at // 2), "w": _WIDTH, "h": _HEIGHT},
        }
        for at, panel in enumerate(panels)
    ]
    return [*small, *large]


if __name__ == "__main__":
    sys.stdout.write(dashboard_text())
