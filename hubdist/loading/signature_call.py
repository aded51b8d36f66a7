"""Call a signature of a loaded model with NumPy values by name, and get NumPy values by name.

For integrations that hold rows of a table or of requests. Names are checked once, types and shapes with each batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hubdist.errors import SignatureError
from hubdist.loading.tensor_values import TensorField, Values, fit_values
from hubdist.loading.tf_runtime import import_tensorflow

_USUAL = ("serving_default", "default")
"""The signatures that are taken if none is named: of TensorFlow 2 and exporters, and of TF1 hub modules."""


Rows = dict[str, Values]
"""Name of an argument or output -> its values, one entry for each row."""


class SignatureCall:
    """One signature of a loaded model, for rows. Safe for several threads.

    Args:
        model: A loaded model.
        signature: The signature's name; None takes `serving_default`, else `default`, else the only one.
        handle: The model's handle without secrets, for messages.
        pad_to: The model gets this many rows each time: fewer are filled up with copies of the last one, more are cut
            into several calls. None passes batches on as they come, unless the signature itself has a fixed number.

    Attributes:
        arguments: Name -> what the signature takes.
        outputs: Name -> what the signature gives.

    Raises:
        SignatureError: The model has no such signature, or the signature takes another number of rows than `pad_to`.
    """

    def __init__(self, model: Any, signature: str | None, handle: str, pad_to: int | None = None) -> None:
        self._tensorflow = import_tensorflow()
        self._handle = handle
        self._model = model  # a signature does not keep the variables that it reads
        self.signature, self._function = self._find(model, signature)
        specs = dict(sorted(self._function.structured_input_signature[1].items()))
        self._types = {name: spec.dtype for name, spec in specs.items()}
        self.arguments = {name: _field(name, spec) for name, spec in specs.items()}
        self.outputs = {name: _field(name, spec) for name, spec in sorted(self._function.structured_outputs.items())}
        if not self.arguments:
            raise self._error(f"the signature {self.signature!r} takes no arguments", "Name another one.")
        self._pad_to = self._fixed_rows(pad_to)

    def __call__(self, values: Mapping[str, Values], sources: Mapping[str, str], outputs: Sequence[str]) -> Rows:
        """Run the model on rows.

        Args:
            values: Name of an argument -> its values, one entry for each row; all arguments of the signature.
            sources: Name of an argument -> what messages call its values, such as `column 'text'`.
            outputs: Names of the outputs that are wanted.

        Returns:
            Name of an output -> its values, one entry for each row. Texts are objects of type `bytes`.

        Raises:
            SignatureError: The values do not fit the signature, or an output does not have an entry for each row.
        """
        return self.run(self.fit(values, sources), outputs)

    def fit(self, values: Mapping[str, Values], sources: Mapping[str, str]) -> Rows:
        """Values as the signature takes them; nothing is run.

        Args:
            values: As for the call.
            sources: As for the call.

        Raises:
            SignatureError: Types, shapes or numbers of rows do not fit.
        """
        fitted = {
            name: fit_values(values[name], field, self._types[name].as_numpy_dtype, sources[name])
            for name, field in self.arguments.items()
        }
        if len({len(each) for each in fitted.values()}) > 1:
            shown = ", ".join(f"{sources[name]} has {len(each)}" for name, each in fitted.items())
            raise self._error(f"the numbers of rows differ: {shown}", "Give each the same number.")
        return fitted

    def run(self, fitted: Mapping[str, Values], outputs: Sequence[str]) -> Rows:
        """Run the model on values that `fit` has given, or on some of them one after another.

        Args:
            fitted: Name of an argument -> its values, one entry for each row.
            outputs: As for the call.

        Raises:
            SignatureError: The model refuses a value, or an output does not have an entry for each row.
        """
        rows = len(next(iter(fitted.values())))
        if rows == 0:
            return {name: self._no_rows(name) for name in outputs}
        parts = [self._run(part, outputs) for part in _parts(fitted, rows, self._pad_to or rows)]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in outputs}

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """What TensorFlow raises when it fails by itself, as with too little memory; a wrong value is no failure."""
        return (self._tensorflow.errors.OpError,)

    def check(self, arguments: Iterable[str], outputs: Iterable[str]) -> None:
        """Check that all arguments of the signature are given, and nothing that it does not have.

        Args:
            arguments: Names of the arguments that the caller is going to give.
            outputs: Names of the outputs that the caller is going to ask for.

        Raises:
            SignatureError: A name is missing or unknown.
        """
        for what, given, known in (("argument", arguments, self.arguments), ("output", outputs, self.outputs)):
            unknown = [name for name in given if name not in known]
            if unknown:
                have = ", ".join(f"{name!r} ({field})" for name, field in known.items())
                raise self._error(
                    f"the signature {self.signature!r} has no {what} {unknown[0]!r}; it has {have}", "Correct the name."
                )
        missing = [name for name in self.arguments if name not in set(arguments)]
        if missing:
            raise self._error(
                f"nothing is given for the argument {missing[0]!r} of the signature {self.signature!r},"
                f" which takes {self.arguments[missing[0]]}",
                "Give it a value for each row.",
            )

    def _find(self, model: Any, signature: str | None) -> tuple[str, Any]:
        signatures = getattr(model, "signatures", None) or {}
        names = sorted(signatures)
        usual = [name for name in _USUAL if name in signatures] or (names if len(names) == 1 else [])
        name = signature if signature is not None else usual[0] if usual else None
        if name in signatures:
            return str(name), signatures[name]
        what = "no signature that is taken by itself" if name is None else f"no signature {name!r}"
        raise self._error(
            f"the model has {what}; it has {', '.join(map(repr, names)) or 'none at all'}",
            "Name one of these as `signature`." if names else "Save the model with `signatures=`.",
        )

    def _fixed_rows(self, pad_to: int | None) -> int | None:
        """The number of rows of each call: what the caller wants, or what the signature takes and nothing else."""
        if pad_to is not None and pad_to < 1:
            raise self._error(f"pad_to is {pad_to}", "Give a number of rows from 1 up.")
        sizes = [field.shape[0] for field in self.arguments.values() if field.shape]
        fixed = {size for size in sizes if size is not None}
        if pad_to is not None and fixed - {pad_to}:
            raise self._error(f"the signature takes {max(fixed)} rows, not {pad_to}", "Leave `pad_to` away.")
        return pad_to if not fixed else next(iter(fixed))

    def _run(self, part: Mapping[str, Values], outputs: Sequence[str]) -> Rows:
        """Call the model once; rows that were only filled up are cut off again."""
        rows = len(next(iter(part.values())))
        wanted = self._pad_to or rows
        constant = self._tensorflow.constant
        try:
            results = self._function(
                **{name: constant(_padded(values, wanted), self._types[name]) for name, values in part.items()}
            )
        except (self._tensorflow.errors.InvalidArgumentError, UnicodeError) as error:
            text = str(error).partition("\n")[0]
            raise self._error(f"the model refuses a value of {', '.join(part)}: {text}", None) from None
        return {name: self._rows_of(name, results[name], wanted)[:rows] for name in outputs}

    def _rows_of(self, name: str, result: Any, rows: int) -> Values:
        if not hasattr(result, "numpy") or result.shape.rank in (None, 0) or len(result) != rows:
            raise self._error(
                f"the output {name!r} has no entry for each of the {rows} rows: {getattr(result, 'shape', result)}",
                "Leave it out of `outputs`.",
            )
        values: Values = result.numpy()
        return values

    def _no_rows(self, name: str) -> Values:
        field = self.outputs[name]
        kind = self._function.structured_outputs[name].dtype.as_numpy_dtype
        return np.empty((0, *(size or 0 for size in (field.shape or (0,))[1:])), dtype=kind)

    def _error(self, what: str, advice: str | None) -> SignatureError:
        return SignatureError(what, handle=self._handle, advice=advice)


def _field(name: str, spec: Any) -> TensorField:
    sizes = None if spec.shape.rank is None else tuple(spec.shape.as_list())
    return TensorField(name, spec.dtype.name, sizes)


def _parts(values: Mapping[str, Values], rows: int, size: int) -> Iterator[dict[str, Values]]:
    for begin in range(0, rows, size):
        yield {name: each[begin : begin + size] for name, each in values.items()}


def _padded(values: Values, rows: int) -> Values:
    """The values, and copies of the last row until there are so many rows.

    A row of the batch is one that the model can take, which a row of zeros need not be.
    """
    missing = rows - len(values)
    if missing == 0:
        return values
    return np.concatenate([values, np.repeat(values[-1:], missing, axis=0)])
