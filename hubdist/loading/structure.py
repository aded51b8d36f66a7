"""The parts of a loaded model and their attributes: which of them are others now than when it was published."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any, Protocol

from hubdist.errors import TravelError
from hubdist.loading.changes import PLAIN, Changes, NodePath
from hubdist.loading.parts import attributes_of


class State(Protocol):
    """What is known of a loaded model's state: `Published`, or `InGraph` for a model in a `tf.Graph`."""

    nodes: dict[NodePath, weakref.ref[Any]]
    total_bytes: int

    def unchanged(self) -> bool:
        """True if the model is known to be as it was published."""
        ...

    def changes(self) -> Changes:
        """What a pickle or a copy takes along."""
        ...

    def own_attributes(self, path: NodePath, node: Any) -> tuple[tuple[str, Any], ...]:
        """What a shallow copy of a part has besides."""
        ...

    def apply(self, changes: Changes) -> None:
        """Change the model as another one of the same digest was changed."""
        ...

    def rebind(self, path: NodePath, node: Any) -> None:
        """Another object has taken the place of a part."""
        ...


class Structure:
    """Attributes, list elements and dict entries of a model's parts. Holds none of them alive."""

    def __init__(self) -> None:
        self.nodes: dict[NodePath, weakref.ref[Any]] = {}
        self._attributes: dict[NodePath, dict[str, _Token]] = {}

    def note(self, path: NodePath, node: Any) -> None:
        """Take note of a part and its attributes."""
        self.nodes[path] = weakref.ref(node)
        found = attributes_of(node)
        if found is not None:
            self._attributes[path] = {name: _Token(value) for name, value in found.items()}

    def rebind(self, path: NodePath, node: Any) -> None:
        """Another object has taken the place of a part."""
        self.nodes[path] = weakref.ref(node)

    def has_changed(self) -> bool:
        """True if an attribute, element or entry is another object now, or is gone."""
        return any(True for path, node in self._living() for _ in self._changed(path, node))

    def plain_changes(self) -> tuple[tuple[NodePath, str, Any], ...]:
        """The changed attributes, if all of them can travel.

        Raises:
            TravelError: One cannot.
        """
        found = [(path, self._plain(path, node)) for path, node in self._living()]
        return tuple((path, name, value) for path, changed in found for name, value in changed)

    def own_attributes(self, path: NodePath, node: Any) -> tuple[tuple[str, Any], ...]:
        """The changed attributes of a shallow copy of a part; raises as `plain_changes`."""
        return self._plain(path, node) if path in self._attributes else ()

    def set_attributes(self, changes: Changes) -> None:
        """Set what another one's attributes were.

        Raises:
            KeyError: There is no such part.
        """
        for path, name, value in changes.attributes:
            setattr(self.nodes[path](), name, value)

    def _living(self) -> Iterator[tuple[NodePath, Any]]:
        for path in self._attributes:
            node = self.nodes[path]()
            if node is not None:  # else its user kept other parts only
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
    """Tells whether an attribute is the same object still, without keeping it alive."""

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
