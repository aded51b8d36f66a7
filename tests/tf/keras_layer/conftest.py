"""Models of publishers, written once by a process that has Keras 2 and tensorflow_hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.legacy_keras import LEGACY, make_models

WHEELS = [
    Path("build/demo/basic_pitch-0.4.0-py2.py3-none-any.whl"),
    Path("build/demo/guesslang-2.2.1-py3-none-any.whl"),
]


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of SavedModels, and for each case of `layer_cases` what `hub.KerasLayer` answers."""
    if not (LEGACY / "tf_keras").is_dir():
        pytest.skip("tensorflow_hub and Keras 2 are missing: run make test")
    root = tmp_path_factory.mktemp("published")
    make_models(root, WHEELS)
    return root


@pytest.fixture(autouse=True)
def names_from_the_beginning() -> Iterator[None]:
    """Layers are called `hub_layer`, `dense` and so on in every test."""
    import keras

    keras.utils.clear_session()
    yield
    keras.config.set_dtype_policy("float32")
