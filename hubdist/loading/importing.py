"""TensorFlow and what models need besides, imported when the first model is loaded and not before."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from hubdist.errors import ConfigError
from hubdist.loading.forks import check_fork


def import_tensorflow() -> Any:
    """The module `tensorflow`.

    Raises:
        ConfigError: It is not installed, or broken, or of no use in this process.
    """
    check_fork()
    try:
        return importlib.import_module("tensorflow")
    except ImportError as error:
        raise ConfigError(
            f"TensorFlow cannot be imported in this process: {error}",
            advice="Run: pip install tensorflow (or tensorflow-cpu, tensorflow-tpu) on every node.",
        ) from error


def import_modules(names: Sequence[str]) -> None:
    """Import modules that register the operations of models.

    Raises:
        ConfigError: One cannot be imported; it is named.
    """
    for user_module in names:
        try:
            importlib.import_module(user_module)
        except ImportError as error:
            raise ConfigError(
                f"the module {user_module!r}, which `imports` names, cannot be imported in this process: {error}",
                advice="Install it on every node, or name its package in Ray's runtime_env.",
            ) from error
