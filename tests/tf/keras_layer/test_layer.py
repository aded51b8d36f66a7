"""`HubLayer` in models of Keras 3: what tensorflow_hub's own tests ask of `hub.KerasLayer`, and what Keras 3 adds.

Source: tensorflow_hub, `keras_layer_test.py`.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import hubdist
from hubdist.errors import ConfigError, HandleError

pytestmark = [pytest.mark.tf, pytest.mark.timeout(400)]


def hub_layer(*args: Any, **kwargs: Any) -> Any:
    from hubdist.integrations.keras import HubLayer

    return HubLayer(*args, **kwargs)


def sequential(*layers: Any) -> Any:
    import keras

    return keras.Sequential(list(layers))


def fit(model: Any, x: list[list[float]], y: list[list[float]], rate: float, steps: int) -> None:
    import keras

    model.compile(keras.optimizers.SGD(rate), "mean_squared_error")
    model.fit(np.tile(x, (steps, 1)), np.tile(y, (steps, 1)), batch_size=len(x), shuffle=False, verbose=0)


def by_suffix(layer: Any) -> dict[str, Any]:
    """The weights of a layer by the last word of their names."""
    return {weight.name.rpartition("_")[2]: weight.numpy().tolist() for weight in layer.weights}


@pytest.mark.parametrize("kind", ["raw", "of_keras"])
def test_the_trainable_weights_are_trained_and_the_others_stay(published: Path, kind: str) -> None:
    import keras

    inputs = keras.Input((1,))
    layer = hub_layer(published / f"half_plus_one_{kind}", trainable=True)
    model = keras.Model(inputs, layer(inputs))
    assert model(np.array([[0.0], [8.0]])).numpy().tolist() == [[1.0], [5.0]]
    assert [float(loss) for loss in model.losses] == pytest.approx([0.0025])
    assert [weight.shape for weight in model.trainable_weights] == [(1, 1)]
    assert sorted(tuple(weight.shape) for weight in model.non_trainable_weights) == [(1,), (1, 1)]
    fit(model, [[9.0], [10.0], [11.0]], [[10.5], [11.0], [11.5]], 0.002, steps=10)
    assert model(np.array([[0.0]])).numpy().tolist() == [[1.0]]
    assert float(model(np.array([[10.0]]))[0, 0]) == pytest.approx(11.0, rel=0.03)
    assert float(model.losses[0]) == pytest.approx(0.01, rel=0.06)


def test_regularization_losses_count_while_the_layer_is_trainable(published: Path) -> None:
    layer = hub_layer(published / "half_plus_one_raw")
    model = sequential(layer)
    model.build((None, 1))
    for trainable, total in ((False, 0.0), (True, 0.0025), (False, 0.0), (True, 0.0025)):
        layer.trainable = trainable
        assert float(sum(model.losses)) == pytest.approx(total)
        assert len(model.trainable_weights) == (1 if trainable else 0)


@pytest.mark.parametrize("kind", ["raw", "of_keras"])
def test_a_trained_batch_norm_learns_the_batches_and_is_still_when_evaluated(published: Path, kind: str) -> None:
    layer = hub_layer(published / f"batch_norm_{kind}", trainable=True)
    model = sequential(layer)
    fit(model, [[11.0], [12.0], [13.0]], [[22.0], [24.0], [26.0]], 0.1, steps=100)
    learned = by_suffix(layer)
    assert learned["mean"] == pytest.approx([12.0], rel=1e-4)
    assert learned["beta"] == pytest.approx([24.0], rel=1e-4)
    for _ in range(5):
        assert model(np.array([[10.0], [20.0]])).numpy().tolist() == [
            pytest.approx([20.0], rel=1e-4),
            pytest.approx([40.0], rel=1e-4),
        ]
    assert by_suffix(layer) == learned


@pytest.mark.parametrize("kind", ["raw", "of_keras"])
def test_a_frozen_batch_norm_stays_as_published_while_others_train(published: Path, kind: str) -> None:
    import keras

    layer = hub_layer(published / f"batch_norm_{kind}")
    model = sequential(
        layer, keras.layers.Dense(1, kernel_initializer=keras.initializers.Constant(1.5), use_bias=False)
    )
    fit(model, [[1.0], [2.0], [3.0]], [[2.0], [4.0], [6.0]], 0.1, steps=20)
    assert by_suffix(layer) == {"beta": [0.0], "gamma": [1.0], "mean": [0.0], "variance": [1.0]}
    assert model(np.array([[3.0]])).numpy()[0, 0] == pytest.approx(6.0, rel=1e-3)


def test_the_training_flag_may_be_a_tensor(published: Path) -> None:
    import tensorflow as tf

    layer = hub_layer(published / "batch_norm_raw", trainable=True)
    call = tf.function(lambda training: layer(np.array([[11.0], [13.0]], np.float32), training=training))
    assert call(tf.constant(True)).numpy().ravel().tolist() == pytest.approx([-1.0, 1.0], abs=1e-2)
    assert call(tf.constant(False)).numpy().ravel().tolist() != pytest.approx([-1.0, 1.0], abs=1e-2)


def test_attributes_and_assets_of_the_model_can_be_reached(published: Path) -> None:
    layer = hub_layer(published / "attributes")
    text = Path(layer.resolved_object.sample_input.asset_path.numpy().decode()).read_text(encoding="utf-8")
    assert layer([[text]]).numpy().tolist() == layer.resolved_object.sample_output.numpy().tolist()


@pytest.mark.parametrize("shapes", [None, {"sigma": (2,), "delta": (1,)}])
def test_dicts_go_in_and_out(published: Path, shapes: Any) -> None:
    import keras

    inputs = {name: keras.Input((1,), name=name) for name in "xy"}
    layer = hub_layer(published / "dicts", arguments={"return_dict": True}, output_shape=shapes)
    found = layer(inputs)
    both = keras.layers.concatenate([found["delta"], found["sigma"]])
    model = keras.Model(inputs, both)
    x, y = np.array([[11.0], [22.0]]), np.array([[1.0], [2.0]])
    assert model({"x": x, "y": y}).numpy().tolist() == [[10.0, 12.0, 13.0], [20.0, 24.0, 26.0]]
    again = type(layer).from_config(layer.get_config())
    assert again({"x": x, "y": y})["delta"].numpy().tolist() == [[10.0], [20.0]]
    assert layer.get_config().get("output_shape") == (shapes and {"sigma": [2], "delta": [1]})


def test_shapes_that_tensorflow_cannot_find_out_are_given(published: Path) -> None:
    import keras

    inputs = keras.Input((1,))
    layer = hub_layer(published / "shapeless", output_shape=[[1], [2, 2], [3, 3, 3]])
    model = keras.Model(inputs, layer(inputs))
    assert model.output_shape == [(None, 1), (None, 2, 2), (None, 3, 3, 3)]
    assert [output.shape[1:] for output in model(np.array([[1.0], [10.0]]))] == [(1,), (2, 2), (3, 3, 3)]
    assert type(layer).from_config(layer.get_config()).compute_output_shape((5, 1))[1] == (5, 2, 2)
    assert hub_layer(published / "shapeless")([[1.0]])[2].shape == (1, 3, 3, 3)


def test_a_symbol_of_unknown_rank_is_refused_with_what_to_do() -> None:
    import keras
    import tensorflow as tf

    def call(x: Any) -> Any:
        return tf.reshape(x, tf.boolean_mask([-1, 1], tf.random.uniform((2,)) < 2.0))

    assert hub_layer(call)([[1.0]]).shape == (1, 1)
    with pytest.raises(ValueError, match="give the layer output_shape"):
        hub_layer(call)(keras.Input((1,)))
    assert hub_layer(call, output_shape=(1,))(keras.Input((1,))).shape == (None, 1)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [([[1]], "output_shape is for"), ((1,), "one shape where"), ([[1], [2, 2], [3, 3]], "shape"), ("12", "neither")],
)
def test_an_output_shape_that_does_not_fit_is_refused(published: Path, shapes: Any, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        hub_layer(published / "shapeless", output_shape=shapes)([[1.0]])


@pytest.mark.parametrize(
    ("name", "input_shape", "output_shape"),
    [("half_plus_one_raw", (10, 1), (10, 1)), ("text_of_keras", (None, 1), (None, 2)), ("words", (None,), (None, 2))],
)
def test_the_shape_of_the_output_is_computed(published: Path, name: str, input_shape: Any, output_shape: Any) -> None:
    assert hub_layer(published / name).compute_output_shape(input_shape) == output_shape


def test_arguments_are_passed_and_saved(published: Path) -> None:
    layer = hub_layer(published / "with_arguments", arguments={"a": 10.0})
    assert layer([[1.0], [2.0]]).numpy().tolist() == [[10.0], [20.0]]
    assert type(layer).from_config(layer.get_config())([[3.0]]).numpy().tolist() == [[30.0]]
    with pytest.raises(ValueError, match="not JSON"):
        hub_layer(published / "with_arguments", arguments={"a": np.float32(1)}).get_config()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 11.0),
        ({"signature": "serving_default", "output_key": "output_0"}, 11.0),
        ({"signature": "serving_default", "signature_outputs_as_dict": True}, {"output_0": 11.0}),
    ],
)
def test_the_object_or_a_signature_is_called(published: Path, options: dict[str, Any], expected: Any) -> None:
    import keras

    layer = hub_layer(published / "plus_one", **options)
    for each in (layer, type(layer).from_config(layer.get_config())):
        assert keras.tree.map_structure(float, each(10.0)) == expected


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("plus_one", {"signature": "serving_default"}, "either output_key or"),
        ("plus_one", {"signature": "x", "signature_outputs_as_dict": True, "output_key": "y"}, "either output_key or"),
        ("plus_one", {"signature_outputs_as_dict": True}, "only valid if specifying a signature"),
        ("plus_one", {"signature": "other", "output_key": "y"}, r"Unknown signature other .*serving_default"),
        ("plus_one", {"tags": ["train"]}, "tags"),
        ("signature", {}, r"cannot be called: .*pair"),
    ],
)
def test_what_contradicts_itself_or_the_model_is_refused(
    published: Path, name: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        hub_layer(published / name, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"output_key": "output_0"}, "output_key. is forbidden"),
        ({"signature": "serving_default", "output_key": "other"}, r"no 'other' \(available: \['output_0'\]\)"),
        ({"signature": "serving_default", "output_key": "output_0", "trainable": True}, "trainable = True is unsupp"),
    ],
)
def test_what_only_a_call_can_tell_is_refused_there(published: Path, options: dict[str, Any], words: str) -> None:
    layer = hub_layer(published / "plus_one", **options)
    with pytest.raises(ValueError, match=words):
        layer(10.0)


def test_a_module_in_the_tf1_format_has_defaults_and_cannot_be_trained(published: Path) -> None:
    layer = hub_layer(published / "hub_module")
    assert layer([[1.0, 2.0]]).numpy().tolist() == [[21.0]]
    assert hub_layer(published / "hub_module", output_key="double")([[1.0, 2.0]]).numpy().tolist() == [[42.0]]
    trained = hub_layer(published / "hub_module", tags={"train"}, signature_outputs_as_dict=True)
    assert trained([[1.0, 2.0]])["default"].numpy().tolist() == [[42.0]]
    assert type(layer).from_config(trained.get_config())([[1.0, 2.0]])["double"].numpy().tolist() == [[84.0]]
    layer.trainable = True
    with pytest.raises(ValueError, match="TF1 hub format"):
        layer([[1.0, 2.0]])


def test_a_trainable_layer_without_trainable_weights_says_so_once(
    published: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layer = hub_layer(published / "with_arguments", trainable=True)
    layer([[10.0]])
    layer([[10.0]])
    assert [record.getMessage() for record in caplog.records if "zero trainable" in record.getMessage()] == [
        "hubdist: the layer hub_layer is trainable but has zero trainable weights"
    ]


@pytest.mark.parametrize("policy", ["mixed_float16", "float16", "float64"])
def test_the_types_of_the_model_hold_whatever_the_policy(published: Path, policy: str) -> None:
    import keras

    keras.config.set_dtype_policy(policy)
    layer = hub_layer(published / "half_plus_one_raw", trainable=True)
    model = sequential(layer, keras.layers.Dense(1))
    fit(model, [[1.0], [2.0]], [[1.0], [2.0]], 0.01, steps=1)
    assert {weight.dtype for weight in layer.weights} == {"float32"}
    assert layer(np.array([[2.0]], np.float64)).dtype == "float32"


def test_inputs_of_several_types_keep_them(tmp_path: Path) -> None:
    import keras
    import tensorflow as tf

    specs = {"x": tf.TensorSpec((None, 1), tf.float32, "x"), "y": tf.TensorSpec((None, 1), tf.float64, "y")}
    sums = tf.function(lambda x, y: {"sum": tf.cast(x, tf.float64) + y}).get_concrete_function(**specs)
    tf.saved_model.save(tf.Module(), str(tmp_path / "sums"), signatures={"sums": sums})
    layer = hub_layer(tmp_path / "sums", signature="sums", output_key="sum")
    inputs = {"x": keras.Input((1,), name="x"), "y": keras.Input((1,), name="y", dtype="float64")}
    model = keras.Model(inputs, layer(inputs))
    small = 2.0**-40  # too small beside 1 for float32
    found = model({"x": np.ones((1, 1)), "y": np.full((1, 1), small)})
    assert found.numpy().tolist() == [[1.0 + small]]


def test_ragged_inputs_and_outputs(tmp_path: Path) -> None:
    import keras
    import tensorflow as tf

    obj = tf.train.Checkpoint()
    obj.__call__ = tf.function(lambda x: x * 2, input_signature=[tf.RaggedTensorSpec((None, None), tf.int64)])
    tf.saved_model.save(obj, str(tmp_path / "ragged"))
    inputs = keras.Input((None,), dtype="int64", ragged=True)
    outputs = hub_layer(tmp_path / "ragged")(inputs)
    assert outputs.ragged
    rows = tf.ragged.constant([[1], [2, 3]], dtype=tf.int64)
    assert keras.Model(inputs, outputs)(rows).to_list() == [[2], [4, 6]]


def test_texts_in_the_words_of_programs_for_tensorflow_hub(published: Path) -> None:
    import keras
    import tensorflow as tf

    layer = hub_layer(published / "words", input_shape=[], dtype=tf.string, trainable=True)
    model = sequential(layer, keras.layers.Dense(1))
    fit_on = tf.data.Dataset.from_tensor_slices((["one", "two", "mauve"], [[1.0], [2.0], [0.0]])).batch(3)
    model.compile("adam", "mse")
    model.fit(fit_on.repeat(2), shuffle=False, verbose=0)
    assert layer(["one", "two"]).shape == layer(np.array(["one", "two"])).shape == (2, 2)
    assert layer.weights[0].numpy()[1].tolist() != pytest.approx([0.3, -0.4], abs=1e-5)


def test_a_layer_maps_datasets(published: Path, recwarn: pytest.WarningsRecorder) -> None:
    import tensorflow as tf

    layer = hub_layer(published / "words")
    mapped = tf.data.Dataset.from_tensor_slices(["one", "two"]).batch(2).map(layer)
    assert [batch.numpy().tolist() for batch in mapped] == [layer(["one", "two"]).numpy().tolist()]
    assert not [str(warning.message) for warning in recwarn if "AutoGraph" in str(warning.message)]


def test_a_layer_of_a_subclassed_model_is_trained(published: Path) -> None:
    import keras

    class Outer(keras.Model):  # type: ignore[misc]  # keras has no types
        def __init__(self) -> None:
            super().__init__()
            self.norm = hub_layer(published / "batch_norm_raw", trainable=True)

        def call(self, inputs: Any, training: bool = False) -> Any:
            return self.norm(inputs, training=training)

    model = Outer()
    fit(model, [[11.0], [13.0]], [[1.0], [2.0]], 0.1, steps=2)
    assert len(model.trainable_weights) == 2
    assert by_suffix(model.norm)["mean"] != [0.0]


def test_two_layers_of_one_handle_are_trained_apart(published: Path) -> None:
    first, second = (hub_layer(published / "half_plus_one_raw", trainable=True) for _ in range(2))
    first.weights[0].assign([[7.0]])
    assert second.weights[0].numpy().tolist() == [[0.5]]
    assert float(hubdist.load(published / "half_plus_one_raw")(np.ones((1, 1), np.float32))[0, 0]) == 1.5


def test_objects_that_are_loaded_already_can_be_layers(published: Path) -> None:
    import keras

    loaded = hubdist.load(published / "half_plus_one_raw", own=True)
    for model in (loaded, pickle.loads(pickle.dumps(loaded))):
        layer = hub_layer(model)
        assert type(layer).from_config(layer.get_config())([[8.0]]).numpy().tolist() == [[5.0]]
    function = hub_layer(lambda x: x + 1)
    assert function([[1.0]]).numpy().tolist() == [[2.0]]
    with pytest.raises(NotImplementedError, match="hubdist has not loaded its function"):
        function.get_config()
    with pytest.raises(ValueError, match="tags is for handles"):
        hub_layer(lambda x: x, tags=["serve"])
    with pytest.raises(TypeError, match="Keras layer already"):
        hub_layer(keras.layers.Dense(1))
    with pytest.raises(ValueError, match="has no signatures, and cannot be called"):
        hub_layer(object())
    with pytest.raises(HandleError):
        hub_layer("")


def test_losses_that_cannot_be_called_are_refused() -> None:
    import tensorflow as tf

    module = tf.Module()
    module.regularization_losses = [1.0]
    with pytest.raises(ValueError, match="regularization_losses to be an iterable of callables"):
        hub_layer(_Callable(module))


class _Callable:
    def __init__(self, module: Any) -> None:
        self.regularization_losses = module.regularization_losses

    def __call__(self, inputs: Any) -> Any:
        return inputs


@pytest.mark.parametrize(
    ("keras", "words"),
    [
        (SimpleNamespace(__version__="2.15.0"), r"HubLayer is a layer of Keras 3, and this process has Keras 2\.15\.0"),
        (
            SimpleNamespace(__version__="3.9.0", backend=SimpleNamespace(backend=lambda: "jax")),
            "needs TensorFlow under Keras, and this process has jax",
        ),
        (None, "Keras cannot be imported"),
    ],
)
def test_another_keras_is_refused(monkeypatch: pytest.MonkeyPatch, keras: Any, words: str) -> None:
    from hubdist.integrations.keras.backend import import_keras

    monkeypatch.setitem(sys.modules, "keras", keras)
    with pytest.raises(ConfigError, match=words):
        import_keras()
