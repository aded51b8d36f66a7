"""What TensorFlow may take, with a fake of its `tf.config` in place of GPUs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hubdist.config.tf_environment import environment_sets_gpu_memory, environment_sets_threads
from hubdist.loading import tf_limits
from hubdist.loading.tf_limits import TensorFlowLimits, limit_tensorflow, smallest_gpu_mib


class FakeConfig:
    """TensorFlow's `tf.config` of a process with GPUs, as far as limits are concerned."""

    def __init__(self, gpus: int = 0, *, begun: bool = False) -> None:
        self._gpus = [f"GPU:{number}" for number in range(gpus)]
        self._begun = begun
        self.intra = self.inter = 0
        self.visible = list(self._gpus)
        self.growth: dict[str, bool] = {}
        self.logical: dict[str, list[int]] = {}
        self.threading = SimpleNamespace(
            get_intra_op_parallelism_threads=lambda: self.intra,
            get_inter_op_parallelism_threads=lambda: self.inter,
            set_intra_op_parallelism_threads=lambda count: self._set("intra", count),
            set_inter_op_parallelism_threads=lambda count: self._set("inter", count),
        )
        self.experimental = SimpleNamespace(
            get_memory_growth=self.growth.get, set_memory_growth=lambda gpu, on: self.growth.update({gpu: on})
        )

    def _set(self, name: str, value: Any) -> None:
        if self._begun:
            raise RuntimeError("cannot be modified after initialization")
        setattr(self, name, value)

    def list_physical_devices(self, kind: str) -> list[str]:
        assert kind == "GPU"
        return self._gpus

    def get_visible_devices(self, kind: str) -> list[str]:
        assert kind == "GPU"
        return self.visible

    def set_visible_devices(self, devices: list[str], kind: str) -> None:
        assert kind == "GPU"
        self._set("visible", devices)

    def get_logical_device_configuration(self, gpu: str) -> list[int] | None:
        return self.logical.get(gpu)

    def set_logical_device_configuration(self, gpu: str, parts: list[int]) -> None:
        self.logical[gpu] = parts

    @staticmethod
    def LogicalDeviceConfiguration(memory_limit: int) -> int:  # noqa: N802 - TensorFlow's name
        return memory_limit


@pytest.fixture(autouse=True)
def new_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tf_limits, "_applied", False)
    monkeypatch.setattr(tf_limits, "_ONCE", tf_limits.LogOnce(tf_limits._LOG))
    return


@pytest.fixture
def gpu_of_16_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf_limits, "smallest_gpu_mib", lambda: 16_000)


def limited(config: FakeConfig, limits: TensorFlowLimits) -> FakeConfig:
    limit_tensorflow(SimpleNamespace(config=config), limits)
    return config


@pytest.mark.parametrize(
    ("cpus", "intra", "inter"), [(0.0, 1, 2), (0.25, 1, 2), (1.0, 1, 2), (1.5, 1, 2), (2.0, 2, 2), (16.0, 16, 16)]
)
def test_threads_follow_num_cpus(cpus: float, intra: int, inter: int) -> None:
    config = limited(FakeConfig(), TensorFlowLimits(cpus, 0.0))
    assert (config.intra, config.inter) == (intra, inter)


def test_the_first_load_of_a_process_decides() -> None:
    config = limited(FakeConfig(), TensorFlowLimits(4.0, 0.0))
    assert limited(config, TensorFlowLimits(1.0, 0.0)).intra == 4


def test_threads_that_the_program_or_the_environment_sets_stay(caplog: pytest.LogCaptureFixture) -> None:
    config = FakeConfig(gpus=1)
    config.intra = 8
    with caplog.at_level(logging.INFO, "hubdist"):
        limited(config, TensorFlowLimits(1.0, 1.0))
    assert (config.intra, config.inter) == (8, 0)
    assert [record.getMessage() for record in caplog.records] == [
        "hubdist: this program has configured TensorFlow's threads itself, so they stay so"
    ]
    assert config.growth == {"GPU:0": True}


def test_what_the_environment_sets_stays() -> None:
    config = limited(FakeConfig(gpus=1), TensorFlowLimits(1.0, 1.0, sets_threads=False, sets_memory=False))
    assert (config.intra, config.growth, config.logical) == (0, {}, {})


def test_a_tensorflow_that_works_already_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "hubdist"):
        config = limited(FakeConfig(gpus=1, begun=True), TensorFlowLimits(1.0, 0.0))
    assert (config.intra, config.visible) == (0, ["GPU:0"])
    assert "had begun to work" in caplog.text


def test_a_task_without_gpus_sees_none() -> None:
    assert limited(FakeConfig(gpus=2), TensorFlowLimits(1.0, 0.0)).visible == []


@pytest.mark.usefixtures("gpu_of_16_gib")
def test_whole_gpus_give_the_memory_that_is_needed() -> None:
    config = limited(FakeConfig(gpus=2), TensorFlowLimits(1.0, 2.0))
    assert config.growth == {"GPU:0": True, "GPU:1": True}
    assert config.logical == {}


@pytest.mark.usefixtures("gpu_of_16_gib")
def test_a_part_of_a_gpu_gives_that_part_of_its_memory_and_leaves_room_for_contexts() -> None:
    config = limited(FakeConfig(gpus=1), TensorFlowLimits(1.0, 0.25))
    assert config.logical == {"GPU:0": [3600]}
    assert config.growth == {}  # TensorFlow refuses both together


def test_a_part_of_a_gpu_whose_memory_nobody_tells_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf_limits, "smallest_gpu_mib", lambda: None)
    config = limited(FakeConfig(gpus=1), TensorFlowLimits(1.0, 0.25))
    assert (config.growth, config.logical) == ({"GPU:0": True}, {})


@pytest.mark.parametrize("what", ["growth", "logical", "visible"])
def test_gpus_that_the_program_has_configured_stay(what: str) -> None:
    config = FakeConfig(gpus=2)
    if what == "visible":
        config.visible = ["GPU:1"]
    elif what == "growth":
        config.growth["GPU:0"] = False
    else:
        config.logical["GPU:0"] = [100]
    before = dict(config.growth), dict(config.logical), list(config.visible)
    limited(config, TensorFlowLimits(1.0, 0.0))
    assert (config.growth, config.logical, config.visible) == before


def program(folder: Path, text: str) -> str:
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return str(path)


def test_the_smallest_gpu_of_a_node_counts(tmp_path: Path) -> None:
    assert smallest_gpu_mib(program(tmp_path, "printf '81920\\n40960\\n'")) == 40960


@pytest.mark.parametrize("text", ["exit 9", "echo '[N/A]'", "true"])
def test_memory_that_cannot_be_told_is_unknown(tmp_path: Path, text: str) -> None:
    assert smallest_gpu_mib(program(tmp_path, text)) is None
    assert smallest_gpu_mib(str(tmp_path / "none")) is None


def test_the_environment_tells_what_it_sets() -> None:
    assert environment_sets_threads({"TF_NUM_INTRAOP_THREADS": "4"})
    assert not environment_sets_threads({"TF_NUM_INTRAOP_THREADS": "", "OMP_NUM_THREADS": "4"})
    assert environment_sets_gpu_memory({"TF_FORCE_GPU_ALLOW_GROWTH": "true"})
    assert not environment_sets_gpu_memory({})
