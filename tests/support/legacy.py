"""tensorflow_hub, Keras 2 and a setuptools with pkg_resources, for processes that a test starts."""

from __future__ import annotations

import os

import pytest

from tests.support import REPOSITORY

LEGACY = REPOSITORY / "build" / "legacy"
"""Made by make: the packages want another TensorFlow than the one of this environment, so they stay out of it."""


def legacy_environment(*before: str) -> dict[str, str]:
    """The variables of a process that can import the packages; skips the test where they are missing.

    Args:
        *before: Directories to put in front of all others on the process's path.
    """
    if not (LEGACY / "tensorflow_hub").exists():
        pytest.skip(f"{LEGACY} is missing: run make test")
    path = [*before, str(REPOSITORY), str(LEGACY), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
