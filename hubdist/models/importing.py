"""TensorFlow, imported when the first model is loaded and not before."""

from __future__ import annotations

import importlib
from typing import Any

from hubdist.errors import ConfigError


def import_tensorflow() -> Any:
    """The module `tensorflow`.

    Raises:
        ConfigError: It is not installed, or broken.
    """
    try:
        return importlib.import_module("tensorflow")
    except ImportError as error:
        raise ConfigError(
            f"TensorFlow cannot be imported in this process: {error}",
            advice="Run: pip install tensorflow (or tensorflow-cpu, tensorflow-tpu) on every node.",
        ) from error
