"""Signatures of real models, called with NumPy values: names, rows that are filled up, and what errors say."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from hubdist.errors import SignatureError
from hubdist.loading import SignatureCall

pytestmark = pytest.mark.tf

NAMES = {name: f"column {name!r}" for name in ("x", "words", "n")}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model with several signatures; `rows_seen` counts in a variable the rows that `serving_default` was given."""
    import tensorflow as tf

    module = tf.Module()
    module.rows_seen = tf.Variable(0)

    @tf.function(input_signature=[tf.TensorSpec((None, 2), name="x"), tf.TensorSpec((None,), tf.string, name="words")])
    def both(x: Any, words: Any) -> dict[str, Any]:
        module.rows_seen.assign(tf.shape(x)[0])
        lengths = tf.cast(tf.strings.length(words), tf.float32)
        return {"sum": tf.reduce_sum(x, 1) + lengths, "upper": tf.strings.upper(words), "mean": tf.reduce_mean(x)}

    @tf.function(input_signature=[tf.TensorSpec((4,), tf.int32, name="n")])
    def four(n: Any) -> dict[str, Any]:
        tf.debugging.assert_positive(n)
        return {"double": 2 * n}

    folder = tmp_path_factory.mktemp("signatures") / "model"
    tf.saved_model.save(module, str(folder), signatures={"serving_default": both, "four": four})
    return tf.saved_model.load(str(folder))


def texts(*values: str | bytes | None) -> np.ndarray:
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


def test_rows_are_answered_by_name(model: Any) -> None:
    call = SignatureCall(model, None, "h")
    x = np.array([[1, 2], [3, 4]])  # whole numbers, which the signature does not take
    x.flags.writeable = False
    found = call({"x": x, "words": texts("ab", "é")}, NAMES, ["sum", "upper"])
    assert list(found) == ["sum", "upper"]
    assert found["sum"].tolist() == [5.0, 9.0]
    assert found["upper"].tolist() == [b"AB", "é".encode()]


@pytest.mark.parametrize("rows", [1, 3, 4, 9])
def test_the_model_gets_the_same_number_of_rows_each_time(model: Any, rows: int) -> None:
    call = SignatureCall(model, None, "h", pad_to=4)
    values = {"x": np.ones((rows, 2), np.float32), "words": texts(*"a" * rows)}
    found = call(values, NAMES, ["sum"])
    assert found["sum"].tolist() == [3.0] * rows
    assert model.rows_seen.numpy() == 4


def test_a_signature_with_a_fixed_number_of_rows_gets_that_number(model: Any) -> None:
    call = SignatureCall(model, "four", "h")
    found = call({"n": np.arange(1, 7)}, NAMES, ["double"])  # a row of zeros would be refused by the model
    assert found["double"].tolist() == [2, 4, 6, 8, 10, 12]


def test_no_rows_give_outputs_without_rows(model: Any) -> None:
    call = SignatureCall(model, None, "h")
    found = call({"x": np.ones((0, 2), np.float32), "words": texts()}, NAMES, ["sum", "upper"])
    assert {name: (each.shape, each.dtype) for name, each in found.items()} == {
        "sum": ((0,), np.float32),
        "upper": ((0,), object),
    }


def test_two_threads_get_their_own_rows(model: Any) -> None:
    call = SignatureCall(model, None, "h", pad_to=3)
    found: dict[int, list[float]] = {}

    def ask(number: int) -> None:
        values = {"x": np.full((5, 2), number, np.float32), "words": texts(*[""] * 5)}
        found[number] = call(values, NAMES, ["sum"])["sum"].tolist()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {number: [2.0 * number] * 5 for number in range(8)}


@pytest.mark.parametrize(
    ("signature", "pad_to", "words"),
    [
        ("nothing", None, "no signature 'nothing'; it has 'four', 'serving_default'"),
        ("four", 8, "takes 4 rows, not 8"),
        (None, 0, "pad_to is 0"),
    ],
)
def test_a_wrong_call_is_refused_before_there_are_values(
    model: Any, signature: str | None, pad_to: int | None, words: str
) -> None:
    with pytest.raises(SignatureError, match=f"{words}.*; handle my-handle"):
        SignatureCall(model, signature, "my-handle", pad_to)


def test_a_model_without_signatures_says_so() -> None:
    with pytest.raises(SignatureError, match=r"it has none at all.*signatures="):
        SignatureCall(object(), None, "h")


@pytest.mark.parametrize(
    ("arguments", "outputs", "words"),
    [
        (["x", "word"], [], r"no argument 'word'; it has 'words' \(string \(rows\)\), 'x' \(float32 \(rows, 2\)\)"),
        (["x", "words"], ["y"], "no output 'y'; it has 'mean' .*'sum' .*'upper'"),
        (["x"], [], r"nothing is given for the argument 'words' .* takes string \(rows\)"),
    ],
)
def test_names_are_checked_against_the_signature(
    model: Any, arguments: list[str], outputs: list[str], words: str
) -> None:
    call = SignatureCall(model, None, "h")
    call.check(["x", "words"], ["sum"])
    with pytest.raises(SignatureError, match=words):
        call.check(arguments, outputs)


@pytest.mark.parametrize(
    ("signature", "values", "output", "words"),
    [
        (None, {"x": np.ones((2, 2)), "words": texts("a", None)}, "sum", "column 'words' has no value in row 1"),
        (
            None,
            {"x": np.ones((2, 2)), "words": texts("a", 3)},
            "sum",
            "column 'words' has values of different types, such as str and int",
        ),
        (None, {"x": np.ones((2, 3)), "words": texts("a", "b")}, "sum", r"'x' has float64 \(rows, 3\).*\(rows, 2\)"),
        (
            None,
            {"x": np.ones((2, 2)), "words": texts("a")},
            "sum",
            "numbers of rows differ: .*'words' has 1, .*'x' has 2",
        ),
        (None, {"x": np.ones((2, 2)), "words": texts("a", "b")}, "mean", "'mean' has no entry for each of the 2 rows"),
        ("four", {"n": np.array([1, -1])}, "double", "the model refuses a value of n"),
    ],
)
def test_values_that_do_not_fit_are_an_error_that_names_them(
    model: Any, signature: str | None, values: dict[str, Any], output: str, words: str
) -> None:
    with pytest.raises(SignatureError, match=words):
        SignatureCall(model, signature, "h")(values, {name: NAMES[name] for name in values}, [output])
