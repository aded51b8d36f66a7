"""Let a loaded model and its parts travel: as handle and digest, and the values of whatever was changed.

Every object, function and signature of a model gets a class of its own that pickles, copies and deep-copies by what
`Part` knows of it. Variables travel as TensorFlow pickles them, as values.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hubdist.errors import HubdistError, TravelError
from hubdist.loading.changes import Changes, NodePath
from hubdist.loading.forks import remember
from hubdist.loading.in_graph import InGraph
from hubdist.loading.lazy import Bundle, PartKind
from hubdist.loading.load_key import LoadKey
from hubdist.loading.parts import find, is_function
from hubdist.loading.published import Published
from hubdist.loading.structure import State

_PART = "_hubdist_part"
_SET_CLASS = object.__dict__["__class__"].__set__


@dataclass(frozen=True, slots=True)
class Travel:
    """How models travel; functions of the composition root.

    Attributes:
        open: Loads an object that nobody else has, and changes it.
        revive_model: What a pickle calls for a model, with key and changes; at module level.
        revive_part: What a pickle calls for a part of it, with a bundle, path, kind and extra; at module level.
    """

    open: Callable[[LoadKey, Changes], Any]
    revive_model: Callable[[LoadKey, Changes], Bundle]
    revive_part: Callable[..., Any]


@dataclass(slots=True, eq=False)
class Part:
    """What a part of a loaded model needs to travel.

    Attributes:
        bundle: What all parts of the model have in common.
        path: The part.
        kind: What it is.
        state: What is known of the model's state.
        travel: See `Travel`.
    """

    bundle: Bundle
    path: NodePath
    kind: PartKind
    state: State
    travel: Travel

    def rebind(self, node: Any) -> None:
        """Another object has taken this part's place."""
        self.state.rebind(self.path, node)
        remember(node)


def let_travel(tensorflow: Any, model: Any, key: LoadKey, travel: Travel) -> None:
    """Note what a model is now, as it was published, and let it and its parts travel.

    Args:
        tensorflow: The module.
        model: What has just been loaded; nobody has it yet.
        key: What was loaded.
        travel: How it travels.
    """
    eager = tensorflow.compat.v1.executing_eagerly_outside_functions()
    state: State = Published(tensorflow, model) if eager else InGraph(tensorflow, model)

    def changes() -> Changes:
        try:
            return state.changes()
        except HubdistError as error:
            raise error.with_context(handle=key.handle) from None

    bundle = Bundle(key, changes, travel.open, travel.revive_model)
    for path, reference in state.nodes.items():
        node = reference()
        kind = _kind(node)
        if kind is not None:
            vars(node)[_PART] = Part(bundle, path, kind, state, travel)
            _SET_CLASS(node, _travelling(type(node)))
            remember(node)


def apply_changes(model: Any, changes: Changes) -> None:
    """Change a model that nobody has yet as the sender's was changed.

    Raises:
        TravelError: It has not the parts that were changed, or it was opened in a `tf.Graph`.
    """
    part: Part = vars(model)[_PART]
    try:
        if changes:
            part.state.apply(changes)
    except KeyError as error:
        raise TravelError(
            f"the model has no part {error} here, as it had where it was pickled",
            handle=part.bundle.key.handle,
            advice="Use the same version of TensorFlow on both sides.",
        ) from None
    except TravelError as error:
        raise error.with_context(handle=part.bundle.key.handle) from None


def state_of(model: Any) -> State:
    """What is known of the state of a loaded model that may be kept."""
    state: State = vars(model)[_PART].state
    return state


def is_unchanged(model: Any) -> bool:
    """True if a loaded model is known to be as it was published; never so for a bare variable or table."""
    part: Part | None = vars(model).get(_PART)
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


def _travelling(kind: type) -> type:
    """The class of a part that travels. TensorFlow makes a class for each object, and one for all functions."""
    return _make_class(kind) if "<locals>" in kind.__qualname__ else _shared_class(kind)


def _make_class(kind: type) -> type:
    names = {"__reduce_ex__": _reduce, "__deepcopy__": _deepcopy, "__copy__": _copy, "__module__": kind.__module__}
    return type(kind.__name__, (kind,), {**names, "__qualname__": kind.__qualname__})


_shared_class = functools.cache(_make_class)


def _reduce(self: Any, _protocol: Any) -> tuple[Any, ...]:
    part: Part = vars(self)[_PART]
    extra = () if part.state.nodes[part.path]() is self else part.state.own_attributes(part.path, self)
    return part.travel.revive_part, (part.bundle, part.path, part.kind, extra)


def _deepcopy(self: Any, memo: dict[int, Any]) -> Any:
    """An independent object; what else of the same model is copied with it becomes a part of the new one."""
    part: Part = vars(self)[_PART]
    extra = () if part.state.nodes[part.path]() is self else part.state.own_attributes(part.path, self)
    model = memo.get(id(part.bundle))
    if model is None:
        model = memo[id(part.bundle)] = _copy_model(part, memo)
    result = find(model, part.path)
    for name, value in extra:
        setattr(result, name, value)
    memo[id(self)] = result
    return result


def _copy_model(part: Part, memo: dict[int, Any]) -> Any:
    with _eagerly() if isinstance(part.state, Published) else contextlib.nullcontext():
        model = part.travel.open(part.bundle.key, part.bundle.changes())
    copied = vars(model)[_PART].state.nodes
    for path, reference in part.state.nodes.items():
        node, twin = reference(), copied[path]()
        if node is None or twin is None:
            continue
        if id(node) in memo:
            raise TravelError(
                f"{'.'.join(path) or 'the model'} was copied before the model that it belongs to, apart from it",
                handle=part.bundle.key.handle,
                advice="Copy the model first, or alone.",
            )
        memo[id(node)] = twin
    return model


def _copy(self: Any) -> Any:
    """As TensorFlow's own object: a second object with the same variables."""
    kind: Any = type(self)
    twin = kind.__new__(kind)
    vars(twin).update(vars(self))
    return twin


def _eagerly() -> contextlib.AbstractContextManager[None]:
    mode: contextlib.AbstractContextManager[None] = importlib.import_module(
        "tensorflow.python.eager.context"
    ).eager_mode()
    return mode
