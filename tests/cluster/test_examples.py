"""The examples run as their own words say; other tests run some of them."""

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
def test_a_published_model_is_fine_tuned_on_two_nodes_and_served() -> None:
    printed = run_example("train_model.py", WHEEL)
    sure = {
        name: float(played)
        for name, played in re.findall(r"^([\w -]+): ([\d.]+) sure of notes", printed, flags=re.MULTILINE)
    }
    assert sure["fine-tuned"] > sure["as published"] + 0.15, printed
    assert "2 workers, 20 steps" in printed  # of `MultiWorkerMirroredStrategy`, which a single worker would be without
    assert "each origin was read once: True" in printed


@pytest.mark.cluster
@pytest.mark.tf
def test_a_dataset_of_code_gets_its_languages_by_batches_and_by_an_expression() -> None:
    said = run_example("batch_prediction.py", TEXT_WHEEL)
    assert "400 rows, 100% right; the origin was read 1 time" in said
    assert "by an expression the scores are the same: True" in said


@pytest.mark.cluster
@pytest.mark.tf
def test_a_server_rolls_to_the_next_version_while_a_client_asks() -> None:
    said = run_example("serve_model.py", TEXT_WHEEL)
    assert "\npy, 0.06, says sha256:" in f"\n{said}"
    assert re.search(r"rolled to sha256:\w+: 0 of \d{2,} requests failed", said)
    assert "both versions have answered: True" in said
    assert "each origin was read once: True" in said


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


_SERVICE = """
import sys, hubdist, embedder
from ray import serve

class Request:
    async def json(self):
        return ["hello", "world"]

application = embedder.app({"handle": sys.argv[1]})
print(serve.run(application, _local_testing_mode=True).remote(Request()).result(timeout_s=60))
"""


@pytest.mark.tf
def test_the_service_answers_texts_with_vectors(tmp_path: Path, models: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", _SERVICE, str(models / "tf2")],
        cwd="examples/rayservice",
        env={**environment, "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("[[")


@pytest.mark.tf
def test_a_published_model_is_fine_tuned_as_a_layer_saved_and_loaded(tmp_path: Path) -> None:
    if not WHEEL.exists():
        pytest.skip("the demo's wheel is missing: run make demo, or make test")
    done = subprocess.run(
        [sys.executable, "examples/fine_tune_layer.py", str(WHEEL), "--out", str(tmp_path / "piccolo.keras")],
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert said[0] == "18 of 24 weights are trained"
    published, tuned, loaded = (
        int(line.partition("%")[0].rpartition(" ")[2]) for line in said if "of the frames" in line
    )
    assert published < 10
    assert tuned > 75
    assert loaded == tuned


def test_every_example_is_run_by_a_test() -> None:
    examples = {path.relative_to("examples").parts[0] for path in Path("examples").rglob("*.py")}
    assert examples == {
        "batch_prediction.py",
        "fine_tune_layer.py",
        "job_submit",  # by test_job_submit.py
        "quickstart.py",  # by tests/packaging
        "rayservice",
        "remote_tf_worker.py",
        "serve_model.py",
        "train_model.py",
        "tune_model.py",
        "unchanged_tensorflow_hub.py",  # by test_tensorflow_hub.py
    }


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
