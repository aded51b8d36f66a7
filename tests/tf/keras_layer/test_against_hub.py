"""`HubLayer` on Keras 3 beside `hub.KerasLayer` on Keras 2: the same outputs, losses, gradients and trained weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.layer_cases import Case, answers, cases, measure

pytestmark = [pytest.mark.tf, pytest.mark.timeout(400)]


def assert_close(expected: np.ndarray, actual: np.ndarray, what: str) -> None:
    if expected.dtype == object:
        assert (expected == actual).all(), what
    else:
        np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-6, err_msg=what)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("saved")


NAMES = [case.name for case in cases(Path(), all_of_them=True)]


@pytest.mark.parametrize("name", NAMES)
def test_outputs_losses_gradients_and_training_are_those_of_tensorflow_hubs_layer(
    published: Path, saved: Path, name: str
) -> None:
    import keras

    from hubdist.integrations.keras import HubLayer

    case = _case(published, name)
    with np.load(published / f"{name}.npz", allow_pickle=True) as expected:
        model, seen = measure(keras, HubLayer, case)
        assert set(seen) == set(expected)
        for what in expected:
            assert_close(expected[what], seen[what], what)
    model.save(saved / f"{name}.keras")
    np.savez(saved / f"{name}.before.npz", **answers(model, case))


@pytest.fixture(scope="module")
def second_process(published: Path, saved: Path) -> Path:
    """What a process with two logical CPUs makes of the outer models that were saved; it runs once for the module."""
    subprocess.run(
        [sys.executable, "-m", "tests.support.layer_process", str(published), str(saved)],
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        check=True,
        timeout=360,
        capture_output=True,
    )
    return saved


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_outer_model_answers_the_same_in_a_new_process(
    published: Path, second_process: Path, name: str
) -> None:
    _case(published, name)
    with (
        np.load(second_process / f"{name}.before.npz", allow_pickle=True) as before,
        np.load(second_process / f"{name}.after.npz", allow_pickle=True) as after,
    ):
        assert set(before) == set(after)
        for what in before:
            assert_close(before[what], after[what], what)


def test_a_mirrored_outer_model_is_trained_and_saved_as_one_on_one_device(second_process: Path) -> None:
    with np.load(second_process / "mirrored.npz") as found:
        assert found["replicas"] == 2
        for kind in ("mirrored", "loaded", "loaded mirrored"):
            for number in range(5):
                assert_close(found[f"alone {number}"], found[f"{kind} {number}"], f"{kind}: weight {number}")


def _case(published: Path, name: str) -> Case:
    found = [case for case in cases(published) if case.name == name]
    if not found:
        pytest.skip("the model's wheel is missing: run make test")
    return found[0]
