"""hubdist behind tensorflow_hub does what tensorflow_hub does: each case of `tests/support/tensorflow_hub_cases`."""

from __future__ import annotations

import ast
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from tests.support import REPOSITORY
from tests.support.legacy import legacy_environment

pytestmark = pytest.mark.tf

CASES = sorted((REPOSITORY / "tests" / "support" / "tensorflow_hub_cases").glob("*_cases.py"))
NAMES = [
    node.name
    for path in CASES
    for node in ast.parse(path.read_text(encoding="utf-8")).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """For each case the texts of its failures; an empty list where it passed in all its forms."""
    report = tmp_path_factory.mktemp("cases") / "report.xml"
    done = subprocess.run(
        # Warnings are left to the packages, which are older than this TensorFlow.
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore"),
            *("-p", "tests.support.tensorflow_hub_cases.fixtures", f"--junitxml={report}"),
            *CASES,
        ],
        cwd=REPOSITORY,
        env=legacy_environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert report.exists(), done.stdout + done.stderr
    found: dict[str, list[str]] = {}
    for case in ET.fromstring(report.read_text(encoding="utf-8")).iter("testcase"):
        failures = found.setdefault(case.attrib["name"].partition("[")[0], [])
        failures += [
            f"{case.attrib['name']}: {each.text}" for each in case if each.tag in ("failure", "error", "skipped")
        ]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_case_passes_in_a_process_with_tensorflow_hub(outcomes: dict[str, list[str]], name: str) -> None:
    assert outcomes[name] == []
