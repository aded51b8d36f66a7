"""Let a loaded model and its parts travel: as handle and digest, and the values of whatever was changed.

Every object, function and signature of a model gets a class of its own that pickles, copies and deep-copies by what
`Part` knows of it. Variables travel as TensorFlow pickles them, as values.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hubdist.errors import HubdistError, TravelError
from hubdist.models.changes import Changes, NodePath
from hubdist.models.forks import remember
from hubdist.models.keys import LoadKey
from hubdist.models.lazy import PartKind
from hubdist.models.published import InGraph, Published, State
from hubdist.models.tree import find

_PART = "_hubdist_part"
_SET_CLASS = object.__dict__["__class__"].__set__

Open = Callable[[LoadKey, NodePath, Changes], Any]
"""Loads an object that nobody else has, changes it and returns the part."""


@dataclass(slots=True, eq=False)
class Part:
    """What a part of a loaded model needs to travel.

    Attributes:
        key: The model.
        path: The part of it.
        kind: What it is.
        state: What is known of the model's state.
        open: See `Open`.
        revive: The module-level function that a pickle calls where it is unpickled.
    """

    key: LoadKey
    path: NodePath
    kind: PartKind
    state: State
    open: Open
    revive: Callable[..., Any]

    def changes(self, node: Any) -> Changes:
        """What the model takes along.

        Args:
            node: The object that is sent; it may be a shallow copy of the part.

        Raises:
            TravelError: It cannot take all along.
        """
        try:
            return self.state.changes(self.path, node)
        except HubdistError as error:
            raise error.placed(handle=self.key.handle) from None

    def rebind(self, node: Any) -> None:
        """Another object has taken this part's place."""
        self.state.rebind(self.path, node)
        remember(node)


def let_travel(tensorflow: Any, model: Any, key: LoadKey, open_travelled: Open, revive: Callable[..., Any]) -> None:
    """Note what a model is now, as it was published, and let it and its parts travel.

    Args:
        tensorflow: The module.
        model: What has just been loaded; nobody has it yet.
        key: What was loaded.
        open_travelled: See `Open`.
        revive: The module-level function that makes an unopened object where a pickle is read.
    """
    eager = tensorflow.compat.v1.executing_eagerly_outside_functions()
    state: State = Published(tensorflow, model) if eager else InGraph(tensorflow, model)
    for path, reference in state.nodes.items():
        node = reference()
        kind = _kind(node)
        if kind is not None:
            vars(node)[_PART] = Part(key, path, kind, state, open_travelled, revive)
            _SET_CLASS(node, _travelling(type(node)))
            remember(node)


def apply_changes(model: Any, path: NodePath, changes: Changes) -> Any:
    """Change a model that nobody has yet as the sender's was changed, and return the part that was sent.

    Raises:
        TravelError: The part or a changed one does not exist here, or the model was opened in a `tf.Graph`.
    """
    part: Part = vars(model)[_PART]
    try:
        if changes:
            part.state.apply(changes)
        return find(model, path)
    except KeyError as error:
        raise TravelError(
            f"the model has no part {error} here, as it had where it was pickled",
            handle=part.key.handle,
            advice="Use the same version of TensorFlow on both sides.",
        ) from None
    except TravelError as error:
        raise error.placed(handle=part.key.handle) from None


def state_of(model: Any) -> State:
    """What is known of a loaded model's state."""
    state: State = vars(model)[_PART].state
    return state


def _kind(node: Any) -> PartKind | None:
    trackable = importlib.import_module("tensorflow.python.trackable.autotrackable").AutoTrackable
    functions = importlib.import_module("tensorflow.python.eager.polymorphic_function.polymorphic_function")
    concrete = importlib.import_module("tensorflow.python.eager.polymorphic_function.concrete_function")
    signatures = importlib.import_module("tensorflow.python.saved_model.signature_serialization")
    kinds: tuple[tuple[type, PartKind], ...] = (
        (functions.Function, "function"),
        (concrete.ConcreteFunction, "signature"),
        (signatures._SignatureMap, "signatures"),
        (trackable, "object"),
    )
    return next((kind for base, kind in kinds if isinstance(node, base)), None)


def _travelling(kind: type) -> type:
    """The class of a part that travels. TensorFlow makes a class for each object, and one for all functions."""
    return _make_class(kind) if "<locals>" in kind.__qualname__ else _shared_class(kind)


def _make_class(kind: type) -> type:
    names = {"__reduce_ex__": _reduce, "__deepcopy__": _deepcopy, "__copy__": _copy, "__module__": kind.__module__}
    return type(kind.__name__, (kind,), {**names, "__qualname__": kind.__qualname__})


_shared_class = functools.cache(_make_class)


def _reduce(self: Any, _protocol: Any) -> tuple[Any, ...]:
    part: Part = vars(self)[_PART]
    return part.revive, (part.key, part.path, part.kind, part.changes(self))


def _deepcopy(self: Any, memo: dict[int, Any]) -> Any:
    """An independent object; what else of the same model is copied with it becomes a part of the new one."""
    part: Part = vars(self)[_PART]
    root = part.state.nodes[()]()
    model = part.open(part.key, (), part.changes(self))
    copied = vars(model)[_PART].state.nodes
    for path, reference in part.state.nodes.items():
        node, twin = reference(), copied[path]()
        if node is not None and twin is not None:
            memo[id(node)] = twin
    memo[id(self)] = find(model, part.path)
    if root is not None:
        memo[id(root)] = model
    return memo[id(self)]


def _copy(self: Any) -> Any:
    """As TensorFlow's own object: a second object with the same variables."""
    kind: Any = type(self)
    twin = kind.__new__(kind)
    vars(twin).update(vars(self))
    return twin
