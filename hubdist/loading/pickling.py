"""Pickle loaded models and their parts by reference: handle and digest, and the values of whatever was changed.

Every object, function and signature of a model gets a class of its own whose pickles, copies and deep copies are made
from the object's `Part`. Variables are pickled by value, as TensorFlow does it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hubdist.errors import HubdistError, TravelError
from hubdist.loading.lazy import PART_FIELD, ModelReference, PartKind
from hubdist.loading.load_key import LoadKey
from hubdist.loading.state.attributes import ModelState
from hubdist.loading.state.eager import EagerState
from hubdist.loading.state.graph_variables import GraphState
from hubdist.loading.state.parts import Changes, NodePath, find, is_function, set_class
from hubdist.loading.tf_runtime import remember


@dataclass(frozen=True, slots=True)
class PickleHooks:
    """Functions of the composition root that pickles and copies of models call.

    Attributes:
        open: Loads the model of a key into an object that nobody else has, and applies changes.
        revive_model: Makes a `ModelReference` from key and changes; at module level, because pickles name it.
        revive_part: Makes an unopened object from `(model, path, kind, extra)`; at module level, because pickles name
            it.
    """

    open: Callable[[LoadKey, Changes], Any]
    revive_model: Callable[[LoadKey, Changes], ModelReference]
    revive_part: Callable[..., Any]


@dataclass(slots=True, eq=False)
class Part:
    """What a part of a loaded model needs to be pickled or copied.

    Attributes:
        model: The reference that all parts of the model share.
        path: Where the part is in the model.
        kind: What the part is.
        state: The model's state, at the load and now.
        hooks: What pickles of the part call.
    """

    model: ModelReference
    path: NodePath
    kind: PartKind
    state: ModelState
    hooks: PickleHooks

    def rebind(self, node: Any) -> None:
        """Note that another object has taken this part's place."""
        self.state.rebind(self.path, node)
        remember(node)


def make_picklable(tensorflow: Any, model: Any, key: LoadKey, hooks: PickleHooks) -> None:
    """Remember a model's state as the published one, and let the model and its parts be pickled and copied.

    Args:
        tensorflow: The module `tensorflow`.
        model: A model that has just been loaded, and that nobody uses yet.
        key: What was loaded.
        hooks: What pickles of the model call.
    """
    eager = tensorflow.compat.v1.executing_eagerly_outside_functions()
    state: ModelState = EagerState(tensorflow, model) if eager else GraphState(tensorflow, model)

    def changes() -> Changes:
        try:
            return state.changes()
        except HubdistError as error:
            raise error.with_context(handle=key.handle) from None

    reference = ModelReference(key, changes, hooks.open, hooks.revive_model)
    for path, weak_node in state.nodes.items():
        node = weak_node()
        kind = _kind(node)
        if kind is not None:
            vars(node)[PART_FIELD] = Part(reference, path, kind, state, hooks)
            set_class(node, _picklable_class(type(node)))
            remember(node)


def apply_changes(model: Any, changes: Changes) -> None:
    """Change a model that nobody uses yet as the sender's model was changed.

    Args:
        model: A loaded model that is as it was published.
        changes: What the sender's model differed in.

    Raises:
        TravelError: The model does not have the parts that were changed, or it was opened in a `tf.Graph`.
    """
    part: Part = vars(model)[PART_FIELD]
    try:
        if changes:
            part.state.apply(changes)
    except KeyError as error:
        raise TravelError(
            f"the model has no part {error} here, as it had where it was pickled",
            handle=part.model.key.handle,
            advice="Use the same version of TensorFlow on both sides.",
        ) from None
    except TravelError as error:
        raise error.with_context(handle=part.model.key.handle) from None


def state_of(model: Any) -> ModelState:
    """The state of a loaded model; not for a bare variable or table, whose state is not known."""
    state: ModelState = vars(model)[PART_FIELD].state
    return state


def key_of(model: Any) -> LoadKey:
    """What a model that hubdist has loaded was loaded from."""
    part: Part = vars(model)[PART_FIELD]
    return part.model.key


def is_unchanged(model: Any) -> bool:
    """True if a loaded model is known to be as it was published; False for a bare variable or table."""
    part: Part | None = vars(model).get(PART_FIELD)
    return part is not None and part.state.unchanged()


def _kind(node: Any) -> PartKind | None:
    trackable = importlib.import_module("tensorflow.python.trackable.autotrackable").AutoTrackable
    functions = importlib.import_module("tensorflow.python.eager.polymorphic_function.polymorphic_function")
    signatures = importlib.import_module("tensorflow.python.saved_model.signature_serialization")
    if isinstance(node, functions.Function):
        return "function"
    if is_function(node):
        return "signature"
    if isinstance(node, signatures._SignatureMap):
        return "signatures"
    if isinstance(node, trackable):
        return "callable object" if callable(node) else "object"
    return None


def _picklable_class(kind: type) -> type:
    """A subclass that pickles and copies by reference; TensorFlow makes a class per object, but one for functions."""
    return _make_class(kind) if "<locals>" in kind.__qualname__ else _shared_class(kind)


def _make_class(kind: type) -> type:
    names = {"__reduce_ex__": _reduce, "__deepcopy__": _deepcopy, "__copy__": _copy, "__module__": kind.__module__}
    return type(kind.__name__, (kind,), {**names, "__qualname__": kind.__qualname__})


_shared_class = functools.cache(_make_class)


def _reduce(self: Any, _protocol: Any) -> tuple[Any, ...]:
    part: Part = vars(self)[PART_FIELD]
    return part.hooks.revive_part, (part.model, part.path, part.kind, _extra(part, self))


def _extra(part: Part, node: Any) -> tuple[tuple[str, Any], ...]:
    """The attributes that a shallow copy of a part has of its own; those of the part itself are in the changes."""
    return () if part.state.nodes[part.path]() is node else part.state.own_attributes(part.path, node)


def _deepcopy(self: Any, memo: dict[int, Any]) -> Any:
    """An independent object; what else of the same model is copied with it becomes a part of the new one."""
    part: Part = vars(self)[PART_FIELD]
    extra = _extra(part, self)
    model = memo.get(id(part.model))
    if model is None:
        model = memo[id(part.model)] = _copy_model(part, memo)
    result = find(model, part.path)
    for name, value in extra:
        setattr(result, name, value)
    memo[id(self)] = result
    return result


def _copy_model(part: Part, memo: dict[int, Any]) -> Any:
    """Open the model once more, with its changes, and note in `memo` the copy of each part."""
    with _eager_mode() if isinstance(part.state, EagerState) else contextlib.nullcontext():
        model = part.hooks.open(part.model.key, part.model.changes())
    copied = vars(model)[PART_FIELD].state.nodes
    for path, reference in part.state.nodes.items():
        node, twin = reference(), copied[path]()
        if node is None or twin is None:
            continue
        if id(node) in memo:
            raise TravelError(
                f"{'.'.join(path) or 'the model'} was copied before the model that it belongs to, apart from it",
                handle=part.model.key.handle,
                advice="Copy the model first, or alone.",
            )
        memo[id(node)] = twin
    return model


def _copy(self: Any) -> Any:
    """A second object with the same variables, as TensorFlow's own objects copy."""
    kind: Any = type(self)
    twin = kind.__new__(kind)
    vars(twin).update(vars(self))
    return twin


def _eager_mode() -> contextlib.AbstractContextManager[None]:
    mode: contextlib.AbstractContextManager[None] = importlib.import_module(
        "tensorflow.python.eager.context"
    ).eager_mode()
    return mode
