"""Which of TensorFlow's limits the environment of a process sets, so that hubdist leaves them alone."""

from __future__ import annotations

import os
from collections.abc import Mapping

_THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
_MEMORY = ("TF_FORCE_GPU_ALLOW_GROWTH",)


def environment_sets_threads(environment: Mapping[str, str] | None = None) -> bool:
    """True if the environment says how many threads TensorFlow starts.

    Args:
        environment: Environment variables; None reads those of this process.
    """
    return _sets(_THREADS, environment)


def environment_sets_gpu_memory(environment: Mapping[str, str] | None = None) -> bool:
    """True if the environment says how TensorFlow takes the memory of GPUs.

    Args:
        environment: Environment variables; None reads those of this process.
    """
    return _sets(_MEMORY, environment)


def _sets(names: tuple[str, ...], environment: Mapping[str, str] | None) -> bool:
    found = os.environ if environment is None else environment
    return any(found.get(name) for name in names)
