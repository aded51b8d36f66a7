"""The map of the packages in CONTRIBUTING.md is that of the code."""

from __future__ import annotations

import re

from tests.support import REPOSITORY
from tests.unit.test_architecture import HOMES, LAYERS

MAP = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d+) \| `(\w+)` \| (.*?) \| (.*?) ?\|$", MAP, flags=re.MULTILINE)
"""Level, package, what it does, third-party packages that it may import."""


def test_the_map_has_every_package_at_its_level() -> None:
    levels = {package: level for level, layer in enumerate(LAYERS, 1) for package in layer - {"__init__"}}
    assert {package: int(level) for level, package, _, _ in ROWS} == levels


def test_the_map_goes_from_the_top_level_down() -> None:
    levels = [int(level) for level, *_ in ROWS]
    assert levels == sorted(levels, reverse=True)


def test_the_map_names_each_third_party_package_at_its_homes() -> None:
    homes = {
        package: sorted(name for name, parts in HOMES.items() if package in parts)
        for package in set().union(*LAYERS) - {"__init__"}
    }
    assert {package: third_party.split(", ") if third_party else [] for _, package, _, third_party in ROWS} == homes


def test_the_map_says_what_each_package_does() -> None:
    assert all(len(text) > 15 for _, _, text, _ in ROWS)


def test_every_module_that_contributing_names_is_there() -> None:
    named = re.findall(
        r"`((?:[a-z_]+/)+(?:[a-z_]+\.py)?|[a-z_]+\.py)`", MAP[MAP.index("### Where") : MAP.index("## Rules")]
    )
    assert named
    roots = [REPOSITORY, REPOSITORY / "hubdist", REPOSITORY / "hubdist" / "cluster" / "coordinator"]
    assert [name for name in named if not any((root / name).exists() for root in roots)] == []
