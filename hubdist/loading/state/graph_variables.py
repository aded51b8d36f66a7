"""The state of a model that was loaded into a `tf.Graph`, and variables of which TensorFlow makes no objects.

In a `tf.Graph` the values are in sessions. Elsewhere TensorFlow makes objects for the resource variables in the
collection of global variables only. Other variables of a TF1 graph, all `VariableV2` of old models among them, stay ops
of the graph, where an assignment writes into the buffer that is there. So their values are digested at the load and
again when somebody asks: a digest takes no memory, and tells a change as well as the values do.
Source: tensorflow 2.21.0, `saved_model/load_v1_in_v2.py`, `eager/wrap_function.py`; `core/kernels/assign_op.h`.
"""

from __future__ import annotations

import hashlib
import importlib
from typing import Any

import numpy as np

from hubdist.errors import TravelError
from hubdist.loading.state.attributes import AttributeState
from hubdist.loading.state.parts import Array, Changes, walk
from hubdist.loading.state.tables import hidden_state, is_constant

_VARIABLES = frozenset({"VarHandleOp", "VariableV2", "Variable"})
_ASSIGN = frozenset({"Assign", "AssignVariableOp"})


def has_graph_variables(root: Any) -> bool:
    """True if a loaded model has variables that are only ops of its graph."""
    return bool(_find(vars(root).get("graph")))


class GraphVariables:
    """The variables of one model that are only ops of its graph, by the names of the ops.

    Args:
        tensorflow: The module `tensorflow`, in eager mode.
        root: The loaded model.

    Raises:
        tensorflow.errors.OpError: A variable has no value.
    """

    def __init__(self, tensorflow: Any, root: Any) -> None:
        self._tensorflow = tensorflow
        self._ops = {op.name: op for op in _find(vars(root).get("graph"))}
        self._read: Any = None
        if self._ops:
            self._graph, self._prune = vars(root)["graph"], vars(root)["prune"]
            with self._graph.as_default():
                fetches = [self._value(op) for op in self._ops.values()]
            self._read = self._prune([], fetches)
        self._published = {name: _digest(value) for name, value in self.values().items()}

    def values(self) -> dict[str, Any]:
        """The variables' tensors now."""
        return {} if self._read is None else dict(zip(self._ops, self._read(), strict=True))

    def changed(self) -> dict[str, Array]:
        """The values of those variables that are not as they were at the load; reads all of them."""
        return {name: Array.of(now) for name, now in self.values().items() if _digest(now) != self._published[name]}

    def assign(self, name: str, value: Any) -> None:
        """Give a variable a value.

        Args:
            name: The name of the variable's op.
            value: A tensor of the variable's type and shape.

        Raises:
            KeyError: The graph has no such variable, or no op that writes to it.
        """
        variable = self._ops[name]
        for op in self._graph.get_operations():
            if op.type in _ASSIGN and op.inputs[0] is variable.outputs[0]:
                self._prune([op.inputs[1]], [op])(value)
                return
        raise KeyError(name)

    def _value(self, op: Any) -> Any:
        if op.type == "VarHandleOp":
            return self._tensorflow.raw_ops.ReadVariableOp(resource=op.outputs[0], dtype=op.get_attr("dtype"))
        return self._tensorflow.identity(op.outputs[0])


def _find(graph: Any) -> list[Any]:
    if graph is None:
        return []
    # Variables with an object reach the graph as its inputs.
    given = {id(tensor) for tensor in getattr(graph, "inputs", ())}
    return [op for op in graph.get_operations() if op.type in _VARIABLES and id(op.outputs[0]) not in given]


def _digest(tensor: Any) -> bytes:
    values = np.asarray(tensor.numpy())
    data = repr(values.tolist()).encode() if values.dtype.hasobject else np.ascontiguousarray(values).tobytes()
    return hashlib.sha256(repr((tensor.dtype.name, values.shape)).encode() + data).digest()


class GraphState(AttributeState):
    """The state of one model in a `tf.Graph`: never known to be unchanged; pickled with the default session's values.

    Args:
        tensorflow: The module `tensorflow`.
        root: The loaded model.

    Attributes:
        total_bytes: Always 0: such a model is never kept, so nobody asks for its size.
    """

    def __init__(self, tensorflow: Any, root: Any) -> None:
        super().__init__()
        self._tensorflow = tensorflow
        self._graph = tensorflow.compat.v1.get_default_graph()
        self._hidden = hidden_state(root)
        if has_graph_variables(root):
            self._hidden.append("variables that are not objects of it")
        self._variables = {}
        self.total_bytes = 0
        resource = importlib.import_module("tensorflow.python.trackable.resource").CapturableResource
        for path, node in walk(tensorflow, root):
            self.note(path, node)
            if isinstance(node, tensorflow.Variable):
                self._variables[path] = node
            elif isinstance(node, resource) and not is_constant(node):
                self._hidden.append(f"{'.'.join(path)}, a {type(node).__name__}")

    def unchanged(self) -> bool:
        """False: each session has values of its own."""
        return False

    def changes(self) -> Changes:
        """The values of all variables in the default session.

        Raises:
            TravelError: The default session is not one of this graph or has not initialized the variables, or the
                model has other state.
        """
        if self._hidden:
            raise TravelError(
                f"the model is in a tf.Graph, and has state that cannot be read there: {'; '.join(self._hidden)}",
                advice="Send its handle, or load it outside of the graph.",
            )
        attributes = self.plain_changes()
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
        with importlib.import_module("tensorflow.python.eager.context").eager_mode():
            arrays = [Array.of(self._tensorflow.constant(value)) for value in values]
        return Changes(tuple(zip(self._variables, arrays, strict=True)), attributes=attributes)

    def apply(self, changes: Changes) -> None:  # noqa: ARG002 - the signature of `ModelState`
        """Refuse: the values would have to be put into a session that does not exist yet.

        Raises:
            TravelError: Always.
        """
        raise TravelError(
            "a changed model cannot be opened inside of a tf.Graph: its values would be in no session yet",
            advice="Use it outside of the graph first.",
        )
