"""The state of a model that was loaded into a `tf.Graph`: its values are in sessions."""

from __future__ import annotations

import importlib
from typing import Any

from hubdist.errors import TravelError
from hubdist.loading.state.attributes import AttributeState
from hubdist.loading.state.changes import Array, Changes
from hubdist.loading.state.graph_variables import has_graph_variables
from hubdist.loading.state.parts import walk
from hubdist.loading.state.tables import hidden_state, is_constant


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
