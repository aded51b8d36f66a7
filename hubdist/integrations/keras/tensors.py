"""What a layer gets and returns: users' values as tensors, and the symbols that Keras builds models of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hubdist.loading import import_tensorflow


def as_tensors(keras: Any, value: Any) -> Any:
    """A user's value with tensors in place of arrays, numbers and texts.

    A list of numbers or texts, or of such lists, is one tensor. A list in which there is an array, a tensor or a symbol
    is a list of inputs.

    Args:
        keras: The module `keras`.
        value: A tensor, a symbol, or what becomes one; or a nest of them.
    """
    if isinstance(value, dict):
        return {name: as_tensors(keras, each) for name, each in value.items()}
    if isinstance(value, (list, tuple)) and any(hasattr(each, "dtype") for each in keras.tree.flatten(value)):
        return type(value)([as_tensors(keras, each) for each in value])
    if keras.backend.is_keras_tensor(value):
        return value
    tensorflow = import_tensorflow()
    return value if tensorflow.is_tensor(value) else tensorflow.convert_to_tensor(value)


def output_symbols(keras: Any, call: Callable[[Any], Any], inputs: Any) -> Any:
    """Trace a call, and give a symbol for each tensor that it returns.

    Args:
        keras: The module `keras`.
        call: Gets a nest of tensors, and returns one.
        inputs: A nest of `keras.KerasTensor`.

    Raises:
        ValueError: TensorFlow cannot find out how many dimensions an output has.
    """
    tensorflow = import_tensorflow()
    specs = keras.tree.map_structure(lambda symbol: _spec(tensorflow, symbol), inputs)
    traced = tensorflow.function(call, autograph=False).get_concrete_function(specs)
    return keras.tree.map_structure(
        lambda output: _symbol(keras, tensorflow, output), traced.structured_outputs, none_is_leaf=False
    )


def _spec(tensorflow: Any, symbol: Any) -> Any:
    if not hasattr(symbol, "ragged"):
        return symbol
    if symbol.sparse:
        return tensorflow.SparseTensorSpec(symbol.shape, symbol.dtype)
    if symbol.ragged:
        splits = symbol.row_splits_dtype or "int64"
        return tensorflow.RaggedTensorSpec(symbol.shape, symbol.dtype, symbol.ragged_rank, splits)
    return tensorflow.TensorSpec(symbol.shape, symbol.dtype)


def _symbol(keras: Any, tensorflow: Any, output: Any) -> Any:
    if output.shape.rank is None:
        raise ValueError(
            "TensorFlow cannot find out the shape of the model's output: give the layer output_shape=(...), the shape"
            " without the batch"
        )
    ragged = isinstance(output, tensorflow.RaggedTensor | tensorflow.RaggedTensorSpec)
    sparse = isinstance(output, tensorflow.SparseTensor | tensorflow.SparseTensorSpec)
    return keras.KerasTensor(output.shape, output.dtype, sparse=sparse, ragged=ragged)
