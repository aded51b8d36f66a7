"""Outer models with a `HubLayer`, saved, loaded, exported, cloned and pickled."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hubdist
from hubdist.errors import DigestMismatchError, ModelNotFoundError

pytestmark = [pytest.mark.tf, pytest.mark.timeout(400)]

X = np.array([[9.0], [10.0], [11.0]], np.float32)
Y = X / 2 + 6


def outer(handle: Path, *, trainable: bool = True, **options: Any) -> Any:
    """A compiled outer model of one layer and a `Dense` one."""
    import keras

    from hubdist.integrations.keras import HubLayer

    layer = HubLayer(handle, trainable=trainable, **options)
    model = keras.Sequential([keras.Input((1,)), layer, keras.layers.Dense(1, kernel_initializer="ones")])
    model.compile(keras.optimizers.SGD(0.001, momentum=0.9), "mse")
    return model


def trained(handle: Path, **options: Any) -> Any:
    model = outer(handle, **options)
    model.fit(X, Y, epochs=2, verbose=0)
    return model


def config_in(path: Path) -> dict[str, Any]:
    """The configuration of the first layer in a file that Keras saved."""
    with zipfile.ZipFile(path) as packed:
        layers = json.loads(packed.read("config.json"))["config"]["layers"]
    config: dict[str, Any] = next(each["config"] for each in layers if each["class_name"] == "HubLayer")
    return config


def test_a_trained_model_goes_on_where_it_was_saved(published: Path, tmp_path: Path) -> None:
    import keras

    model = trained(published / "half_plus_one_raw")
    model.save(tmp_path / "outer.keras")
    loaded = keras.models.load_model(tmp_path / "outer.keras")
    for each in (model, loaded):
        each.fit(X, Y, epochs=2, verbose=0)
    assert loaded.get_weights() == model.get_weights()
    assert loaded.layers[0].weights[0].numpy()[0, 0] != 0.5


def test_a_file_holds_handle_and_digest_and_what_was_trained(published: Path, tmp_path: Path) -> None:
    if not (published / "basic_pitch").exists():
        pytest.skip("the model's wheel is missing: run make test")
    import keras

    from hubdist.integrations.keras import HubLayer

    model = keras.Sequential([keras.Input((43844, 1)), HubLayer(published / "basic_pitch", trainable=True)])
    total_bytes = sum(weight.nbytes for weight in model.get_weights())
    model.save(tmp_path / "published.keras")
    assert _bytes_of_weights(tmp_path / "published.keras") < total_bytes / 2
    changed = model.trainable_weights[0]
    changed.assign_add(changed + 1.0)
    model.save(tmp_path / "outer.keras")
    assert 0 < _bytes_of_weights(tmp_path / "outer.keras") - changed.numpy().nbytes < total_bytes / 2
    config = config_in(tmp_path / "outer.keras")
    [pin] = hubdist.status().pins
    assert (config["handle"], config["digest"]) == (pin.handle, str(pin.digest))
    loaded = keras.models.load_model(tmp_path / "outer.keras")
    assert all(map(np.array_equal, loaded.get_weights(), model.get_weights()))


def _bytes_of_weights(path: Path) -> int:
    with zipfile.ZipFile(path) as packed:
        return packed.getinfo("model.weights.h5").file_size


def test_loading_refuses_other_bytes(published: Path, tmp_path: Path) -> None:
    import keras

    handle = tmp_path / "model"
    shutil.copytree(published / "half_plus_one_raw", handle)
    trained(handle).save(tmp_path / "outer.keras")
    shutil.rmtree(handle)
    assert keras.models.load_model(tmp_path / "outer.keras") is not None  # the store has the bytes
    hubdist.shutdown()
    hubdist.init(store=str(tmp_path / "empty"))
    with pytest.raises(ModelNotFoundError):
        keras.models.load_model(tmp_path / "outer.keras")
    shutil.copytree(published / "half_plus_one_of_keras", handle)
    with pytest.raises(DigestMismatchError, match="other bytes now"):
        keras.models.load_model(tmp_path / "outer.keras")


def test_a_digest_can_be_asked_for(published: Path) -> None:
    wanted = outer(published / "half_plus_one_raw").layers[0].get_config()["digest"]
    assert outer(published / "half_plus_one_raw", digest=wanted).layers[0].get_config()["digest"] == wanted
    with pytest.raises(DigestMismatchError):
        outer(published / "half_plus_one_raw", digest=f"sha256:{'0' * 64}")


def test_secrets_of_a_handle_are_not_saved(published: Path, hub: Any) -> None:
    handle = hub.add_model("acme/half/1", published / "half_plus_one_raw")
    secret = handle.replace("http://", "http://user:hidden@") + "?token=hidden"
    assert "hidden" not in json.dumps(outer(secret).layers[0].get_config())


def test_saved_weights_replace_trained_ones_and_give_back_published_ones(published: Path, tmp_path: Path) -> None:
    import keras

    model = keras.Sequential([outer(published / "half_plus_one_raw").layers[0]])
    model.build((None, 1))
    model.save_weights(tmp_path / "published.weights.h5")
    published_weights = model.get_weights()
    model.layers[0].weights[0].assign([[7.0]])
    model.save_weights(tmp_path / "trained.weights.h5")
    trained_weights = model.get_weights()
    model.load_weights(tmp_path / "published.weights.h5")
    assert model.get_weights() == published_weights
    model.load_weights(tmp_path / "trained.weights.h5")
    assert model.get_weights() == trained_weights


def test_weights_of_another_model_are_refused(published: Path, tmp_path: Path) -> None:
    outer(published / "half_plus_one_raw").save_weights(tmp_path / "a.weights.h5")
    with pytest.raises(ValueError, match="saved of another model"):
        outer(published / "half_plus_one_of_keras").load_weights(tmp_path / "a.weights.h5")


def test_a_model_is_known_by_its_json_and_by_its_clone(published: Path) -> None:
    import keras

    model = trained(published / "half_plus_one_raw")
    for again in (keras.models.model_from_json(model.to_json()), keras.models.clone_model(model)):
        assert again.layers[0].get_config() == model.layers[0].get_config()
        assert again.layers[0].weights[0].numpy().tolist() == [[0.5]]  # as Keras's clones, a new layer
        assert model.layers[0].weights[0].numpy().tolist() != [[0.5]]


@pytest.mark.parametrize("copied", [lambda model: pickle.loads(pickle.dumps(model)), copy.deepcopy])
def test_pickles_and_copies_have_what_was_trained(published: Path, copied: Any) -> None:
    model = trained(published / "half_plus_one_raw")
    for original in (model, model.layers[0]):
        again = copied(original)
        assert again.get_weights() == original.get_weights()
        again.trainable_weights[0].assign([[9.0]])
        assert model.layers[0].weights[0].numpy().tolist() != [[9.0]]


def test_an_exported_model_needs_neither_hubdist_nor_the_models_files(published: Path, tmp_path: Path) -> None:
    import keras
    import tensorflow as tf

    from hubdist.integrations.keras import HubLayer

    handle = tmp_path / "words"
    shutil.copytree(published / "words", handle)
    inputs = keras.Input((), dtype="string")
    model = keras.Model(inputs, HubLayer(handle, trainable=True)(inputs))
    model.layers[-1].weights[0].assign(np.arange(8.0).reshape(4, 2))
    model.export(tmp_path / "exported", verbose=False)
    shutil.rmtree(handle)
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    assert exported.serve(tf.constant(["two", "mauve"])).numpy().tolist() == [[4.0, 5.0], [6.0, 7.0]]


def test_tensorflows_checkpoints_have_the_weights(published: Path, tmp_path: Path) -> None:
    import tensorflow as tf

    model = trained(published / "half_plus_one_raw")
    path = tf.train.Checkpoint(model=model).write(str(tmp_path / "checkpoint"))
    again = outer(published / "half_plus_one_raw")
    tf.train.Checkpoint(model=again).read(path).assert_existing_objects_matched()
    assert again.get_weights() == model.get_weights()
