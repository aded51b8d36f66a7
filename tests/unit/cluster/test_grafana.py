"""The dashboard: of the form that Grafana reads, with expressions of PromQL over metrics that there are."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import jsonschema
import promql_parser
import pytest
from click.testing import CliRunner, Result

from hubdist.cli.commands.grafana import grafana
from hubdist.cli.exits import Exit
from hubdist.cluster.grafana import FILE, dashboard, dashboard_text
from hubdist.cluster.metrics import DECLARED
from tests.support import REPOSITORY

BOARD = dashboard()

_TEXT = {"type": "string", "minLength": 1}
_SOURCE = {
    "type": "object",
    "required": ["type", "uid"],
    "properties": {"type": {"const": "prometheus"}, "uid": {"const": "${datasource}"}},
}
_TARGET = {
    "type": "object",
    "required": ["refId", "expr", "datasource"],
    "properties": {
        "refId": {"type": "string", "pattern": "^[A-Z]$"},
        "expr": _TEXT,
        "legendFormat": {"type": "string"},
        "datasource": _SOURCE,
    },
    "additionalProperties": False,
}
_PLACE = {
    "type": "object",
    "required": ["x", "y", "w", "h"],
    "properties": {
        "x": {"type": "integer", "minimum": 0, "maximum": 23},
        "y": {"type": "integer", "minimum": 0},
        "w": {"type": "integer", "minimum": 1, "maximum": 24},
        "h": {"type": "integer", "minimum": 1},
    },
}
_PANEL = {
    "type": "object",
    "required": ["id", "type", "title", "gridPos", "targets", "fieldConfig", "datasource", "options"],
    "properties": {
        "id": {"type": "integer", "minimum": 1},
        "type": {"enum": ["timeseries", "stat"]},
        "title": _TEXT,
        "description": _TEXT,
        "datasource": _SOURCE,
        "gridPos": _PLACE,
        "targets": {"type": "array", "minItems": 1, "items": _TARGET},
        "fieldConfig": {
            "type": "object",
            "required": ["defaults", "overrides"],
            "properties": {
                "defaults": {
                    "type": "object",
                    "required": ["unit"],
                    "properties": {"unit": {"enum": ["bytes", "short", "s"]}},
                },
                "overrides": {"type": "array"},
            },
        },
        "options": {"type": "object"},
    },
    "additionalProperties": False,
}
_VARIABLE = {
    "type": "object",
    "required": ["name", "type", "query"],
    "properties": {
        "name": {"enum": ["datasource", "SessionName", "Node"]},
        "type": {"enum": ["datasource", "query"]},
        "query": _TEXT,
        "hide": {"enum": [0, 1, 2]},
        "refresh": {"enum": [0, 1, 2]},
        "sort": {"type": "integer", "minimum": 0, "maximum": 8},
    },
}
SCHEMA = {
    "type": "object",
    "required": ["uid", "title", "schemaVersion", "panels", "templating", "time", "editable", "graphTooltip"],
    "properties": {
        "uid": {"type": "string", "pattern": "^[A-Za-z0-9_-]{8,40}$"},
        "title": _TEXT,
        "schemaVersion": {"type": "integer", "minimum": 36},
        "version": {"type": "integer"},
        "graphTooltip": {"enum": [0, 1, 2]},
        "refresh": {"type": "string", "pattern": "^[0-9]+[smh]$"},
        "tags": {"type": "array", "items": _TEXT},
        "panels": {"type": "array", "minItems": 1, "items": _PANEL},
        "templating": {"type": "object", "properties": {"list": {"type": "array", "items": _VARIABLE}}},
        "annotations": {"type": "object", "properties": {"list": {"type": "array"}}},
    },
}
"""The parts of Grafana's form that this dashboard uses, written down here by hand from its documentation."""


def expressions() -> list[str]:
    return [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]


def filled(expression: str) -> str:
    """An expression as Grafana sends it to Prometheus."""
    for name, value in (
        ("$__rate_interval", "1m"),
        ("$__range", "30m"),
        ("$SessionName", "session_1"),
        ("$Node", "10.0.0.1/aaaa"),
    ):
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


def selectors(node: Any) -> list[Any]:
    """All selectors of a parsed expression."""
    found = [node] if isinstance(node, promql_parser.VectorSelector) else []
    for name in ("expr", "lhs", "rhs", "param", "vector_selector"):
        inner = getattr(node, name, None)
        if inner is not None and not isinstance(inner, (str, float)):
            found += selectors(inner)
    for inner in getattr(node, "args", []):
        found += selectors(inner)
    return found


def test_the_file_of_the_repository_is_what_the_code_makes() -> None:
    path = REPOSITORY / "configs" / "grafana-hubdist.json"
    assert path.read_text(encoding="utf-8") == dashboard_text(), "run `make configs`"


def test_the_dashboard_has_the_form_that_grafana_reads() -> None:
    jsonschema.validate(json.loads(dashboard_text()), SCHEMA)


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    panels = BOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart


@pytest.mark.parametrize("expression", expressions())
def test_every_expression_is_promql_over_declared_metrics_and_their_tags(expression: str) -> None:
    declared = {name: metric for metric in DECLARED for name in metric.exported}
    found = selectors(promql_parser.parse(filled(expression)))
    assert found
    for selector in found:
        metric = declared[selector.name]
        known = {*metric.tags, "SessionName"}
        assert {matcher.name for matcher in selector.matchers.matchers} <= known
        assert {"SessionName", "node"} <= {matcher.name for matcher in selector.matchers.matchers}
        grouped = {word for each in re.findall(r"by \(([^)]*)\)", expression) for word in re.split(r",\s*", each)}
        assert grouped <= known | ({"le"} if metric.boundaries is not None else set())


def test_legends_name_tags_that_the_expression_keeps() -> None:
    for panel in BOARD["panels"]:
        for target in panel["targets"]:
            kept = re.findall(r"by \(([^)]*)\)", target["expr"])
            words = {word for each in kept for word in re.split(r",\s*", each)}
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= words


def test_every_declared_metric_is_shown() -> None:
    text = " ".join(expressions())
    assert [metric.name for metric in DECLARED if not any(name in text for name in metric.exported)] == []


def test_variables_are_those_of_rays_dashboards_and_ask_for_declared_metrics() -> None:
    variables = {variable["name"]: variable for variable in BOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "SessionName", "Node"]
    declared = {name for metric in DECLARED for name in metric.exported}
    for name in ("SessionName", "Node"):
        asked = re.match(r"label_values\((\w+)", variables[name]["definition"])
        assert asked is not None
        assert asked[1] in declared


# The command


def run(*arguments: str | Path, **environment: str) -> Result:
    return CliRunner().invoke(grafana, [str(argument) for argument in arguments], env=environment)


@pytest.mark.parametrize("form", [(), ("--json",), ("-q",)])
def test_without_an_option_the_dashboard_is_printed(form: tuple[str, ...]) -> None:
    done = run(*form)
    assert json.loads(done.stdout) == BOARD


def test_it_is_written_to_a_file_whose_path_is_printed(tmp_path: Path) -> None:
    path = tmp_path / "board.json"
    assert run("-o", path).stdout == f"{path}\n"
    assert path.read_text(encoding="utf-8") == dashboard_text()


def test_it_is_installed_where_rays_grafana_reads(tmp_path: Path) -> None:
    named = tmp_path / "named"
    latest = tmp_path / "ray" / "session_latest" / "metrics" / "grafana" / "dashboards"
    root = tmp_path / "root" / "grafana" / "dashboards"
    for folder in (named, latest, root):
        folder.mkdir(parents=True)
    here = {"RAY_TMPDIR": str(tmp_path)}
    assert run("--install", **here).stdout == f"{latest / FILE}\n"
    assert run("--install", **here, RAY_METRICS_OUTPUT_ROOT=str(tmp_path / "root")).stdout == f"{root / FILE}\n"
    told = run("--install", **here, RAY_METRICS_GRAFANA_DASHBOARD_OUTPUT_DIR=str(named))
    assert told.stdout == f"{named / FILE}\n"
    other = tmp_path / "other"
    other.mkdir()
    assert run("--install", other).stdout == f"{other / FILE}\n"
    assert json.loads((other / FILE).read_text(encoding="utf-8")) == BOARD


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    missing = run("--install", tmp_path / "none")
    assert (missing.exit_code, missing.stdout) == (Exit.FAILED, "")
    assert "there is no directory" in missing.stderr
    assert run("-o", tmp_path / "none" / "x.json").exit_code == Exit.FAILED
    assert run("-o", tmp_path / "x.json", "--install").exit_code == Exit.WRONG_USE
