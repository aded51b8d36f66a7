"""Shapes of a layer's outputs: as users write them, as TensorFlow takes them, and as JSON keeps them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def is_shape(value: Any) -> bool:
    """True for a shape; False for a list, tuple or dict of shapes."""
    if isinstance(value, (list, tuple)):
        return all(size is None or isinstance(size, int) for size in value)
    return hasattr(value, "as_list")


def map_shapes(function: Callable[[tuple[int | None, ...]], Any], shapes: Any) -> Any:
    """The same lists, tuples and dicts with a value in place of each shape.

    Args:
        function: Gets a shape as a tuple, and gives the value.
        shapes: A shape, or lists, tuples and dicts of shapes. An empty list or tuple is the shape of a scalar.

    Raises:
        TypeError: There is something else in it.
    """
    if is_shape(shapes):
        return function(tuple(shapes.as_list() if hasattr(shapes, "as_list") else shapes))
    if isinstance(shapes, dict):
        return {name: map_shapes(function, shape) for name, shape in shapes.items()}
    if isinstance(shapes, (list, tuple)):
        return type(shapes)(map_shapes(function, shape) for shape in shapes)
    raise TypeError(f"output_shape has {shapes!r}, which is neither a shape nor a list, tuple or dict of shapes")


def set_shapes(outputs: Any, shapes: Any, batch: Any, tensor_shape: Any) -> None:
    """Tell TensorFlow the shapes of tensors that it could not find out.

    Args:
        outputs: A tensor, or lists, tuples and dicts of tensors.
        shapes: Their shapes without the batch, nested in the same way.
        batch: The size of the batch; None if it is not known.
        tensor_shape: The class `tf.TensorShape`.

    Raises:
        ValueError: A shape does not fit, or `shapes` is nested in another way.
    """
    if is_shape(shapes):
        if not hasattr(outputs, "set_shape"):
            raise ValueError(f"output_shape has one shape where the model returns a {type(outputs).__name__}")
        outputs.set_shape(tensor_shape([batch, *map_shapes(tuple, shapes)]))
        return
    names = list(shapes) if isinstance(shapes, dict) else list(range(len(shapes)))
    found = list(outputs) if isinstance(outputs, dict) else list(range(len(outputs)))
    if isinstance(outputs, dict) is not isinstance(shapes, dict) or sorted(names) != sorted(found):
        raise ValueError(f"output_shape is for {names}, and the model returns {found}")
    for name in names:
        set_shapes(outputs[name], shapes[name], batch, tensor_shape)
