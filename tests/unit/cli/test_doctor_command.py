"""`hubdist doctor` and `hubdist env` at the terminal, without Ray: tables, JSON, bare names, exit codes, speed."""

from __future__ import annotations

import json
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hubdist.cli.findings import shown, to_record
from hubdist.cli.main import hubdist_command
from hubdist.cli.output import Form, Output
from hubdist.health.finding import Finding, Level


def doctor(*arguments: str) -> Result:
    return CliRunner().invoke(hubdist_command, ["doctor", "--address", "local", *arguments])


def test_a_machine_that_is_well_ends_with_0_and_a_count(tmp_path: Path) -> None:
    done = doctor("--set", f"store={tmp_path}/store")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1].endswith("0 failures")
    assert "Stores" in done.stdout


def test_a_fault_ends_with_1_and_is_named_bare_with_q(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = doctor("-q", "--set", f"store={tmp_path}/file/store", "http://127.0.0.1:9/m/1")
    assert done.exit_code == 1
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["store-rights", "origin"]


def test_json_has_each_finding(tmp_path: Path) -> None:
    done = doctor("--json", "--set", f"store={tmp_path}/store", f"{tmp_path}/missing")
    record = json.loads(done.stdout)
    assert record["counts"]["fail"] == 1
    (failure,) = [each for each in record["findings"] if each["level"] == "fail"]
    assert set(failure) == {"check", "level", "node", "found", "mend"}
    assert failure["mend"]


def test_a_wrong_setting_is_wrong_use() -> None:
    assert doctor("--set", "sotre=/x").exit_code == 2


def findings(count: int) -> list[Finding]:
    return [
        Finding("ray", Level.OK, "", "Ray answers"),
        *(Finding("store-speed", Level.OK, f"n{number}", f"{number} MiB/s") for number in range(count)),
        Finding("store-space", Level.FAIL, "n1", "the disk is full", "Free space."),
        *(Finding("ports", Level.OK, f"n{number}", "its port is reached") for number in range(count)),
    ]


def human(count: int) -> str:
    out = StringIO()
    Output(Form.HUMAN, out, StringIO()).give(shown(findings(count)), None)
    return out.getvalue()


def test_the_mend_stands_below_the_fault() -> None:
    lines = human(3).splitlines()
    at = next(number for number, line in enumerate(lines) if "the disk is full" in line)
    assert lines[at].split()[:2] == ["fail", "n1"]
    assert lines[at + 1].strip() == "→ Free space."


def test_nodes_of_which_the_same_is_true_share_a_line() -> None:
    assert sum("its port is reached" in line for line in human(3).splitlines()) == 1
    assert "3 nodes" in human(3)


def test_of_many_nodes_that_are_well_not_all_are_shown_and_no_fault_is_lost() -> None:
    text = human(500)
    assert len(text.splitlines()) < 30
    assert "the disk is full" in text
    assert "490 more" in text
    assert len(to_record(findings(500))["findings"]) == 1002


@pytest.mark.parametrize("arguments", [["env"], ["env", "--json"]])
def test_env_is_quick_and_loads_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys\nfrom hubdist.cli.main import hubdist_command\n"
        f"hubdist_command.main({arguments!r}, standalone_mode=False)\n"
        "heavy = {'ray', 'tensorflow', 'gcsfs', 'fsspec', 'numpy'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip().splitlines()[-1] == "[]"
    assert "kernel" in done.stdout
