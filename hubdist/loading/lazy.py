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
from dataclasses import dataclass
from typing import Any, Literal

from hubdist.errors import TravelError
from hubdist.loading.changes import Changes, NodePath
from hubdist.loading.load_key import LoadKey
from hubdist.loading.parts import find

PartKind = Literal["object", "callable object", "function", "signature", "signatures"]
"""What a part of a model is, told without TensorFlow."""

_BASES: dict[str, tuple[str, str]] = {
    "object": ("tensorflow.python.trackable.autotrackable", "AutoTrackable"),
    "callable object": ("tensorflow.python.trackable.autotrackable", "AutoTrackable"),
    "function": ("tensorflow.python.eager.polymorphic_function.polymorphic_function", "Function"),
    "signature": ("tensorflow.python.eager.polymorphic_function.concrete_function", "ConcreteFunction"),
    "signatures": ("tensorflow.python.saved_model.signature_serialization", "_SignatureMap"),
}
_OF_FUNCTIONS = ("__name__", "__qualname__", "__wrapped__", "__signature__")
"""What a function is asked by `inspect` and `tf.function`."""

_SEAL = "_hubdist_seal"
_SET_CLASS = object.__dict__["__class__"].__set__


class Bundle:
    """What the parts of one model have in common on their way; pickle writes it once for all of them.

    Where it arrives, the model is loaded once, and the parts are those of that one object. Safe for several threads.

    Args:
        key: The model.
        changes: What the model takes along, when it is asked for.
        open: Loads an object that nobody else has, and changes it.
        revive: Makes a bundle from `(key, changes)`; a module-level function.
    """

    def __init__(
        self,
        key: LoadKey,
        changes: Callable[[], Changes],
        open: Callable[[LoadKey, Changes], Any],  # noqa: A002 - it is what it does
        revive: Callable[[LoadKey, Changes], Bundle],
    ) -> None:
        self.key = key
        self.changes = changes
        self.guard = threading.RLock()
        """Held by the thread that opens it or one of its parts."""
        self._open = open
        self._revive = revive
        self._root: Any = None

    def root(self) -> Any:
        """The model of the parts that have arrived; loaded by the first of them that is used.

        Raises:
            HubdistError: It cannot be loaded here; the next use tries again.
        """
        with self.guard:
            if self._root is None:
                self._root = self._open(self.key, self.changes())
                self.changes = vars(self._root)["_hubdist_part"].state.changes
        return self._root

    def __reduce_ex__(self, _protocol: Any) -> tuple[Any, ...]:
        return self._revive, (self.key, self.changes())

    def __copy__(self) -> Bundle:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Bundle:
        copied = self._revive(self.key, self.changes())
        memo[id(self)] = copied
        return copied


@dataclass(slots=True, eq=False)
class Seal:
    """What an unopened object stands for.

    Attributes:
        bundle: The model.
        path: The part of it.
        kind: What the part is.
        extra: Plain attributes that this object alone has, being a shallow copy of the part.
        revive: Makes an unopened object from `(bundle, path, kind, extra)`; a module-level function.
    """

    bundle: Bundle
    path: NodePath
    kind: PartKind
    extra: tuple[tuple[str, Any], ...]
    revive: Callable[..., Any]


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
        seal = vars(self).get(_SEAL)
        own = name == "__call__" or (name in _OF_FUNCTIONS and seal is not None and seal.kind == "function")
        if name.startswith("__") and name.endswith("__") and not own:
            raise AttributeError(name)  # Python's and others' questions, such as __array__
        return getattr(opened(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(opened(self), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(opened(self), name)

    def __dir__(self) -> list[str]:
        return dir(opened(self))

    def __repr__(self) -> str:
        seal = vars(self).get(_SEAL)
        if seal is None:
            return object.__repr__(self)
        part = "".join(f" .{name}" for name in seal.path)
        return f"<model {seal.bundle.key.handle} at {seal.bundle.key.digest}{part}, not opened yet>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        seal = vars(self).get(_SEAL)
        if seal is None:  # another thread has just opened it
            return opened(self).__reduce_ex__(protocol)
        return seal.revive, (seal.bundle, seal.path, seal.kind, seal.extra)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return opened(self).__deepcopy__(memo)

    def __copy__(self) -> Any:
        return opened(self).__copy__()


class UnopenedCallable(Unopened):
    """The same for what can be called."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Open, and call."""
        return opened(self)(*args, **kwargs)


class UnopenedMap(Mapping[str, Any], Unopened):
    """The same for a model's signatures, which have another layout: Python lets an object take a class of its own only.

    It has no hash, as the opened one.
    """

    def __getitem__(self, name: str) -> Any:
        return opened(self)[name]

    def __len__(self) -> int:
        return len(opened(self))

    def __iter__(self) -> Iterator[str]:
        return iter(opened(self))


def unopened(seal: Seal) -> Any:
    """An object that stands for a model or a part of one."""
    if seal.kind == "signatures":
        return UnopenedMap(seal)
    return Unopened(seal) if seal.kind == "object" else UnopenedCallable(seal)


def opened(part: Any) -> Any:
    """The same object, opened.

    Raises:
        HubdistError: The model cannot be loaded here; the next use tries again.
    """
    seal = vars(part).get(_SEAL)
    if seal is not None:
        with seal.bundle.guard:
            if _SEAL in vars(part):
                _become(part, _find(seal))
                if seal.path:  # TensorFlow's functions do not keep the variables that they use
                    vars(part)["_hubdist_model"] = seal.bundle.root()
                for name, value in seal.extra:
                    setattr(part, name, value)
    return part


def _find(seal: Seal) -> Any:
    try:
        return find(seal.bundle.root(), seal.path)
    except KeyError as error:
        raise TravelError(
            f"the model has no part {error} here, as it had where it was pickled",
            handle=seal.bundle.key.handle,
            advice="Use the same version of TensorFlow on both sides.",
        ) from None


def _become(part: Any, loaded: Any) -> None:
    """Let an object take class and fields of another one, which its maker gives up.

    The seal is the last to go: a thread that meets the object in between waits for the one that opens it.
    """
    fields = vars(loaded)
    travelling = fields.get("_hubdist_part")
    fields[_SEAL] = vars(part)[_SEAL]
    object.__setattr__(part, "__dict__", fields)
    _SET_CLASS(part, type(loaded))
    if travelling is not None:
        travelling.rebind(part)
    del fields[_SEAL]
