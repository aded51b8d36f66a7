"""Fit NumPy values to what an argument of a signature takes: its type and its shape, one entry for each row.

Values are cast only where each of them keeps its meaning. Everything else is an error that names the column, says what
came and what the signature takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubdist.errors import SignatureError

Values = NDArray[Any]
"""One entry for each row; texts as objects."""


@dataclass(frozen=True, slots=True)
class TensorField:
    """An argument or an output of a signature.

    Attributes:
        name: Its name in the signature.
        kind: TensorFlow's name of its type, such as `float32` or `string`.
        shape: Its sizes, rows first, with None for any size; None as a whole for any shape.
    """

    name: str
    kind: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        """The field as messages show it, such as `float32 (rows, 3)`."""
        if self.shape is None:
            return f"{self.kind} of any shape"
        if not self.shape:
            return f"one {self.kind} for all rows"
        rows, *rest = self.shape
        sizes = [str(rows or "rows"), *("any" if size is None else str(size) for size in rest)]
        return f"{self.kind} ({', '.join(sizes)})"


def fit_values(values: Values, field: TensorField, dtype: Any, source: str) -> Values:
    """Values as an argument takes them.

    Args:
        values: One entry for each row. They are not changed, so they may be read-only.
        field: The argument.
        dtype: NumPy's type for the argument; `object` for texts.
        source: What messages call the values, such as `column 'text'`.

    Returns:
        The values, or a copy where they had to be cast.

    Raises:
        SignatureError: A value is missing, or type or shape do not fit.
    """
    if values.dtype == object:
        values = _from_objects(values, field, source)
    values = _shaped(values, field, source)
    if field.kind == "string":
        if values.dtype.kind not in "OSU":
            raise _misfit(values, field, source, "Make texts of them first.")
        return values
    return values if values.dtype == dtype else _cast(values, field, np.dtype(dtype), source)


def _from_objects(values: Values, field: TensorField, source: str) -> Values:
    """Entries that are Python objects: texts stay, arrays of one shape become one array."""
    first = next(iter(values.flat), None)
    if isinstance(first, (str, bytes)) and all(isinstance(value, (str, bytes)) for value in values.flat):
        return values
    row = next((row for row, value in enumerate(values) if value is None), None)
    if row is not None:
        raise SignatureError(
            f"{source} has no value in row {row} of the batch, and the signature takes {field} as {field.name!r}",
            advice="Filter such rows, or fill them with a value, before they come here.",
        )
    shapes = list(dict.fromkeys(np.shape(value) for value in values))
    if len(shapes) > 1:
        raise SignatureError(
            f"{source} has rows of different shapes, such as {shapes[0]} and {shapes[1]},"
            f" and the signature takes {field} as {field.name!r}",
            advice="Pad the rows to one shape, or group them by shape, before they come here.",
        )
    kinds = list(dict.fromkeys(type(value).__name__ for value in values.flat))
    if len(kinds) > 1:
        raise SignatureError(
            f"{source} has values of different types, such as {kinds[0]} and {kinds[1]},"
            f" and the signature takes {field} as {field.name!r}",
            advice="Make one type of them before they come here.",
        )
    return np.stack([np.asarray(value) for value in values]) if len(values) else values


def _cast(values: Values, field: TensorField, dtype: np.dtype[Any], source: str) -> Values:
    """Cast numbers where each keeps its meaning: within its range, and a whole number exactly.

    float64 becomes float32 by rounding, because NumPy and Python make float64 of all numbers with a point unasked. No
    number is rounded to fewer digits than float32 has.
    """
    came = values.dtype
    if np.can_cast(came, dtype, "safe"):
        return values.astype(dtype)
    is_whole = came.kind in "iu" and dtype.kind in "iuf"
    is_rounded = came.kind == dtype.kind == "f" and dtype.itemsize >= 4
    if not is_whole and not is_rounded:
        raise _misfit(values, field, source, f"Cast it to {field.kind} first, if that is what it means.")
    with np.errstate(over="ignore", invalid="ignore"):
        cast = values.astype(dtype)
        kept = _is_exact(values, cast) if is_whole else np.isfinite(cast) | ~np.isfinite(values)
    if not kept.all():
        worst = values[~kept].flat[0]
        raise _misfit(values, field, source, f"The value {worst} cannot be {field.kind}.")
    return cast


def _is_exact(values: Values, cast: Values) -> NDArray[np.bool_]:
    """Which whole numbers are the same after a cast; a number that does not fit may wrap around, and back again."""
    same: NDArray[np.bool_] = (cast.astype(values.dtype) == values) & ((cast < 0) == (values < 0))
    return same


def _shaped(values: Values, field: TensorField, source: str) -> Values:
    """The values with a last axis of size 1 added or taken away where the signature has it otherwise."""
    if field.shape is None:
        return values
    wanted = field.shape[1:]
    if len(wanted) == values.ndim and wanted[-1] == 1:
        values = values[..., np.newaxis]
    elif len(wanted) == values.ndim - 2 and values.shape[-1] == 1:
        values = values[..., 0]
    sizes = values.shape[1:]
    if len(sizes) != len(wanted) or any(b not in (None, a) for a, b in zip(sizes, wanted, strict=True)):
        raise _misfit(values, field, source, "Bring its rows into that shape first.")
    return values


def _misfit(values: Values, field: TensorField, source: str, advice: str) -> SignatureError:
    first = next(iter(values.flat), None)
    is_text = values.dtype.kind in "SU" or isinstance(first, (str, bytes))
    kind = "texts" if is_text else "objects" if values.dtype == object else str(values.dtype)
    sizes = ", ".join(["rows", *map(str, values.shape[1:])])
    return SignatureError(
        f"{source} has {kind} ({sizes}), and the signature takes {field} as {field.name!r}", advice=advice
    )
