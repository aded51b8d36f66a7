"""What differs between a loaded model and the published one, as plain values that can be pickled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

NodePath = tuple[str, ...]
"""The names that lead from a model to a part of it, `()` for the model itself."""

PLAIN = (type(None), bool, int, float, complex, str, bytes)
"""Types of attributes that travel."""


@dataclass(frozen=True, slots=True)
class Array:
    """A tensor's values, independent of TensorFlow.

    Attributes:
        dtype: Name of the `tf.DType`.
        shape: Its shape.
        data: The bytes as an array of uint8, which pickles without a copy where the reader allows it; for strings a
            list of bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    data: Any

    @classmethod
    def of(cls, tensor: Any) -> Array:
        """The values of an eager tensor, not copied where the tensor is in this process's memory."""
        strings = tensor.dtype.name == "string"
        view = np.asarray(tensor._numpy(), dtype=object if strings else None)
        shape = tuple(int(size) for size in view.shape)
        if strings:
            return cls(tensor.dtype.name, shape, [bytes(value) for value in view.reshape(-1)])
        return cls(tensor.dtype.name, shape, np.ascontiguousarray(view).reshape(-1).view(np.uint8))

    def tensor(self, tensorflow: Any) -> Any:
        """A tensor with a copy of the values: those that arrived may be read-only memory that others see too."""
        dtype = tensorflow.dtypes.as_dtype(self.dtype)
        if isinstance(self.data, list):
            return tensorflow.reshape(tensorflow.constant(self.data, dtype), self.shape)
        values = np.array(self.data, copy=True).view(dtype.as_numpy_dtype).reshape(self.shape)
        return tensorflow.convert_to_tensor(values, dtype)


@dataclass(frozen=True, slots=True)
class Changes:
    """What a changed model takes along.

    Attributes:
        variables: Values by the variable's path.
        tables: Keys and values, all of them, by the table's path.
        loose: Values of variables that are ops of a TF1 graph, by the op's name; see `loose`.
        attributes: Plain values by the path of the object, and the attribute's name.
    """

    variables: tuple[tuple[NodePath, Array], ...] = ()
    tables: tuple[tuple[NodePath, Array, Array], ...] = ()
    loose: tuple[tuple[str, Array], ...] = ()
    attributes: tuple[tuple[NodePath, str, Any], ...] = ()

    def __bool__(self) -> bool:
        """False if the model is as it was published."""
        return bool(self.variables or self.tables or self.loose or self.attributes)
