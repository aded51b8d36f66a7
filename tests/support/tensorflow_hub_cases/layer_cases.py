"""`hub.KerasLayer`: training, arguments, saving."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_hub as hub
import tf_keras as keras  # as tensorflow_hub takes it

from hubdist.testing.hub import LoopbackHub
from tests.support.tensorflow_hub_cases.fixtures import TEXTS


def fitted(handle: str) -> tuple[list[float], np.ndarray, np.ndarray]:
    """Losses, answers and weights of a model that was trained for two epochs on top of a layer."""
    keras.utils.set_random_seed(1)
    layer = hub.KerasLayer(handle, trainable=True, input_shape=[], dtype=tf.string)
    model = keras.Sequential([layer, keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.001), "mean_squared_error")
    history = model.fit(TEXTS, tf.constant([1.0, 2.0, 3.0]), epochs=2, verbose=0, batch_size=3)
    return history.history["loss"], model(TEXTS).numpy(), layer.trainable_weights[0].numpy()


def test_a_layer_is_fine_tuned_to_the_same_losses_answers_and_weights(words: str, exported: Path) -> None:
    by_handle, by_path = fitted(words), fitted(str(exported))
    assert by_handle[0] == by_path[0]
    assert by_handle[0][0] != by_handle[0][1]
    assert np.array_equal(by_handle[1], by_path[1])
    assert np.array_equal(by_handle[2], by_path[2])


def test_layers_of_one_handle_are_trained_apart(words: str) -> None:
    fitted(words)
    assert hub.KerasLayer(words)(TEXTS).numpy().tolist() == [[5.0, 6.0], [3.0, 4.0], [1.0, 2.0]]


def test_losses_follow_the_layers_trainable(words: str) -> None:
    layer = hub.KerasLayer(words, trainable=False)
    layer(TEXTS)
    assert [float(loss) for loss in layer.losses] == [0.0]
    layer.trainable = True
    assert [float(loss) for loss in layer.losses] == pytest.approx([0.55])


def test_the_training_flag_reaches_the_model_only_while_it_is_trainable(words: str) -> None:
    layer = hub.KerasLayer(words, trainable=True)
    assert layer(TEXTS, training=True).numpy().tolist()[2] == [10.0, 20.0]
    assert layer(TEXTS, training=False).numpy().tolist()[2] == [1.0, 2.0]
    layer.trainable = False
    assert layer(TEXTS, training=True).numpy().tolist()[2] == [1.0, 2.0]


@pytest.mark.parametrize(
    "arguments",
    [
        {"output_shape": [2]},
        {"signature": "serving_default", "output_key": "embedding"},
        {"signature": "serving_default", "output_key": "length"},
        {"load_options": tf.saved_model.LoadOptions()},
        {"tags": ["serve"]},
    ],
    ids=str,
)
def test_arguments_mean_what_they_mean_and_survive_a_configuration(words: str, exported: Path, arguments: Any) -> None:
    layer = hub.KerasLayer(words, **arguments)
    again = hub.KerasLayer.from_config(json.loads(json.dumps(layer.get_config())))
    assert layer.get_config()["handle"] == words
    expected = hub.KerasLayer(str(exported), **arguments)(TEXTS)
    assert np.array_equal(layer(TEXTS), expected)
    assert np.array_equal(again(TEXTS), expected)


def test_a_signatures_outputs_come_as_a_dictionary(words: str) -> None:
    layer = hub.KerasLayer(words, signature="serving_default", signature_outputs_as_dict=True)
    assert sorted(layer(TEXTS)) == ["embedding", "length"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"signature": "serving_default"}, "either output_key or signature_outputs_as_dict"),
        ({"signature_outputs_as_dict": True}, "only valid if specifying a signature"),
        ({"tags": ["train"]}, "train"),
        ({"signature": "none", "output_key": "x"}, "Unknown signature none"),
        (
            {"signature": "serving_default", "signature_outputs_as_dict": True, "output_key": "embedding"},
            "either output_key or signature_outputs_as_dict",
        ),
    ],
    ids=str,
)
def test_arguments_that_contradict_each_other_are_a_value_error(words: str, arguments: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        hub.KerasLayer(words, **arguments)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"output_key": "embedding"}, "`output_key` is forbidden"),
        (
            {"signature": "serving_default", "output_key": "length", "trainable": True},
            "trainable = True is unsupported",
        ),
        ({"signature": "serving_default", "output_key": "none"}, "does not contain the output key none"),
    ],
    ids=str,
)
def test_calls_that_the_model_cannot_answer_are_a_value_error(words: str, arguments: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        hub.KerasLayer(words, **arguments)(TEXTS)


def test_a_module_of_the_first_tensorflow_hub_is_a_layer_that_cannot_be_trained(double: str) -> None:
    layer = hub.KerasLayer(double)
    assert layer(tf.constant([3.0])).numpy().tolist() == [6.0]
    layer.trainable = True
    with pytest.raises(ValueError, match="TF1 Hub format"):
        layer(tf.constant([3.0]))


def test_a_callable_is_a_layer_without_hubdist(words: str, hub_server: LoopbackHub) -> None:
    assert hub.KerasLayer(hub.load(words))(TEXTS).shape == (3, 2)
    assert hub.KerasLayer(lambda x: 2 * x)(tf.constant([2.0])).numpy().tolist() == [4.0]
    assert hub_server.reads(words) == 1


def test_a_model_around_a_layer_comes_back_from_its_configuration(words: str) -> None:
    model = keras.Sequential([hub.KerasLayer(words, input_shape=[], dtype=tf.string)])
    again = keras.models.model_from_json(model.to_json(), custom_objects={"KerasLayer": hub.KerasLayer})
    assert np.array_equal(model(TEXTS), again(TEXTS))


def test_a_model_around_a_layer_is_saved_with_its_weights_and_words(words: str, tmp_path: Path) -> None:
    model = keras.Sequential([hub.KerasLayer(words, input_shape=[], dtype=tf.string)])
    expected = model(TEXTS).numpy()
    tf.saved_model.save(model, str(tmp_path / "outer"))
    again = tf.saved_model.load(str(tmp_path / "outer"))
    assert np.array_equal(again(TEXTS), expected)
