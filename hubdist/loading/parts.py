"""The parts of a loaded model: objects, variables, functions, tables, by the names that lead to them."""

from __future__ import annotations

import functools
import importlib
from collections import deque
from collections.abc import Iterator
from typing import Any

from hubdist.loading.changes import NodePath


def walk(tensorflow: Any, root: Any) -> Iterator[tuple[NodePath, Any]]:
    """Every part of a model once, by its shortest path, the model itself first; the same order for the same model.

    Args:
        tensorflow: The module.
        root: What `tf.saved_model.load` returned.
    """
    view = tensorflow.train.TrackableView(root)
    seen = {id(root)}
    todo: deque[tuple[NodePath, Any]] = deque([((), root)])
    while todo:
        path, node = todo.popleft()
        yield path, node
        for name, child in (*view.children(node).items(), *_more(node)):
            if id(child) not in seen and not name.startswith("_self_"):
                seen.add(id(child))
                todo.append(((*path, name), child))


def find(root: Any, path: NodePath) -> Any:
    """The part at a path.

    Raises:
        KeyError: There is none.
    """
    node = root
    for name in path:
        found = _child(node, name)
        if found is None:
            raise KeyError(".".join(path))
        node = found
    return node


def _child(node: Any, name: str) -> Any:
    if isinstance(node, dict):  # an entry may be called as one of dict's methods
        return node.get(name)
    if isinstance(node, list):
        return node[int(name)] if name.isdigit() and int(name) < len(node) else None
    inner = dict(_more(node))
    return inner[name] if name in inner else getattr(node, name, None)


def attributes_of(node: Any) -> dict[str, Any] | None:
    """The attributes, elements or entries that a user could replace; None for a part that has none."""
    lists, dicts, objects = _holders()
    if isinstance(node, lists):
        return {str(index): value for index, value in enumerate(node)}
    if isinstance(node, dicts):
        return {str(name): value for name, value in node.items()}
    if isinstance(node, objects) and not is_function(node):
        return {name: value for name, value in vars(node).items() if not name.startswith(("_self_", "_hubdist_"))}
    return None


@functools.cache
def _holders() -> tuple[Any, Any, Any]:
    """TensorFlow's classes of lists, dicts and objects; looked up once, for they are asked for in each load."""
    structures = importlib.import_module("tensorflow.python.trackable.data_structures")
    objects = importlib.import_module("tensorflow.python.trackable.autotrackable").AutoTrackable
    return structures.ListWrapper, structures._DictWrapper, objects


def is_function(node: Any) -> bool:
    """True for a function of a model, polymorphic or concrete."""
    core = importlib.import_module("tensorflow.python.types.core")
    return isinstance(node, core.Callable)


def _more(node: Any) -> Iterator[tuple[str, Any]]:
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
