"""Lets TensorFlow take what Ray gave this process's task or actor, and not the whole node.

By itself TensorFlow starts a thread for each core of the node, and takes all memory of each GPU that it sees. That is
right for one process on a node, and wrong for many.
"""

from __future__ import annotations

import logging
import math
import subprocess
import threading
from dataclasses import dataclass
from typing import Any

from hubdist.system.log_once import LogOnce

_LOG = logging.getLogger(__name__)
_ONCE = LogOnce(_LOG)
_guard = threading.Lock()
_applied = False

_MIN_INTER_OP_THREADS = 2
"""An operation that waits for another one must not hold the only thread."""

_CONTEXT_PERCENT = 10
"""Memory of a GPU that its driver and the contexts of processes take, beside what TensorFlow is allowed."""

_NVIDIA_SMI_S = 10.0


@dataclass(frozen=True, slots=True)
class TensorFlowLimits:
    """What TensorFlow may take in this process.

    Attributes:
        cpus: Ray's `num_cpus` of the task or actor; 0 for an actor without.
        gpus: Ray's `num_gpus`.
        sets_threads: False if the environment of the process says how many threads TensorFlow starts.
        sets_memory: False if the environment says how TensorFlow takes the memory of GPUs.
    """

    cpus: float
    gpus: float
    sets_threads: bool = True
    sets_memory: bool = True

    @property
    def threads(self) -> int:
        """Threads for one operation: whole CPUs, and at least one, as Ray itself sets `OMP_NUM_THREADS`."""
        return max(1, math.floor(self.cpus))


def limit_tensorflow(tensorflow: Any, limits: TensorFlowLimits) -> None:
    """Set TensorFlow's threads and GPU memory, once in a process, before TensorFlow begins to work.

    What the program has set itself stays, and a log line says so.

    Args:
        tensorflow: The module `tensorflow`.
        limits: What TensorFlow may take.
    """
    global _applied  # noqa: PLW0603 - a process has one TensorFlow
    with _guard:
        if _applied:
            return
        _applied = True
        try:
            if limits.sets_threads:
                _limit_threads(tensorflow.config.threading, limits.threads)
            if limits.sets_memory:
                _limit_gpus(tensorflow.config, limits.gpus)
        except RuntimeError:  # what TensorFlow raises for every such call once it has begun to work
            _ONCE.log(
                "begun",
                "hubdist: TensorFlow had begun to work before the first load, so it keeps the threads and the GPU"
                " memory that it has",
                level=logging.INFO,
            )


def _limit_threads(threading_config: Any, threads: int) -> None:
    own = threading_config.get_intra_op_parallelism_threads(), threading_config.get_inter_op_parallelism_threads()
    if any(own):
        _leave("threads")
        return
    threading_config.set_intra_op_parallelism_threads(threads)
    threading_config.set_inter_op_parallelism_threads(max(_MIN_INTER_OP_THREADS, threads))


def _limit_gpus(config: Any, gpus: float) -> None:
    """Hide GPUs that Ray did not give; of the others let memory grow, up to the share of a GPU that was given."""
    physical = config.list_physical_devices("GPU")
    if not physical:
        return
    visible = config.get_visible_devices("GPU")
    configured = any(
        config.experimental.get_memory_growth(gpu) is not None
        or config.get_logical_device_configuration(gpu) is not None
        for gpu in physical
    )
    if configured or len(visible) != len(physical):
        _leave("GPUs")
    elif gpus == 0:
        config.set_visible_devices([], "GPU")
    else:
        total_mib = smallest_gpu_mib() if gpus < 1 else None
        for gpu in visible:
            if total_mib is None:
                config.experimental.set_memory_growth(gpu, True)
            else:
                limit_mib = max(1, int(total_mib * gpus * (100 - _CONTEXT_PERCENT) / 100))
                limit = config.LogicalDeviceConfiguration(memory_limit=limit_mib)
                config.set_logical_device_configuration(gpu, [limit])


def smallest_gpu_mib(program: str = "nvidia-smi") -> int | None:
    """Memory in MiB of the smallest GPU of this node; None if it cannot be told. A node's GPUs are mostly equal.

    TensorFlow itself tells it only once it has taken the memory.

    Args:
        program: NVIDIA's program that tells it.
    """
    command = [program, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_NVIDIA_SMI_S, check=True)  # noqa: S603 - no text of the user's is in it
        return min(int(line) for line in done.stdout.split())
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        _ONCE.log(
            "memory",
            "hubdist: %s does not tell the memory of the GPUs, so a part of a GPU is not limited, and its memory"
            " grows: %s",
            program,
            type(error).__name__,
            level=logging.INFO,
        )
        return None


def _leave(what: str) -> None:
    _ONCE.log(
        what, "hubdist: this program has configured TensorFlow's %s itself, so they stay so", what, level=logging.INFO
    )
