"""What a loaded model was when it was published, and what of it has changed since; exactly, and without reading it."""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Iterator
from typing import Any, Protocol

from hubdist.errors import TravelError
from hubdist.models.buffers import Buffer
from hubdist.models.changes import PLAIN, Array, Changes, NodePath
from hubdist.models.pause import garbage_collection_paused
from hubdist.models.tables import PublishedTable, hidden_state, is_constant, open_table
from hubdist.models.tree import attributes_of, walk


class State(Protocol):
    """What is known of a loaded model's state: `Published`, or `InGraph` for a model in a `tf.Graph`."""

    nodes: dict[NodePath, weakref.ref[Any]]
    total_bytes: int

    def unchanged(self) -> bool:
        """True if the model is known to be as it was published."""
        ...

    def changes(self, path: NodePath, node: Any) -> Changes:
        """What a pickle or a copy takes along."""
        ...

    def apply(self, changes: Changes) -> None:
        """Change the model as another one of the same digest was changed."""
        ...

    def rebind(self, path: NodePath, node: Any) -> None:
        """Another object has taken the place of a part."""
        ...


class Published:
    """The state of one model that has just been loaded in eager mode.

    Keeps the values that variables have now: without a copy while nobody writes, beside the new values afterwards.
    Holds variables and tables, but neither the model nor its other parts, so that these end when their users drop
    them. Not for several threads at the same time, as the model itself.

    Args:
        tensorflow: The module.
        root: The loaded model.
    """

    def __init__(self, tensorflow: Any, root: Any) -> None:
        self._tensorflow = tensorflow
        self.nodes: dict[NodePath, weakref.ref[Any]] = {}
        self._variables: dict[NodePath, tuple[Any, tuple[Buffer, ...] | None]] = {}
        self._tables: dict[NodePath, PublishedTable] = {}
        self._hidden: list[str] = hidden_state(root)
        self._attributes: dict[NodePath, dict[str, _Token]] = {}
        resource = importlib.import_module("tensorflow.python.trackable.resource").CapturableResource
        local = importlib.import_module("tensorflow.python.eager.context").context().host_address_space()
        with tensorflow.init_scope(), garbage_collection_paused():
            for path, node in walk(tensorflow, root):
                self.nodes[path] = weakref.ref(node)
                if isinstance(node, tensorflow.Variable):
                    self._variables[path] = node, _buffers(tensorflow, node, local)
                elif isinstance(node, resource):
                    self._note_resource(path, node)
                else:
                    found = attributes_of(node)
                    if found is not None:
                        self._attributes[path] = {name: _Token(value) for name, value in found.items()}
        sizes = (v.dtype.size * (v.shape.num_elements() or 0) for v, _ in self._variables.values())
        self.total_bytes = int(sum(sizes))
        """Bytes of the variables."""

    def _note_resource(self, path: NodePath, node: Any) -> None:
        if is_constant(node):
            return
        table = open_table(self._tensorflow, node)
        if table is None:
            self._hidden.append(f"{'.'.join(path)}, a {type(node).__name__}")
        else:
            self._tables[path] = table

    def unchanged(self) -> bool:
        """True if every variable, table and attribute is known to be as it was published."""
        if self._hidden or any(buffers is None for _, buffers in self._variables.values()):
            return False
        with self._tensorflow.init_scope(), garbage_collection_paused():
            return (
                all(buffer.unchanged() for _, buffers in self._variables.values() for buffer in buffers or ())
                and all(table.unchanged() for table in self._tables.values())
                and not any(True for _ in self._changed_attributes())
            )

    def changes(self, path: NodePath, node: Any) -> Changes:
        """What differs from the published model. Where that cannot be told, the values of now.

        Args:
            path: The part whose attributes are looked at in `node`.
            node: That part, or a shallow copy of it.

        Raises:
            TravelError: Something changed that cannot be sent, or there is state that cannot be looked at.
        """
        if self._hidden:
            raise TravelError(
                f"the model has state that hubdist cannot read: {'; '.join(self._hidden)}",
                advice="Load it by its handle where it is used.",
            )
        with self._tensorflow.init_scope(), garbage_collection_paused():
            variables = [
                (place, Array.of(variable.read_value()))
                for place, (variable, buffers) in self._variables.items()
                if buffers is None or not all(buffer.unchanged() for buffer in buffers)
            ]
            tables = [(place, *table.export()) for place, table in self._tables.items() if not table.unchanged()]
        return Changes(tuple(variables), tuple(tables), tuple(self._plain_attributes(path, node)))

    def apply(self, changes: Changes) -> None:
        """Change the model as another one of the same digest was changed.

        Raises:
            KeyError: It has no such part.
        """
        with self._tensorflow.init_scope():
            for path, array in changes.variables:
                self._variables[path][0].assign(array.tensor(self._tensorflow))
            for path, keys, values in changes.tables:
                self._tables[path].fill(keys.tensor(self._tensorflow), values.tensor(self._tensorflow))
        for path, name, value in changes.attributes:
            setattr(self.nodes[path](), name, value)

    def rebind(self, path: NodePath, node: Any) -> None:
        """Another object has taken the place of a part."""
        self.nodes[path] = weakref.ref(node)

    def _plain_attributes(self, part: NodePath, node: Any) -> Iterator[tuple[NodePath, str, Any]]:
        for path, name, value in self._changed_attributes(part, node):
            if not isinstance(value, PLAIN):
                whole = ".".join((*path, name))
                raise TravelError(
                    f"the model was changed in its structure: {whole} is not what was published",
                    advice="Send the values that you need, or save the model with tf.saved_model.save and load that.",
                )
            yield path, name, value

    def _changed_attributes(
        self, part: NodePath | None = None, sent: Any = None
    ) -> Iterator[tuple[NodePath, str, Any]]:
        """Every attribute, list element and the like that is another object now; `...` stands for one that is gone."""
        for path, before in self._attributes.items():
            node = sent if path == part else self.nodes[path]()
            now = (attributes_of(node) or {}) if node is not None else {}
            if node is None:
                continue  # its user kept other parts only
            for name, value in now.items():
                if name not in before or not before[name].stands_for(value):
                    yield path, name, value
            for name in before.keys() - now.keys():
                yield path, name, ...


class InGraph:
    """The state of a model in a `tf.Graph`: its values are in sessions, so it is never known to be unchanged.

    Args:
        tensorflow: The module.
        root: The loaded model.
    """

    def __init__(self, tensorflow: Any, root: Any) -> None:
        self._tensorflow = tensorflow
        parts = dict(walk(tensorflow, root))
        self.nodes: dict[NodePath, weakref.ref[Any]] = {path: weakref.ref(node) for path, node in parts.items()}
        self._variables = {path: node for path, node in parts.items() if isinstance(node, tensorflow.Variable)}
        self._graph = tensorflow.compat.v1.get_default_graph()
        self.total_bytes = 0
        """Not counted, for it is never kept."""

    def unchanged(self) -> bool:
        """Nobody can tell."""
        return False

    def changes(self, path: NodePath, node: Any) -> Changes:  # noqa: ARG002 - as for `Published`
        """The values of all variables in the default session.

        Raises:
            TravelError: There is none for this graph, or it has not initialized the variables.
        """
        session = self._tensorflow.compat.v1.get_default_session()
        if session is None or session.graph is not self._graph:
            raise TravelError(
                "the model is in a tf.Graph, and its values are in a session that is not the default one",
                advice="Pickle it inside `with session:`, or send its handle.",
            )
        try:
            values = session.run(list(self._variables.values()))
        except self._tensorflow.errors.FailedPreconditionError:
            raise TravelError(
                "the session has not initialized the model's variables", advice="Initialize them, or send the handle."
            ) from None
        arrays = [Array.of(self._constant(value)) for value in values]
        return Changes(tuple(zip(self._variables, arrays, strict=True)))

    def apply(self, changes: Changes) -> None:  # noqa: ARG002 - as for `Published`
        """Not here.

        Raises:
            TravelError: Always.
        """
        raise TravelError(
            "a changed model cannot be opened inside of a tf.Graph: its values would be in no session yet",
            advice="Use it outside of the graph first.",
        )

    def rebind(self, path: NodePath, node: Any) -> None:
        """Another object has taken the place of a part."""
        self.nodes[path] = weakref.ref(node)

    def _constant(self, value: Any) -> Any:
        with importlib.import_module("tensorflow.python.eager.context").eager_mode():
            return self._tensorflow.constant(value)


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
        return self._value is value or (
            isinstance(value, PLAIN) and type(value) is type(self._value) and value == self._value
        )


def _buffers(tensorflow: Any, variable: Any, local: str) -> tuple[Buffer, ...] | None:
    """The kept values of a variable, or of each replica's; None where it cannot be known whether they change."""
    distributed = importlib.import_module("tensorflow.python.distribute.values").DistributedValues
    plain = importlib.import_module("tensorflow.python.ops.resource_variable_ops").BaseResourceVariable
    replicas = variable.values if isinstance(variable, distributed) else (variable,)
    if not all(isinstance(one, plain) and one.handle.device.startswith(local) for one in replicas):
        return None
    try:
        return tuple(Buffer(one.handle, one.dtype) for one in replicas)
    except tensorflow.errors.OpError:  # it has no value, as with experimental_skip_checkpoint
        return None
