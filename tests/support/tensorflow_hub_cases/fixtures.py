"""What the cases share: two models and a hub. As a plugin of pytest it installs hubdist before the cases' imports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hubdist
from hubdist.integrations import tensorflow_hub as integration
from hubdist.testing.hub import LoopbackHub

integration.install()  # before tensorflow_hub is imported, as in a worker

import tensorflow as tf  # noqa: E402 - see above


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
