"""`Predictor` on batches as Ray Data gives them: columns in and out, pins, and what errors say. No Ray is needed."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import hubdist
from hubdist.errors import ConfigError, DigestMismatchError, SignatureError
from hubdist.integrations.ray_data import Predictor, _ColumnPredictor, predict_column

pytestmark = pytest.mark.tf

EXPECTED = [[2.0, 3.0], [4.0, 6.0], [-2.0, -3.0]]
CHANGED = [[0.0, 0.0], [-2.0, -3.0], [-2.0, -3.0]]


def batch(**columns: Any) -> dict[str, np.ndarray]:
    """Columns that nobody may write to, as with `zero_copy_batch=True`."""
    made = {"text": np.array(["one", "two", "unknown"], dtype=object), "id": np.arange(3), **columns}
    for column in made.values():
        column.flags.writeable = False
    return made


@pytest.fixture
def handle(models: Path) -> str:
    return str(models / "tf2")


def test_outputs_become_columns_beside_those_that_are_there(handle: str) -> None:
    found = Predictor(handle, inputs={"text": "words"})(batch())
    assert sorted(found) == ["id", "output_0", "text"]
    assert found["output_0"].tolist() == EXPECTED
    assert found["id"].tolist() == [0, 1, 2]


def test_columns_have_the_names_that_are_given(handle: str) -> None:
    predictor = Predictor(handle, inputs={"text": "words"}, outputs={"output_0": "embedding"}, keep=["id"], pad_to=8)
    found = predictor(batch())
    assert list(found) == ["id", "embedding"]
    assert found["embedding"].tolist() == EXPECTED


def test_columns_with_the_names_of_arguments_need_no_mapping(handle: str) -> None:
    found = Predictor(handle, keep=[])({"words": batch()["text"]})
    assert {name: values.tolist() for name, values in found.items()} == {"output_0": EXPECTED}


def test_a_tf1_model_takes_columns_too(models: Path) -> None:
    found = Predictor(str(models / "tf1"))({"x": np.array([[1.0, 2.0]])})
    assert found["y"].tolist() == [[21.0]]


@pytest.mark.parametrize(
    ("options", "columns", "words"),
    [
        ({}, {}, r"no column 'words'; it has 'text', 'id'.*inputs="),
        ({"inputs": {"txt": "words"}}, {}, "no column 'txt'; it has 'text', 'id'.*Correct the name"),
        ({"inputs": {"text": "words"}, "keep": ["ids"]}, {}, "no column 'ids'"),
        ({"inputs": {"id": "words"}}, {}, r"column 'id' has int64 \(rows\), and the signature takes string \(rows\)"),
    ],
)
def test_a_batch_that_does_not_fit_is_an_error_that_names_the_column(
    handle: str, options: dict[str, Any], columns: dict[str, Any], words: str
) -> None:
    predictor = Predictor(handle, **options)
    with pytest.raises(SignatureError, match=words):
        predictor(batch(**columns))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"signature": "serve"}, "no signature 'serve'"),
        ({"inputs": {"text": "word"}}, "no argument 'word'; it has 'words'"),
        ({"outputs": {"scores": "s"}}, "no output 'scores'; it has 'output_0'"),
    ],
)
def test_what_needs_no_batch_is_checked_without_one(handle: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(SignatureError, match=words):
        Predictor(handle, **options)


def test_another_batch_format_is_told(handle: str) -> None:
    with pytest.raises(SignatureError, match=r'the batch is a list.*batch_format="numpy"'):
        Predictor(handle)([1])  # type: ignore[arg-type]


def test_a_pickle_is_small_and_means_the_same_bytes(handle: str, tmp_path: Path) -> None:
    model = shutil.copytree(handle, tmp_path / "model")
    predictor = Predictor(str(model), inputs={"text": "words"})
    pickled = pickle.dumps(predictor)
    assert len(pickled) < 1000
    assert pickle.loads(pickled)(batch())["output_0"].tolist() == EXPECTED

    hubdist.shutdown()
    (vocabulary,) = model.glob("assets/*")
    vocabulary.write_text("one\nzero\n", encoding="utf-8")
    with pytest.raises(DigestMismatchError, match="stands for other bytes"):
        pickle.loads(pickled)(batch())
    again = Predictor(str(model), inputs={"text": "words"})
    assert again(batch())["output_0"].tolist() == CHANGED


@pytest.mark.parametrize(
    "make", [np.array, pd.Series, pa.array, lambda texts: pa.chunked_array([texts[:1], texts[1:]])]
)
def test_an_expression_answers_with_a_column_of_the_kind_that_came(handle: str, make: Any) -> None:
    column = make(["one", "two", "unknown"])
    found = _ColumnPredictor(handle, "output_0", None, {"pad_to": 8})(words=column)
    assert isinstance(found, pa.ChunkedArray if isinstance(column, pa.Array) else type(column))
    assert np.stack(list(found.to_numpy() if hasattr(found, "to_numpy") else found)).tolist() == EXPECTED


def test_an_expression_is_made_without_loading_the_model() -> None:
    from ray.data.datatype import DataType
    from ray.data.expressions import col

    predict = predict_column("gs://nothing/there", "y", return_dtype=DataType.float32())
    assert predict(x=col("x")) is not None


def test_a_ray_without_expressions_of_classes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.data import expressions

    monkeypatch.setattr(expressions, "udf", lambda return_dtype: lambda fn: lambda *args: fn)
    with pytest.raises(ConfigError, match=r"has no expressions of classes.*map_batches"):
        predict_column("gs://nothing/there", "y", return_dtype=None)
    monkeypatch.delattr(expressions, "udf")
    with pytest.raises(ConfigError, match=r"has no expressions of classes.*map_batches"):
        predict_column("gs://nothing/there", "y", return_dtype=None)
