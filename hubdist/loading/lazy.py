"""A model, or a part of one, that has arrived in a pickle and opens at its first use.

Ray unpickles a task's arguments before the first line of the task runs. That is too early to load a model: those lines
may import a package with operations, set the number of threads or limit GPU memory. So an object that has arrived
knows only which part of which model it stands for. The first time that one of its attributes is read or set, or that
it is called, the model is loaded, and the object takes the class and the fields of the loaded part. It stays the same
Python object for everybody who holds it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hubdist.errors import TravelError
from hubdist.loading.load_key import LoadKey
from hubdist.loading.state.parts import Changes, NodePath, find, set_class

PartKind = Literal["object", "callable object", "function", "signature", "signatures"]
"""What a part of a model is, told without TensorFlow."""

PART_FIELD = "_hubdist_part"
"""The field of a loaded part that holds its `Part`."""

_CLASSES: dict[str, tuple[str, str]] = {
    "object": ("tensorflow.python.trackable.autotrackable", "AutoTrackable"),
    "callable object": ("tensorflow.python.trackable.autotrackable", "AutoTrackable"),
    "function": ("tensorflow.python.eager.polymorphic_function.polymorphic_function", "Function"),
    "signature": ("tensorflow.python.eager.polymorphic_function.concrete_function", "ConcreteFunction"),
    "signatures": ("tensorflow.python.saved_model.signature_serialization", "_SignatureMap"),
}
"""The kind of a part -> module and name of its class in TensorFlow."""

_ASKED_OF_FUNCTIONS = ("__name__", "__qualname__", "__wrapped__", "__signature__")
"""The special attributes that `inspect` and `tf.function` read from a function."""

_REFERENCE_FIELD = "_hubdist_reference"
"""The field of an unopened object that holds its `PartReference`."""


class ModelReference:
    """A model by key and changes: what all its parts in one pickle refer to. Pickle writes it once for all of them.

    A process that receives parts loads the model once, and the parts become those of that one object. Safe for several
    threads.

    Args:
        key: The model.
        changes: Gives the changes that the model takes along; called when the model is pickled or opened.
        open: Loads the model into an object that nobody else has, and applies the changes.
        revive: Makes a reference from `(key, changes)`; a module-level function, because pickles name it.

    Attributes:
        guard: Held by the thread that opens the model or one of its parts.
    """

    def __init__(
        self,
        key: LoadKey,
        changes: Callable[[], Changes],
        open: Callable[[LoadKey, Changes], Any],  # noqa: A002 - it is what it does
        revive: Callable[[LoadKey, Changes], ModelReference],
    ) -> None:
        self.key = key
        self.changes = changes
        self.guard = threading.RLock()
        self._open = open
        self._revive = revive
        self._root: Any = None

    def root(self) -> Any:
        """The model that the parts of this pickle belong to; the first part that is used loads it.

        Raises:
            HubdistError: The model cannot be loaded here; the next use tries again.
        """
        with self.guard:
            if self._root is None:
                self._root = self._open(self.key, self.changes())
                # From here on the model's state tells what has changed, and no longer the pickle.
                self.changes = vars(self._root)[PART_FIELD].state.changes
        return self._root

    def __reduce_ex__(self, _protocol: Any) -> tuple[Any, ...]:
        return self._revive, (self.key, self.changes())

    def __copy__(self) -> ModelReference:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> ModelReference:
        copied = self._revive(self.key, self.changes())
        memo[id(self)] = copied
        return copied


@dataclass(slots=True, eq=False)
class PartReference:
    """What an unopened object stands for.

    Attributes:
        model: The model.
        path: Where the part is in the model.
        kind: What the part is.
        extra: Names and values of plain attributes that this object alone has, because it was a shallow copy.
        revive: Makes an unopened object from `(model, path, kind, extra)`; a module-level function, because pickles
            name it.
    """

    model: ModelReference
    path: NodePath
    kind: PartKind
    extra: tuple[tuple[str, Any], ...]
    revive: Callable[..., Any]


class Unopened:
    """An object that stands for a part of a model until its first use. Safe for several threads: one loads.

    `isinstance` gives the answer of TensorFlow's own class without opening the object, so that modules and layers
    track it.
    """

    def __init__(self, reference: PartReference) -> None:
        vars(self)[_REFERENCE_FIELD] = reference

    @property  # type: ignore[misc] # Python's own can be set, as `_become` does
    def __class__(self) -> type:
        reference = vars(self).get(_REFERENCE_FIELD)
        if reference is None:
            return type(self)
        module, name = _CLASSES[reference.kind]
        # Without TensorFlow in the process nobody can ask for its classes.
        found = getattr(sys.modules.get(module), name, None)
        return found if isinstance(found, type) else type(self)

    def __getattr__(self, name: str) -> Any:
        reference = vars(self).get(_REFERENCE_FIELD)
        is_function = reference is not None and reference.kind == "function"
        known = name == "__call__" or (name in _ASKED_OF_FUNCTIONS and is_function)
        if name.startswith("__") and name.endswith("__") and not known:
            raise AttributeError(name)  # Python and libraries probe for such names, as for __array__
        return getattr(opened(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(opened(self), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(opened(self), name)

    def __dir__(self) -> list[str]:
        return dir(opened(self))

    def __repr__(self) -> str:
        reference = vars(self).get(_REFERENCE_FIELD)
        if reference is None:
            return object.__repr__(self)
        part = "".join(f" .{name}" for name in reference.path)
        return f"<model {reference.model.key.handle} at {reference.model.key.digest}{part}, not opened yet>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        reference = vars(self).get(_REFERENCE_FIELD)
        if reference is None:  # another thread has just opened it
            return opened(self).__reduce_ex__(protocol)
        return reference.revive, (reference.model, reference.path, reference.kind, reference.extra)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return opened(self).__deepcopy__(memo)

    def __copy__(self) -> Any:
        return opened(self).__copy__()


class UnopenedCallable(Unopened):
    """An unopened function or callable object."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Open the object and call it."""
        return opened(self)(*args, **kwargs)


class UnopenedMap(Mapping[str, Any], Unopened):
    """The unopened signatures of a model.

    A class of its own, because Python lets an object take classes of its own memory layout only. Like the opened map,
    it has no hash.
    """

    def __getitem__(self, name: str) -> Any:
        return opened(self)[name]

    def __len__(self) -> int:
        return len(opened(self))

    def __iter__(self) -> Iterator[str]:
        return iter(opened(self))


def unopened(reference: PartReference) -> Any:
    """An object that stands for a model or a part of one until its first use."""
    if reference.kind == "signatures":
        return UnopenedMap(reference)
    return Unopened(reference) if reference.kind == "object" else UnopenedCallable(reference)


def opened(part: Any) -> Any:
    """Load the model of an unopened object, let the object become the part, and return the same object.

    Raises:
        HubdistError: The model cannot be loaded here; the next use tries again.
    """
    reference = vars(part).get(_REFERENCE_FIELD)
    if reference is not None:
        with reference.model.guard:
            # Another thread may have opened it while this one waited for the guard.
            if _REFERENCE_FIELD in vars(part):
                _become(part, _find(reference))
                if reference.path:  # TensorFlow's functions do not keep the variables that they use
                    vars(part)["_hubdist_model"] = reference.model.root()
                for name, value in reference.extra:
                    setattr(part, name, value)
    return part


def _find(reference: PartReference) -> Any:
    try:
        return find(reference.model.root(), reference.path)
    except KeyError as error:
        raise TravelError(
            f"the model has no part {error} here, as it had where it was pickled",
            handle=reference.model.key.handle,
            advice="Use the same version of TensorFlow on both sides.",
        ) from None


def _become(part: Any, loaded: Any) -> None:
    """Give an unopened object the class and the fields of a loaded one, which nobody else may use afterwards.

    The reference is removed last: a thread that meets the object before that waits for the thread that opens it.
    """
    fields = vars(loaded)
    record = fields.get(PART_FIELD)
    fields[_REFERENCE_FIELD] = vars(part)[_REFERENCE_FIELD]
    object.__setattr__(part, "__dict__", fields)
    set_class(part, type(loaded))
    if record is not None:
        record.rebind(part)
    del fields[_REFERENCE_FIELD]
