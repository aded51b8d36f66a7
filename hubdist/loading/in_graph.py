"""The state of a model that was loaded into a `tf.Graph`: its values are in sessions."""

from __future__ import annotations

import importlib
from typing import Any

from hubdist.errors import TravelError
from hubdist.loading.changes import Array, Changes
from hubdist.loading.loose import has_loose_variables
from hubdist.loading.parts import walk
from hubdist.loading.structure import Structure
from hubdist.loading.tables import hidden_state, is_constant


class InGraph(Structure):
    """Never known to be unchanged; pickled with the values of the default session.

    Args:
        tensorflow: The module.
        root: The loaded model.
    """

    def __init__(self, tensorflow: Any, root: Any) -> None:
        super().__init__()
        self._tensorflow = tensorflow
        self._graph = tensorflow.compat.v1.get_default_graph()
        self._hidden = hidden_state(root)
        if has_loose_variables(root):
            self._hidden.append("variables that are not objects of it")
        self._variables = {}
        self.total_bytes = 0
        """Not counted, for it is never kept."""
        resource = importlib.import_module("tensorflow.python.trackable.resource").CapturableResource
        for path, node in walk(tensorflow, root):
            self.note(path, node)
            if isinstance(node, tensorflow.Variable):
                self._variables[path] = node
            elif isinstance(node, resource) and not is_constant(node):
                self._hidden.append(f"{'.'.join(path)}, a {type(node).__name__}")

    def unchanged(self) -> bool:
        """Nobody can tell."""
        return False

    def changes(self) -> Changes:
        """The values of all variables in the default session.

        Raises:
            TravelError: There is none for this graph, or it has not initialized the variables; or the model has other
                state.
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

    def apply(self, changes: Changes) -> None:  # noqa: ARG002 - as for `Published`
        """Not here.

        Raises:
            TravelError: Always.
        """
        raise TravelError(
            "a changed model cannot be opened inside of a tf.Graph: its values would be in no session yet",
            advice="Use it outside of the graph first.",
        )
