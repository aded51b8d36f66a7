"""The examples run as their own words say; `examples/job_submit` has `test_job_submit.py`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

WHEEL = Path("build/demo/basic_pitch-0.4.0-py2.py3-none-any.whl")
TEXT_WHEEL = Path("build/demo/guesslang-2.2.1-py3-none-any.whl")


def run_example(name: str, wheel: Path) -> str:
    """What an example prints that takes the wheel of a model."""
    if not wheel.exists():
        pytest.skip(f"{wheel.name} is missing: run make test")
    done = subprocess.run(
        [sys.executable, f"examples/{name}", str(wheel)],
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.cluster
@pytest.mark.tf
def test_the_quickstart_transcribes_the_melody_on_three_nodes(tmp_path: Path) -> None:
    if not WHEEL.exists():
        pytest.skip("the demo's wheel is missing: run make demo, or make test")
    done = subprocess.run(
        [sys.executable, "examples/quickstart.py", str(WHEEL), "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the origin was read once" in done.stdout
    assert done.stdout.count(": driver, 1.3 MB from ") == 2
    assert "24 played, 24 of them found" in done.stdout
    assert (tmp_path / "piano-roll.png").stat().st_size > 20_000


@pytest.mark.cluster
@pytest.mark.tf
def test_a_published_model_is_fine_tuned_on_two_nodes_and_served() -> None:
    printed = run_example("train_model.py", WHEEL)
    sure = {
        name: float(played)
        for name, played in re.findall(r"^([\w -]+): ([\d.]+) sure of notes", printed, flags=re.MULTILINE)
    }
    assert sure["fine-tuned"] > sure["as published"] + 0.15, printed
    assert "2 workers, 20 steps" in printed
    assert "each origin was read once: True" in printed


@pytest.mark.cluster
@pytest.mark.tf
def test_trials_on_two_nodes_share_one_read_of_the_origin() -> None:
    printed = run_example("tune_model.py", TEXT_WHEEL)
    shown = Path("docs/how-to/tune.md").read_text(encoding="utf-8")
    rows = [line for line in printed.splitlines() if "languages are told right" in line]
    assert len(rows) == 4
    assert [row for row in rows if row not in shown] == []
    assert "4 trials on 2 nodes, and the wheel was read 1 time" in printed


@pytest.mark.tf
def test_a_model_with_a_vocabulary_answers_from_a_remote_tensorflow_worker() -> None:
    done = subprocess.run(
        [sys.executable, "examples/remote_tf_worker.py"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [
        "variable on /job:worker/replica:0/task:0/device:CPU:0",
        "green: [0.0, 1.0, 0.0]",
        "blue: [0.0, 0.0, 1.0]",
        "mauve: [0.5, 0.5, 0.5]",
    ]


def test_every_example_is_run_by_a_test() -> None:
    examples = {path.relative_to("examples").parts[0] for path in Path("examples").rglob("*.py")}
    assert examples == {"quickstart.py", "remote_tf_worker.py", "train_model.py", "tune_model.py", "job_submit"}


@pytest.mark.cluster
def test_the_output_in_the_documentation_is_that_of_its_script() -> None:
    done = subprocess.run(
        [sys.executable, "docs/make_output.py"],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    calls = [line for line in done.stdout.splitlines() if line.startswith(">>> ")]
    assert len(calls) > 4
    shown = Path("docs/concepts.md").read_text(encoding="utf-8") + Path("README.md").read_text(encoding="utf-8")
    assert [call for call in calls if call not in shown] == []
