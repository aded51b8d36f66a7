"""What values of columns become what a signature takes, and what the errors say of the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from hubdist.errors import SignatureError
from hubdist.loading.tensor_values import TensorField, Values, fit_values


def fit(values: Any, kind: str, shape: tuple[int | None, ...] | None = (None,)) -> Values:
    dtype = object if kind == "string" else np.dtype(kind)
    return fit_values(np.asarray(values), TensorField("x", kind, shape), dtype, "column 'c'")


def objects(*values: Any) -> Values:
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


def test_values_that_fit_are_passed_on_and_not_copied() -> None:
    values = np.zeros((2, 3), np.float32)
    assert fit(values, "float32", (None, 3)) is values
    texts = objects("a", b"b", "longer")
    assert fit(texts, "string") is texts


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.array([0, 255], np.uint8), "float32"),
        (np.array([True, False]), "float32"),
        (np.array([1, -1]), "int32"),
        (np.array([1 << 24]), "float32"),
        (np.array([0.1, np.inf, np.nan]), "float32"),
        (np.array([7], np.int32), "uint8"),
    ],
)
def test_numbers_that_keep_their_meaning_are_cast(values: Values, kind: str) -> None:
    cast = fit(values, kind)
    assert cast.dtype == kind
    np.testing.assert_allclose(cast, values.astype(np.float64), rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "kind", "words"),
    [
        (np.array([1, 1 << 40]), "int32", "1099511627776 cannot be int32"),
        (np.array([1, -1]), "uint8", "-1 cannot be uint8"),
        (np.array([(1 << 24) + 1]), "float32", "16777217 cannot be float32"),
        (np.array([1 << 63], np.uint64), "int64", "9223372036854775808 cannot be int64"),
        (np.array([1e300]), "float32", "1e[+]300 cannot be float32"),
        (np.array([0.5]), "float16", "has float64 .rows., and the signature takes float16"),
        (np.array([0.5]), "int32", "has float64 .rows., and the signature takes int32"),
        (np.array([1]), "bool", "has int64 .rows., and the signature takes bool"),
        (np.array([1]), "string", "has int64 .rows., and the signature takes string"),
        (np.array(["1"]), "int32", "has texts .rows., and the signature takes int32"),
        (objects("1"), "float32", "has texts .rows., and the signature takes float32"),
        (objects(1.0, None), "float32", "has no value in row 1"),
        (objects(np.zeros(2), np.zeros(3)), "float32", r"different shapes, such as \(2,\) and \(3,\)"),
    ],
)
def test_other_values_are_an_error_that_names_the_column(values: Values, kind: str, words: str) -> None:
    with pytest.raises(SignatureError, match=rf"column 'c'.*'x'.*{words}|column 'c'.*{words}"):
        fit(values, kind)


@given(
    values=st_numpy.arrays(st_numpy.integer_dtypes() | st_numpy.unsigned_integer_dtypes(), st.integers(0, 5)),
    kind=st.sampled_from(["int8", "uint8", "int16", "int32", "uint32", "int64", "uint64", "float32", "float64"]),
)
def test_a_whole_number_is_cast_exactly_or_refused(values: Values, kind: str) -> None:
    try:
        cast = fit(values, kind)
    except SignatureError:
        return
    if not np.can_cast(values.dtype, kind, "safe"):  # NumPy calls int64 to float64 safe, although it rounds
        assert [int(value) for value in cast] == [int(value) for value in values]


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [((4, 3), (None, 3)), ((4, 3), (None, None)), ((4,), (None, 1)), ((4, 1), (None,)), ((4, 9), None)],
)
def test_shapes_that_fit_have_an_axis_of_one_added_or_taken_away(
    shape: tuple[int, ...], wanted: tuple[int | None, ...] | None
) -> None:
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    fitted = fit(values, "float32", wanted)
    assert fitted.ravel().tolist() == values.ravel().tolist()
    assert wanted is None or fitted.ndim == len(wanted)


def test_a_shape_that_does_not_fit_is_told_with_the_one_that_does() -> None:
    words = r"column 'c' has float32 \(rows, 2\), and the signature takes float32 \(rows, 3, any\)"
    with pytest.raises(SignatureError, match=words):
        fit(np.zeros((4, 2), np.float32), "float32", (None, 3, None))


def test_arrays_that_are_objects_become_one_array() -> None:
    fitted = fit(objects(np.zeros(2), np.ones(2)), "float32", (None, 2))
    assert fitted.tolist() == [[0, 0], [1, 1]]


def test_values_are_never_changed() -> None:
    values = np.array([1.5, 2.5])
    values.flags.writeable = False
    fit(values, "float32")
    assert values.tolist() == [1.5, 2.5]
