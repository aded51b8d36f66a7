"""What a loaded model was when it was published, and what of it has changed since; exactly."""

from __future__ import annotations

import contextlib
import functools
import importlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hubdist.errors import TravelError
from hubdist.loading.buffers import Buffer
from hubdist.loading.changes import Array, Changes, NodePath
from hubdist.loading.loose import LooseVariables
from hubdist.loading.parts import walk
from hubdist.loading.pause import garbage_collection_paused
from hubdist.loading.structure import Structure
from hubdist.loading.tables import PublishedTable, hidden_state, is_constant, open_table, remembers_calls


@dataclass(slots=True)
class _Variable:
    """A variable, and its values at the load, of each replica; None where it cannot be known whether they change."""

    reference: weakref.ref[Any]
    buffers: tuple[Buffer, ...] | None

    def unchanged(self) -> bool:
        return self.buffers is not None and all(buffer.unchanged() for buffer in self.buffers)

    def now(self) -> Any | None:
        """Its tensor; None if nobody can use it. A function may use it although its object is gone."""
        variable = self.reference()
        if variable is not None:
            return variable.read_value()
        return self.buffers[0].now() if self.buffers else None


class Published(Structure):
    """The state of one model that has just been loaded in eager mode.

    Keeps the values that variables have now: without a copy while nobody writes, beside the new values afterwards.
    Holds tables, but neither the model nor its variables nor other parts, so that these end when their users drop them.
    Not for several threads at the same time, as the model itself: what is pickled while another thread trains has the
    values of different steps.

    Args:
        tensorflow: The module.
        root: The loaded model.
    """

    def __init__(self, tensorflow: Any, root: Any) -> None:
        super().__init__()
        self._tensorflow = tensorflow
        self._variables: dict[NodePath, _Variable] = {}
        self._tables: dict[NodePath, PublishedTable] = {}
        self._hidden: list[str] = hidden_state(root)
        self.total_bytes = 0
        """Bytes of the variables."""
        resource = importlib.import_module("tensorflow.python.trackable.resource").CapturableResource
        local = _context().context().host_address_space()
        with _eagerly():
            for path, node in walk(tensorflow, root):
                self.note(path, node)
                if isinstance(node, tensorflow.Variable):
                    self._note_variable(path, node, local)
                elif isinstance(node, resource):
                    self._note_resource(path, node)
            self._loose = LooseVariables(tensorflow, root)

    def _note_variable(self, path: NodePath, variable: Any, local: str) -> None:
        buffers = _buffers(self._tensorflow, variable, local)
        self._variables[path] = _Variable(weakref.ref(variable), buffers)
        if buffers is not None:  # the kept values end with the last who can use the variable
            forget = weakref.finalize(_first_handle(variable), _forget, weakref.ref(self), path)
            forget.atexit = False
        self.total_bytes += int(variable.dtype.size * (variable.shape.num_elements() or 0))

    def _note_resource(self, path: NodePath, node: Any) -> None:
        if is_constant(node):
            return
        table = open_table(self._tensorflow, node)
        if table is None:
            self._hidden.append(f"{'.'.join(path)}, a {type(node).__name__}")
        else:
            self._tables[path] = table

    @functools.cached_property
    def _remembers_calls(self) -> bool:
        """True if functions have state of their own; looked for when the model is about to be shared."""
        return remembers_calls(node for reference in self.nodes.values() if (node := reference()) is not None)

    def unchanged(self) -> bool:
        """True if every variable, table and attribute is known to be as it was published."""
        if self._hidden or self._remembers_calls:
            return False
        with _eagerly():
            return (
                all(variable.unchanged() for variable in list(self._variables.values()))
                and all(table.unchanged() for table in self._tables.values())
                and not self._loose.changed()
                and not self.has_changed()
            )

    def changes(self) -> Changes:
        """What differs from the published model. Where that cannot be told, the values of now.

        Raises:
            TravelError: Something changed that cannot be sent, or there is state that cannot be looked at.
        """
        if self._hidden:
            raise TravelError(
                f"the model has state that hubdist cannot read: {'; '.join(self._hidden)}",
                advice="Load it by its handle where it is used.",
            )
        with _eagerly():
            changed = [(path, known.now()) for path, known in list(self._variables.items()) if not known.unchanged()]
            variables = [(path, Array.of(now)) for path, now in changed if now is not None]
            tables = [(path, *table.export()) for path, table in self._tables.items() if not table.unchanged()]
            loose = tuple(self._loose.changed().items())
        return Changes(tuple(variables), tuple(tables), loose, self.plain_changes())

    def apply(self, changes: Changes) -> None:
        """Change the model as another one of the same digest was changed.

        Raises:
            KeyError: It has no such part.
        """
        with _eagerly():
            for path, array in changes.variables:
                variable = self._variables[path].reference()
                if variable is None:
                    raise KeyError(".".join(path))
                variable.assign(array.tensor(self._tensorflow))
            for path, keys, values in changes.tables:
                self._tables[path].fill(keys.tensor(self._tensorflow), values.tensor(self._tensorflow))
            for name, array in changes.loose:
                self._loose.assign(name, array.tensor(self._tensorflow))
        self.set_attributes(changes)


def _forget(published: weakref.ref[Published], path: NodePath) -> None:
    state = published()
    if state is not None:
        state._variables.pop(path, None)


def _first_handle(variable: Any) -> Any:
    return getattr(variable, "values", (variable,))[0].handle


@contextlib.contextmanager
def _eagerly() -> Iterator[None]:
    """Run ops now, also where a graph is being built: the model's values are not in it."""
    with _context().eager_mode(), garbage_collection_paused():
        yield


@functools.cache
def _context() -> Any:
    return importlib.import_module("tensorflow.python.eager.context")


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
