"""The parts of a loaded model: objects, variables, functions, tables, by the names that lead to them."""

from __future__ import annotations

import functools
import importlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

NodePath = tuple[str, ...]
"""The names that lead from a model to a part of it; `()` for the model itself."""

set_class: Callable[[Any, type], None] = object.__dict__["__class__"].__set__
"""Give an object another class, as `part.__class__ = kind` would if neither class had a `__setattr__` of its own."""


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
