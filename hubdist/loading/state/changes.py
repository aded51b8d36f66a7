"""What differs between a loaded model and the published one, as plain values that can be pickled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hubdist.loading.state.parts import NodePath

PLAIN = (type(None), bool, int, float, complex, str, bytes)
"""The types of attributes that can travel in a pickle."""


@dataclass(frozen=True, slots=True)
class Array:
    """A tensor's values, independent of TensorFlow.

    Attributes:
        dtype: The name of the `tf.DType`.
        shape: The tensor's shape.
        data: The bytes as an array of uint8, which pickles without a copy where the reader allows it; for strings a
            list of bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    data: Any

    @classmethod
    def of(cls, tensor: Any) -> Array:
        """The values of an eager tensor, without a copy where the tensor is in this process's memory."""
        strings = tensor.dtype.name == "string"
        view = np.asarray(tensor._numpy(), dtype=object if strings else None)
        shape = tuple(int(size) for size in view.shape)
        if strings:
            return cls(tensor.dtype.name, shape, [bytes(value) for value in view.reshape(-1)])
        return cls(tensor.dtype.name, shape, np.ascontiguousarray(view).reshape(-1).view(np.uint8))

    def tensor(self, tensorflow: Any) -> Any:
        """A tensor with a copy of the values."""
        dtype = tensorflow.dtypes.as_dtype(self.dtype)
        if isinstance(self.data, list):
            return tensorflow.reshape(tensorflow.constant(self.data, dtype), self.shape)
        # Bytes that arrived by Ray lie in read-only memory, which other processes see too.
        values = np.array(self.data, copy=True).view(dtype.as_numpy_dtype).reshape(self.shape)
        return tensorflow.convert_to_tensor(values, dtype)


@dataclass(frozen=True, slots=True)
class Changes:
    """Everything that is needed to make the published model equal to a changed one.

    Attributes:
        variables: The path of each changed variable, and its values.
        tables: The path of each changed table, and all its keys and values.
        graph_variables: The op's name of each changed variable of a TF1 graph, and its values; see `GraphVariables`.
        attributes: The path of an object, the name of its changed attribute, and the plain value.
    """

    variables: tuple[tuple[NodePath, Array], ...] = ()
    tables: tuple[tuple[NodePath, Array, Array], ...] = ()
    graph_variables: tuple[tuple[str, Array], ...] = ()
    attributes: tuple[tuple[NodePath, str, Any], ...] = ()

    def __bool__(self) -> bool:
        """False if the model is as it was published."""
        return bool(self.variables or self.tables or self.graph_variables or self.attributes)
