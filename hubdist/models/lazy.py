"""A model, or a part of one, that has arrived by pickle and opens at its first use.

Ray unpickles what a task is given before the first line of the task runs: too early, for those lines may import a
package with operations, set threads or limit GPU memory. So what arrives knows only what it stands for. Its first
attribute that is asked for, set or called loads the model, and the object becomes it: it takes the class and the
fields of the loaded object, and stays the same Python object for whoever holds it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hubdist.models.changes import Changes, NodePath
from hubdist.models.keys import LoadKey

PartKind = Literal["object", "function", "signature", "signatures"]
"""What a part of a model is, told without TensorFlow."""

_BASES: dict[str, tuple[str, str]] = {
    "object": ("tensorflow.python.trackable.autotrackable", "AutoTrackable"),
    "function": ("tensorflow.python.eager.polymorphic_function.polymorphic_function", "Function"),
    "signature": ("tensorflow.python.eager.polymorphic_function.concrete_function", "ConcreteFunction"),
    "signatures": ("tensorflow.python.saved_model.signature_serialization", "_SignatureMap"),
}
_SEAL = "_hubdist_seal"
_SET_CLASS = object.__dict__["__class__"].__set__


@dataclass(slots=True, eq=False)
class Seal:
    """What an unopened object stands for.

    Attributes:
        key: The model.
        path: The part of it.
        kind: What the part is.
        changes: What the sender's model had changed.
        open: Loads an object that nobody else has, changes it and returns the part.
        revive: Makes an unopened object from `(key, path, kind, changes)`; a module-level function.
        guard: Held by the thread that opens it.
    """

    key: LoadKey
    path: NodePath
    kind: PartKind
    changes: Changes
    open: Callable[[LoadKey, NodePath, Changes], Any]
    revive: Callable[..., Any]
    guard: threading.RLock = field(default_factory=threading.RLock)

    @property
    def recipe(self) -> tuple[Any, ...]:
        """The arguments of `revive`."""
        return self.key, self.path, self.kind, self.changes


class Unopened:
    """See the module. Safe for several threads: one loads, the others wait.

    `isinstance` is answered as TensorFlow's own class would, without opening, so that modules and layers track it.
    """

    def __init__(self, seal: Seal) -> None:
        vars(self)[_SEAL] = seal

    @property  # type: ignore[misc] # Python's own can be set, as `_become` does
    def __class__(self) -> type:
        seal = vars(self).get(_SEAL)
        if seal is None:
            return type(self)
        module, name = _BASES[seal.kind]
        base = getattr(sys.modules.get(module), name, None)
        return base if isinstance(base, type) else type(self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__") and name != "__call__":
            raise AttributeError(name)  # Python's and others' own questions, such as __array__, are no use
        return getattr(opened(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(opened(self), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(opened(self), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Open, and call."""
        return opened(self)(*args, **kwargs)

    def __getitem__(self, name: Any) -> Any:
        """Open, and look up."""
        return opened(self)[name]

    def __len__(self) -> int:
        return len(opened(self))

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        return iter(opened(self))

    def __contains__(self, name: object) -> bool:
        return name in opened(self)

    def __dir__(self) -> list[str]:
        return dir(opened(self))

    def __repr__(self) -> str:
        seal = vars(self).get(_SEAL)
        if seal is None:
            return object.__repr__(self)
        part = "".join(f" .{name}" for name in seal.path)
        return f"<model {seal.key.handle} at {seal.key.digest}{part}, not opened yet>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        seal = vars(self).get(_SEAL)
        if seal is None:  # another thread has just opened it
            return opened(self).__reduce_ex__(protocol)
        return seal.revive, seal.recipe

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        seal = vars(self).get(_SEAL)
        if seal is None:
            return opened(self).__deepcopy__(memo)
        copied = seal.revive(*seal.recipe)
        memo[id(self)] = copied
        return copied

    def __copy__(self) -> Any:
        return opened(self).__copy__()


class UnopenedMap(Mapping[str, Any], Unopened):
    """The same for a model's signatures: Python lets an object take another class of the same layout only."""

    __getitem__ = Unopened.__getitem__
    __len__ = Unopened.__len__
    __iter__ = Unopened.__iter__
    __contains__ = Unopened.__contains__
    __eq__ = object.__eq__
    __hash__ = object.__hash__


def unopened(seal: Seal) -> Any:
    """An object that stands for a model or a part of one."""
    return UnopenedMap(seal) if seal.kind == "signatures" else Unopened(seal)


def opened(part: Any) -> Any:
    """The same object, opened.

    Raises:
        HubdistError: The model cannot be loaded here; the next use tries again.
    """
    seal = vars(part).get(_SEAL)
    if seal is not None:
        with seal.guard:
            if _SEAL in vars(part):
                _become(part, seal.open(seal.key, seal.path, seal.changes))
    return part


def _become(part: Any, loaded: Any) -> None:
    """Let an object take class and fields of another one, which its maker gives up."""
    travelling = vars(loaded).get("_hubdist_part")
    object.__setattr__(part, "__dict__", vars(loaded))
    _SET_CLASS(part, type(loaded))
    if travelling is not None:
        travelling.rebind(part)
