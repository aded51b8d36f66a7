"""The attributes of a model's parts: which of them are other objects now than when the model was published."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any, Protocol

from hubdist.errors import TravelError
from hubdist.loading.state.parts import PLAIN, Changes, NodePath, attributes_of


class ModelState(Protocol):
    """The state of a loaded model, at the load and now: an `EagerState`, or a `GraphState` in a `tf.Graph`.

    Attributes:
        nodes: A weak reference to each part of the model, by its path.
        total_bytes: The size of the model's variables.
    """

    nodes: dict[NodePath, weakref.ref[Any]]
    total_bytes: int

    def unchanged(self) -> bool:
        """True if the model is known to be as it was published."""
        ...

    def changes(self) -> Changes:
        """What a pickle or a copy of the model takes along."""
        ...

    def own_attributes(self, path: NodePath, node: Any) -> tuple[tuple[str, Any], ...]:
        """Names and values of the attributes that a shallow copy of a part has, and the published part has not.

        Args:
            path: Where the part is in the model.
            node: The shallow copy.
        """
        ...

    def apply(self, changes: Changes) -> None:
        """Change this model as another one of the same digest was changed."""
        ...

    def rebind(self, path: NodePath, node: Any) -> None:
        """Note that another object has taken the place of a part.

        Args:
            path: Where the part is in the model.
            node: The object that is the part from now on.
        """
        ...


class AttributeState:
    """The attributes, list elements and dict entries of a model's parts. Keeps none of the parts alive."""

    def __init__(self) -> None:
        self.nodes: dict[NodePath, weakref.ref[Any]] = {}
        self._attributes: dict[NodePath, dict[str, _Token]] = {}

    def note(self, path: NodePath, node: Any) -> None:
        """Remember a part and its attributes, as they are published.

        Args:
            path: Where the part is in the model.
            node: The part.
        """
        self.nodes[path] = weakref.ref(node)
        found = attributes_of(node)
        if found is not None:
            self._attributes[path] = {name: _Token(value) for name, value in found.items()}

    def rebind(self, path: NodePath, node: Any) -> None:
        """Note that another object has taken the place of a part.

        Args:
            path: Where the part is in the model.
            node: The object that is the part from now on.
        """
        self.nodes[path] = weakref.ref(node)

    def has_changed(self) -> bool:
        """True if an attribute, element or entry is another object now, or is gone."""
        return any(True for path, node in self._living() for _ in self._changed(path, node))

    def plain_changes(self) -> tuple[tuple[NodePath, str, Any], ...]:
        """Path, name and value of each changed attribute.

        Raises:
            TravelError: An attribute was changed that cannot travel in a pickle.
        """
        found = [(path, self._plain(path, node)) for path, node in self._living()]
        return tuple((path, name, value) for path, changed in found for name, value in changed)

    def own_attributes(self, path: NodePath, node: Any) -> tuple[tuple[str, Any], ...]:
        """Names and values of the attributes that a shallow copy of a part has, and the published part has not.

        Args:
            path: Where the part is in the model.
            node: The shallow copy.

        Raises:
            TravelError: One of the attributes cannot travel in a pickle.
        """
        return self._plain(path, node) if path in self._attributes else ()

    def set_attributes(self, changes: Changes) -> None:
        """Set the attributes that another model of the same digest had changed.

        Raises:
            KeyError: This model has no such part.
        """
        for path, name, value in changes.attributes:
            setattr(self.nodes[path](), name, value)

    def _living(self) -> Iterator[tuple[NodePath, Any]]:
        for path in self._attributes:
            node = self.nodes[path]()
            if node is not None:  # a user may have kept other parts of the model only
                yield path, node

    def _plain(self, path: NodePath, node: Any) -> tuple[tuple[str, Any], ...]:
        changed = tuple(self._changed(path, node))
        for name, value in changed:
            if not isinstance(value, PLAIN) or isinstance(node, list | dict):
                raise TravelError(
                    f"the model was changed in its structure: {'.'.join((*path, name))} is not what was published",
                    advice="Send the values that you need, or save the model with tf.saved_model.save and load that.",
                )
        return changed

    def _changed(self, path: NodePath, node: Any) -> Iterator[tuple[str, Any]]:
        """Name and value of every attribute that is another object now; `...` stands for one that is gone."""
        before, now = self._attributes[path], attributes_of(node) or {}
        for name, value in now.items():
            if name not in before or not before[name].stands_for(value):
                yield name, value
        for name in before.keys() - now.keys():
            yield name, ...


class _Token:
    """Tells whether an attribute is still the same object, without keeping the object alive where Python allows it."""

    __slots__ = ("_reference", "_value")

    def __init__(self, value: Any) -> None:
        self._value: Any = None
        self._reference: weakref.ref[Any] | None = None
        try:
            self._reference = weakref.ref(value)
        except TypeError:
            self._value = value

    def stands_for(self, value: Any) -> bool:
        if self._reference is not None:
            return self._reference() is value
        if value is self._value:
            return True
        return isinstance(value, PLAIN) and type(value) is type(self._value) and value == self._value
