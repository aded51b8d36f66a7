"""Models over the rows of a dataset of Ray Data: a class for `map_batches`, and an expression for `with_column`.

    predicted = dataset.map_batches(
        Predictor,
        fn_constructor_args=["https://tfhub.dev/google/nnlm-en-dim50/2"],
        fn_constructor_kwargs={"inputs": {"text": "inputs"}},
        compute=ray.data.ActorPoolStrategy(size=2),
    )

Both name the model by its handle, which is short; each actor loads the model from its node's disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hubdist.errors import ConfigError, SignatureError
from hubdist.integrations.open_signatures import OpenSignature, open_signature
from hubdist.loading import Values


class Predictor:
    """A signature of a model, for `Dataset.map_batches`. It adds the outputs to each batch as columns.

    What needs no data is checked when an actor makes its object: handle, signature, names of arguments and outputs.
    Types and shapes of columns are checked with each batch. A pickle of a predictor holds its arguments and the digest
    of the model, and loads the model anew where it arrives.

    Args:
        handle: As for `hubdist.load`.
        signature: The signature's name; None takes `serving_default`, else `default`, else the only one.
        inputs: Column -> argument of the signature; None takes the columns with the names of the arguments.
        outputs: Output of the signature -> column; None makes a column of each output, with its name. A column that is
            there already is replaced.
        keep: The columns of the dataset that stay beside the outputs; None for all of them.
        pad_to: The number of rows that the model gets each time: a smaller batch is filled up and cut off again, a
            larger one is cut into several calls. None passes batches on as they come, unless the signature has a fixed
            number of rows.
        tags: As for `hubdist.load`.
        digest: The digest that the model's files must have, `sha256:<hex>`; None takes what the handle stands for.

    Raises:
        SignatureError: The model has no such signature, or the signature no such argument or output.
        DigestMismatchError: The handle stands for other bytes than those of `digest`.
        HubdistError: As for `hubdist.load`.
    """

    def __init__(
        self,
        handle: str | os.PathLike[str],
        signature: str | None = None,
        *,
        inputs: Mapping[str, str] | None = None,
        outputs: Mapping[str, str] | None = None,
        keep: Sequence[str] | None = None,
        pad_to: int | None = None,
        tags: str | None = None,
        digest: str | None = None,
    ) -> None:
        self._handle = handle
        self._options: dict[str, Any] = {"signature": signature, "tags": tags, "pad_to": pad_to, "digest": digest}
        self._inputs = None if inputs is None else dict(inputs)
        self._outputs = None if outputs is None else dict(outputs)
        self._keep = None if keep is None else tuple(keep)
        self._opened: OpenSignature | None = self._open()

    def __call__(self, batch: Mapping[str, Values]) -> dict[str, Values]:
        """The batch with the outputs of the model as further columns.

        Args:
            batch: Column -> its values, as `map_batches` gives them with the batch format "numpy". They are not
                changed, so `zero_copy_batch=True` is right.

        Raises:
            SignatureError: A column is missing, or its type or shape is not what the signature takes.
        """
        if not isinstance(batch, Mapping):
            raise SignatureError(
                f"the predictor takes columns of NumPy arrays, and the batch is a {type(batch).__name__}",
                advice='Call map_batches with batch_format="numpy", which it takes by itself.',
            )
        if self._opened is None:
            self._opened = self._open()
        call = self._opened.call
        columns = self._columns(call.arguments)
        self._check_columns(batch, columns)
        names = self._outputs or {name: name for name in call.outputs}
        values = {argument: batch[column] for argument, column in columns.items()}
        found = call(values, {argument: f"column {column!r}" for argument, column in columns.items()}, list(names))
        kept = batch if self._keep is None else {column: batch[column] for column in self._keep}
        return {**kept, **{column: found[name] for name, column in names.items()}}

    def __getstate__(self) -> dict[str, Any]:
        opened = self._opened
        pinned = self._options if opened is None else {**self._options, "digest": opened.digest}
        return {**self.__dict__, "_opened": None, "_options": pinned}

    def _open(self) -> OpenSignature:
        opened = open_signature(self._handle, **self._options)
        call = opened.call
        call.check(self._columns(call.arguments), call.outputs if self._outputs is None else self._outputs)
        return opened

    def _columns(self, arguments: Mapping[str, Any]) -> dict[str, str]:
        """Argument of the signature -> column."""
        if self._inputs is None:
            return {name: name for name in arguments}
        return {argument: column for column, argument in self._inputs.items()}

    def _check_columns(self, batch: Mapping[str, Values], columns: Mapping[str, str]) -> None:
        for column in (*columns.values(), *(self._keep or ())):
            if column not in batch:
                raise SignatureError(
                    f"the dataset has no column {column!r}; it has {', '.join(map(repr, batch))}",
                    advice="Give inputs={'<column>': '<argument>'}, or rename the column."
                    if self._inputs is None
                    else "Correct the name.",
                )


def predict_column(
    handle: str | os.PathLike[str], output: str, *, return_dtype: Any, signature: str | None = None, **options: Any
) -> Callable[..., Any]:
    """A model as an expression of Ray Data, for `Dataset.with_column`.

        scores = predict_column(handle, "scores", return_dtype=DataType.tensor((54,), DataType.float32()))
        dataset.with_column("scores", scores(inputs=col("text")))

    Args:
        handle: As for `hubdist.load`.
        output: The output of the signature that becomes the column.
        return_dtype: The column's `ray.data.datatype.DataType`.
        signature: As for `Predictor`.
        **options: `pad_to`, `tags` and `digest`, as for `Predictor`.

    Returns:
        A function that takes an expression for each argument of the signature, by name, and gives an expression.

    Raises:
        ConfigError: This version of Ray has no expressions that keep a model in an actor.
    """
    try:
        from ray.data.expressions import udf

        expression = udf(return_dtype=return_dtype)(_ColumnPredictor)
    except (ImportError, TypeError):  # Ray has none, or none of classes
        expression = None
    if not isinstance(expression, type):
        import ray

        raise ConfigError(
            f"Ray {ray.__version__} has no expressions of classes",
            advice="Use dataset.map_batches(Predictor, ...), or a newer Ray.",
        )
    made: Callable[..., Any] = expression(handle, output, signature, options)
    return made


class _ColumnPredictor:
    """One output of a model for columns as expressions have them: of NumPy, pandas or Arrow."""

    def __init__(
        self, handle: str | os.PathLike[str], output: str, signature: str | None, options: Mapping[str, Any]
    ) -> None:
        self._output = output
        self._call = open_signature(handle, signature, **options).call
        self._call.check(self._call.arguments, [output])

    def __call__(self, **columns: Any) -> Any:
        self._call.check(columns, [self._output])
        values = {name: _as_numpy(column) for name, column in columns.items()}
        found = self._call(values, {name: f"argument {name!r}" for name in columns}, [self._output])
        return _as_column(found[self._output], next(iter(columns.values())))


def _as_numpy(column: Any) -> Values:
    if hasattr(column, "dtype"):  # of NumPy or pandas
        return np.asarray(column)
    whole = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    values: Values = whole.to_numpy(zero_copy_only=False)
    return values


def _as_column(values: Values, like: Any) -> Any:
    """Values as a column of the kind that came: Ray takes no arrays of several axes beside Arrow's columns."""
    if isinstance(like, np.ndarray):
        return values
    if hasattr(like, "dtype"):
        return type(like)(list(values), index=like.index)
    from ray.data.block import BlockAccessor

    return BlockAccessor.batch_to_arrow_block({"values": values}).column("values")
