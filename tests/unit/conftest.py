"""Unit tests run without Ray and TensorFlow: importing either is an error, also in processes that a test starts."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

REFUSED = Path(__file__).parents[1] / "support" / "refused"
"""A directory with packages named as the two, which raise an error when they are imported."""


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    """Refuse the packages while a test module is imported; tests of other folders may import them later."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(REFUSED)
        return (yield)


@pytest.fixture(autouse=True)
def without_ray_and_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse the packages in this process and in those that the test starts."""
    monkeypatch.syspath_prepend(REFUSED)
    others = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", f"{REFUSED}{os.pathsep}{others}" if others else str(REFUSED))
