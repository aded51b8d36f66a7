"""What programs do with tensorflow_hub, with hubdist installed behind it.

The behaviours are those that tensorflow_hub's own tests ask for. `tests/tf/test_tensorflow_hub.py` runs this file in a
process that has tensorflow_hub and Keras 2. Where a model is read by its path on this node, hubdist has no part in it:
so answers by handle are compared with answers by path.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hubdist
from hubdist.integrations import tensorflow_hub as integration
from hubdist.testing.hub import LoopbackHub, Status
from tests.support.archives import targz, zipped

integration.install()  # before tensorflow_hub is imported, as in a worker

import tensorflow as tf  # noqa: E402 - see above
import tensorflow_hub as hub  # noqa: E402 - see above
import tf_keras as keras  # noqa: E402 - as tensorflow_hub takes it


@pytest.fixture(autouse=True)
def store(tmp_path: Path) -> Iterator[None]:
    hubdist.init(store=str(tmp_path / "store"), origin_retries=0)
    yield
    integration.install()


class Words(tf.train.Checkpoint):
    """A model with a trainable and a frozen variable, a vocabulary, a loss and a training flag."""

    def __init__(self, vocabulary: str) -> None:
        super().__init__()
        self.table = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(
                vocabulary, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
            ),
            0,
        )
        self.weights = tf.Variable([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
        self.offset = tf.Variable([1.0, 1.0], trainable=False)
        self.variables = [self.weights, self.offset]
        self.trainable_variables = [self.weights]
        self.regularization_losses = [tf.function(self._loss, input_signature=[])]

    def _loss(self) -> Any:
        return 0.01 * tf.reduce_sum(self.weights**2)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string), tf.TensorSpec([], tf.bool)])
    def __call__(self, text: Any, training: Any = False) -> Any:
        answer = tf.gather(self.weights, self.table.lookup(text)) + self.offset
        return tf.cond(training, lambda: answer * 10.0, lambda: answer)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def embed(self, text: Any) -> Any:
        return {"embedding": self(text), "length": tf.strings.length(text)}


TEXTS = tf.constant(["two", "one", "zero"])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("exported")
    (root / "words.txt").write_text("zero\none\ntwo\n", encoding="utf-8")
    words = Words(str(root / "words.txt"))
    tf.saved_model.save(words, str(root / "words"), signatures={"serving_default": words.embed})
    return root / "words"


@pytest.fixture(scope="module")
def exported_tf1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A module in the form of the first TensorFlow Hub: no tags, and a file of its own beside the SavedModel."""
    root = tmp_path_factory.mktemp("exported-tf1") / "double"
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, [None])
        factor = tf.compat.v1.get_variable("factor", initializer=2.0)
        session.run(tf.compat.v1.global_variables_initializer())
        signature = tf.compat.v1.saved_model.predict_signature_def({"x": x}, {"default": x * factor})
        builder = tf.compat.v1.saved_model.Builder(str(root))
        builder.add_meta_graph_and_variables(session, [], signature_def_map={"default": signature})
        builder.save()
    (root / "tfhub_module.pb").write_bytes(b"\x08\x03")
    return root


@pytest.fixture
def words(hub_server: LoopbackHub, exported: Path) -> str:
    return hub_server.add_model("acme/words/1", exported)


@pytest.fixture
def double(hub_server: LoopbackHub, exported_tf1: Path) -> str:
    return hub_server.add_model("acme/double/1", exported_tf1)


@pytest.fixture
def hub_server() -> Iterator[LoopbackHub]:
    with LoopbackHub() as running:
        yield running


def added_as_people_do(folder: Path) -> bytes:
    """An archive made by `tar.add` of each directory, which takes its files with it, and then of each file."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for path in sorted(folder.rglob("*")):
            archive.add(path, path.relative_to(folder).as_posix())
    return packed.getvalue()


# hub.resolve


def test_a_handle_becomes_a_directory_of_hubdists_store(words: str, tmp_path: Path, hub_server: LoopbackHub) -> None:
    path = hub.resolve(words)
    assert path == hub.resolve(words) == hubdist.resolve(words)
    assert path.startswith(str(tmp_path / "store"))
    assert sorted(each.name for each in Path(path).iterdir()) == [
        "assets",
        "fingerprint.pb",
        "saved_model.pb",
        "variables",
    ]
    assert hub_server.reads(words) == 1


@pytest.mark.parametrize("name", ["files.tar", "files.tar.gz", "files.tgz"])
def test_archives_of_any_files_are_unpacked(hub_server: LoopbackHub, name: str) -> None:
    files = {"file1": b"1", "file2": b"2"}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path, data in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    data = packed.getvalue() if name.endswith(".tar") else targz(files)
    path = Path(hub.resolve(hub_server.add_file(name, data)))
    assert {each.name: each.read_bytes() for each in path.iterdir()} == files


def test_a_handle_that_is_redirected_to_its_archive_is_followed(hub_server: LoopbackHub, exported: Path) -> None:
    handle = hub_server.add_model("acme/elsewhere/1", exported, redirect_to_storage=True)
    assert Path(hub.resolve(handle), "saved_model.pb").exists()


def test_a_path_on_this_node_is_given_back_as_it_is(exported: Path) -> None:
    assert hub.resolve(str(exported)) == str(exported)
    assert hub.resolve(f"file://{exported}") == f"file://{exported}"


@pytest.mark.parametrize("path", ["/nowhere/at/all", "nowhere/at/all", "file:///nowhere/at/all"])
def test_a_path_that_is_nowhere_is_an_os_error(path: str) -> None:
    with pytest.raises(OSError, match="nowhere/at/all"):
        hub.resolve(path)


@pytest.mark.parametrize("call", [hub.load, hub.KerasLayer])
@pytest.mark.parametrize("handle", [0, None, b"https://tfhub.dev/x/1", Path("/x")])
def test_what_is_no_string_is_a_value_error(call: Any, handle: object) -> None:
    with pytest.raises(ValueError, match=r"^Expected a string, got |^Loaded object is not callable"):
        call(handle)


def test_bytes_that_are_no_archive_are_an_os_error_in_the_words_of_tensorflow_hub(hub_server: LoopbackHub) -> None:
    handle = hub_server.add_file("bad_archive.tar.gz", b"bad_archive")
    with pytest.raises(OSError, match=r"bad_archive\.tar\.gz does not appear to be a valid module") as caught:
        hub.load(handle)
    assert isinstance(caught.value.__cause__, hubdist.errors.IntegrityError)


def test_a_member_that_comes_twice_with_the_same_bytes_is_one_file(hub_server: LoopbackHub, exported: Path) -> None:
    packed = added_as_people_do(exported)
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        names = archive.getnames()
    assert len(names) > len(set(names))
    handle = hub_server.add_file("test_module.tgz", packed)
    assert hub.load(handle)(TEXTS, False).shape == (3, 2)


def test_a_member_that_comes_twice_with_other_bytes_is_an_os_error(hub_server: LoopbackHub) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for data in (b"first", b"other"):
            member = tarfile.TarInfo("saved_model.pb")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    with pytest.raises(OSError, match="does not appear to be a valid module"):
        hub.resolve(hub_server.add_file("two.tar.gz", packed.getvalue()))


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_hub_that_says_no_is_an_os_error(hub_server: LoopbackHub, words: str, status: int) -> None:
    hub_server.fail_next(words, *[Status(status)] * 8)
    with pytest.raises(OSError):
        hub.load(words)


def test_a_host_that_does_not_answer_is_an_os_error() -> None:
    with LoopbackHub() as gone:
        handle = f"{gone.url}/acme/words/1"
    with pytest.raises(OSError, match="acme/words/1"):
        hub.load(handle)


def test_other_archives_and_handles_of_hubdist_work_too(hub_server: LoopbackHub, exported: Path) -> None:
    files = {f"inner/{path.relative_to(exported)}": path.read_bytes() for path in exported.rglob("*") if path.is_file()}
    handle = f"zip://inner::{hub_server.add_file('models.zip', zipped(files))}"
    assert hub.load(handle)(TEXTS, False).shape == (3, 2)


# The cache that a program names


def test_a_cache_by_file_url_is_filled_as_tensorflow_hub_fills_it(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFHUB_CACHE_DIR", f"file://{tmp_path}/cache")
    hubdist.init(store=str(tmp_path / "store"))
    hub.load(words)

    name = hashlib.sha1(words.encode(), usedforsecurity=False).hexdigest()
    assert sorted(tf.io.gfile.listdir(f"file://{tmp_path}/cache")) == [name, f"{name}.descriptor.txt"]
    found = sorted(tf.io.gfile.listdir(f"file://{tmp_path}/cache/{name}"))
    assert found == ["assets", "fingerprint.pb", "saved_model.pb", "variables"]


def test_the_flag_names_the_cache_too(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from absl import flags

    monkeypatch.setattr(flags.FLAGS["tfhub_cache_dir"], "_value", str(tmp_path / "cache"))
    hub.resolve(words)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_what_tensorflow_hub_has_cached_is_used_in_place_of_the_hub(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_server: LoopbackHub
) -> None:
    monkeypatch.setenv("TFHUB_CACHE_DIR", f"file://{tmp_path}/cache")
    integration.uninstall()
    assert hub.resolve(words).startswith(f"file://{tmp_path}/cache")
    integration.install()
    hubdist.init(store=str(tmp_path / "store"))

    assert hub.resolve(words).startswith(str(tmp_path / "store"))
    assert hub_server.reads(words) == 1


# hub.load


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


# hub.KerasLayer


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


# install and uninstall


def test_without_hubdist_tensorflow_hub_downloads_for_itself(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_server: LoopbackHub
) -> None:
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))
    integration.uninstall()
    assert hub.resolve(words).startswith(str(tmp_path / "cache"))
    assert not list((tmp_path / "store" / "snapshots").iterdir())


def test_installing_again_after_the_import_works_too(words: str, tmp_path: Path) -> None:
    integration.uninstall()
    integration.install()
    integration.install()
    assert hub.resolve(words).startswith(str(tmp_path / "store"))
