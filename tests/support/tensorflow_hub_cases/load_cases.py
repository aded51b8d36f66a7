"""`hub.load`: tags, options, modules of the first TensorFlow Hub, graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_hub as hub

from hubdist.testing.hub import LoopbackHub
from tests.support.tensorflow_hub_cases.fixtures import TEXTS


@pytest.mark.parametrize("tags", [None, ["serve"], {"serve"}])
def test_tags_are_those_of_the_model(words: str, exported: Path, tags: Any) -> None:
    model = hub.load(words, tags)
    assert model._is_hub_module_v1 is False
    assert np.array_equal(model(TEXTS, False), hub.load(str(exported), tags)(TEXTS, False))


def test_other_tags_are_a_value_error(words: str) -> None:
    with pytest.raises(ValueError, match="train"):
        hub.load(words, tags=["train"])


def test_options_reach_tensorflow(words: str) -> None:
    options = tf.saved_model.LoadOptions(experimental_io_device="/job:localhost")
    assert hub.load(words, options=options)(TEXTS, False).shape == (3, 2)
    with pytest.raises(AttributeError):
        hub.load(words, options="no options")


def test_a_module_of_the_first_tensorflow_hub_is_known_for_one(double: str) -> None:
    model = hub.load(double)
    assert model._is_hub_module_v1 is True
    assert model.signatures["default"](tf.constant([3.0]))["default"].numpy().tolist() == [6.0]


def test_files_that_are_no_model_are_a_value_error(hub_server: LoopbackHub) -> None:
    handle = hub_server.add_model("acme/incomplete/1", {"variables.txt": b""})
    with pytest.raises(ValueError, match="contains neither"):
        hub.load(handle)


def test_a_model_is_loaded_into_a_graph(words: str, exported: Path) -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        answer = hub.load(words).signatures["serving_default"](tf.constant(["two"]))["embedding"]
        session.run([tf.compat.v1.global_variables_initializer(), tf.compat.v1.tables_initializer()])
        assert session.run(answer).tolist() == [[5.0, 6.0]]


def test_each_call_gives_an_object_of_its_own(words: str) -> None:
    first, second = hub.load(words), hub.load(words)
    first.weights.assign_add(tf.ones_like(first.weights))
    assert np.array_equal(second.weights, [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
