"""The parts of a loaded model (objects, variables, functions, tables) by names that lead to them, and their changes.

A change is what differs between a loaded model and the published one, as a plain value that can be pickled.
"""

from __future__ import annotations

import functools
import importlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

PLAIN = (type(None), bool, int, float, complex, str, bytes)
"""The types of attributes that can travel in a pickle."""

NodePath = tuple[str, ...]
"""The names that lead from a model to a part of it; `()` for the model itself."""

set_class: Callable[[Any, type], None] = object.__dict__["__class__"].__set__
"""Give an object another class, as `part.__class__ = kind` would if neither class had a `__setattr__` of its own."""


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


def walk(tensorflow: Any, root: Any) -> Iterator[tuple[NodePath, Any]]:
    """Every part of a model once, with its shortest path; the model itself first.

    The order is the same for the same model in every process.

    Args:
        tensorflow: The module `tensorflow`.
        root: What `tf.saved_model.load` returned.
    """
    view = tensorflow.train.TrackableView(root)
    seen = {id(root)}
    todo: deque[tuple[NodePath, Any]] = deque([((), root)])
    while todo:
        path, node = todo.popleft()
        yield path, node
        for name, child in (*view.children(node).items(), *_more_children(node)):
            if id(child) not in seen and not name.startswith("_self_"):
                seen.add(id(child))
                todo.append(((*path, name), child))


def find(root: Any, path: NodePath) -> Any:
    """The part at a path.

    Args:
        root: What `tf.saved_model.load` returned.
        path: As `walk` gives it.

    Raises:
        KeyError: The model has no part there.
    """
    node = root
    for name in path:
        found = _child(node, name)
        if found is None:
            raise KeyError(".".join(path))
        node = found
    return node


def _child(node: Any, name: str) -> Any:
    if isinstance(node, dict):  # an entry may have the name of one of dict's methods
        return node.get(name)
    if isinstance(node, list):
        return node[int(name)] if name.isdigit() and int(name) < len(node) else None
    more = dict(_more_children(node))
    return more[name] if name in more else getattr(node, name, None)


def attributes_of(node: Any) -> dict[str, Any] | None:
    """The attributes, list elements or dict entries that a user could replace; None for a part that has none."""
    lists, dicts, objects = _containers()
    if isinstance(node, lists):
        return {str(index): value for index, value in enumerate(node)}
    if isinstance(node, dicts):
        return {str(name): value for name, value in node.items()}
    if isinstance(node, objects) and not is_function(node):
        return {name: value for name, value in vars(node).items() if not name.startswith(("_self_", "_hubdist_"))}
    return None


@functools.cache
def _containers() -> tuple[Any, Any, Any]:
    """TensorFlow's classes of lists, dicts and objects. Cached, because each load needs them for each part."""
    structures = importlib.import_module("tensorflow.python.trackable.data_structures")
    objects = importlib.import_module("tensorflow.python.trackable.autotrackable").AutoTrackable
    return structures.ListWrapper, structures._DictWrapper, objects


def is_function(node: Any) -> bool:
    """True for a function of a model, polymorphic or concrete."""
    core = importlib.import_module("tensorflow.python.types.core")
    return isinstance(node, core.Callable)


def _more_children(node: Any) -> Iterator[tuple[str, Any]]:
    """Parts that TensorFlow does not count as children: signatures, traces, and an old optimizer's variables."""
    signatures = importlib.import_module("tensorflow.python.saved_model.signature_serialization")._SignatureMap
    optimizers = importlib.import_module("tensorflow.python.keras.optimizer_v2.optimizer_v2")
    restored = importlib.import_module("tensorflow.python.saved_model.function_deserialization").RestoredFunction
    if isinstance(node, signatures):
        yield from node.items()
    elif isinstance(node, restored):
        yield from ((f"trace:{index}", trace) for index, trace in enumerate(node.concrete_functions))
    elif isinstance(node, optimizers.OptimizerV2):
        yield from ((f"weights:{index}", variable) for index, variable in enumerate(node.weights))
