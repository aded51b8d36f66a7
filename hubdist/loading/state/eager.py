"""The state of a model that was loaded in eager mode: what it was when it was published, and what changed; exactly."""

from __future__ import annotations

import contextlib
import functools
import importlib
import weakref
from collections.abc import Iterator
from typing import Any

from hubdist.errors import TravelError
from hubdist.loading.state.attributes import AttributeState
from hubdist.loading.state.graph_variables import GraphVariables
from hubdist.loading.state.parts import Array, Changes, NodePath, walk
from hubdist.loading.state.tables import TableState, hidden_state, is_constant, open_table, remembers_calls
from hubdist.loading.state.variables import VariableState, first_handle
from hubdist.loading.tf_runtime import gc_paused


class EagerState(AttributeState):
    """The state of one model that has just been loaded in eager mode.

    Keeps the values that variables have now: without a copy while nobody writes, beside the new values afterwards.
    Holds tables, but neither the model nor its variables nor other parts, so that these end when their users drop them.
    Not for several threads at the same time, as the model itself: a pickle that one thread makes while another thread
    trains has the values of different steps.

    Args:
        tensorflow: The module `tensorflow`.
        root: The loaded model.

    Attributes:
        total_bytes: The size of the variables.
    """

    def __init__(self, tensorflow: Any, root: Any) -> None:
        super().__init__()
        self._tensorflow = tensorflow
        self._variables: dict[NodePath, VariableState] = {}
        self._tables: dict[NodePath, TableState] = {}
        self._hidden: list[str] = hidden_state(root)
        self.total_bytes = 0
        resource = importlib.import_module("tensorflow.python.trackable.resource").CapturableResource
        local = _context().context().host_address_space()
        with _eagerly():
            for path, node in walk(tensorflow, root):
                self.note(path, node)
                if isinstance(node, tensorflow.Variable):
                    self._note_variable(path, node, local)
                elif isinstance(node, resource):
                    self._note_resource(path, node)
            self._graph_variables = GraphVariables(tensorflow, root)

    def _note_variable(self, path: NodePath, variable: Any, local: str) -> None:
        state = VariableState.of(self._tensorflow, variable, local)
        self._variables[path] = state
        if state.buffers is not None:  # drop the kept values when nobody can use the variable any more
            forget = weakref.finalize(first_handle(variable), _forget, weakref.ref(self), path)
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
        """True if functions have state of their own. Lazy, because only a model that may be shared is asked."""
        return remembers_calls(node for reference in self.nodes.values() if (node := reference()) is not None)

    def unchanged(self) -> bool:
        """True if every variable, table and attribute is known to be as it was published."""
        if self._hidden or self._remembers_calls:
            return False
        with _eagerly():
            # A list: a finalizer in another thread may take variables out.
            return (
                all(variable.unchanged() for variable in list(self._variables.values()))
                and all(table.unchanged() for table in self._tables.values())
                and not self._graph_variables.changed()
                and not self.has_changed()
            )

    def unwritten(self) -> list[Any]:
        """The variables that are known to have the values that they had at the load."""
        with _eagerly():
            known = [state.reference() for state in list(self._variables.values()) if state.unchanged()]
        return [variable for variable in known if variable is not None]

    def changes(self) -> Changes:
        """What differs from the published model. Where nobody can tell, the values of now.

        Raises:
            TravelError: Something was changed that cannot travel in a pickle, or the model has state that hubdist
                cannot read.
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
            graph_variables = tuple(self._graph_variables.changed().items())
        return Changes(tuple(variables), tuple(tables), graph_variables, self.plain_changes())

    def apply(self, changes: Changes) -> None:
        """Change this model as another one of the same digest was changed.

        Raises:
            KeyError: This model has no such part.
        """
        with _eagerly():
            for path, array in changes.variables:
                variable = self._variables[path].reference()
                if variable is None:
                    raise KeyError(".".join(path))
                variable.assign(array.tensor(self._tensorflow))
            for path, keys, values in changes.tables:
                self._tables[path].fill(keys.tensor(self._tensorflow), values.tensor(self._tensorflow))
            for name, array in changes.graph_variables:
                self._graph_variables.assign(name, array.tensor(self._tensorflow))
        self.set_attributes(changes)


def _forget(reference: weakref.ref[EagerState], path: NodePath) -> None:
    state = reference()
    if state is not None:
        state._variables.pop(path, None)


@contextlib.contextmanager
def _eagerly() -> Iterator[None]:
    """Run ops now, also where a graph is being built: the model's values are not in that graph."""
    with _context().eager_mode(), gc_paused():
        yield


@functools.cache
def _context() -> Any:
    return importlib.import_module("tensorflow.python.eager.context")
