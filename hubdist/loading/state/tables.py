"""State of a model outside of variables: which of it never changes, which hubdist can read, and which it cannot.

Such state is in tables, in other resources, and in ops that remember their calls.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from hubdist.loading.state.parts import Array

_CONSTANT_TABLES = frozenset({"HashTable", "HashTableV2", "AnonymousHashTable"})
"""The types of tables that are filled when the model is loaded. TensorFlow has no op that changes their entries."""

_CONSTANT = _CONSTANT_TABLES | {"SimpleMLCreateModelResource"}
"""The types of ops whose resources never change after the load; the last one is of TensorFlow Decision Forests."""

_READABLE = frozenset(
    {
        "MutableHashTable",
        "MutableHashTableV2",
        "MutableHashTableOfTensorsV2",
        "MutableDenseHashTableV2",
        "AnonymousMutableHashTable",
        "AnonymousMutableHashTableOfTensors",
        "AnonymousMutableDenseHashTable",
    }
)
"""The types of ops whose resources `LookupTableExportV2` reads and `LookupTableImportV2` fills."""

_GRAPH_STATE = frozenset(
    """
    VarHandleOp VariableV2 Variable ReadVariableOp AssignVariableOp AssignAddVariableOp AssignSubVariableOp
    Assign AssignAdd AssignSub VarIsInitializedOp IsVariableInitialized InitializeTable InitializeTableV2
    InitializeTableFromTextFile InitializeTableFromTextFileV2 LookupTableFind LookupTableFindV2
    LookupTableSize LookupTableSizeV2 SaveV2 Save SaveSlices RestoreV2 Restore RestoreSlice MergeV2Checkpoints
    ResourceGather ResourceGatherNd PartitionedCall StatefulPartitionedCall If While Assert Print PrintV2
    Placeholder ReadFile MatchingFiles RandomUniform RandomUniformInt RandomStandardNormal TruncatedNormal
    RandomShuffle Multinomial RandomGamma RandomPoisson RandomPoissonV2 ParameterizedTruncatedNormal
    """.split()  # noqa: SIM905 - a list of fifty quoted names is harder to read
)
"""The types of stateful ops of TF1 graphs whose state is in variables or constant tables.

Random ops are among them: `remembers_calls` looks at their seeds."""

_WRITES_VARIABLES = ("ResourceApply", "ResourceSparseApply", "ResourceScatter", "Scatter", "Apply", "SparseApply")
"""How the types of ops begin that write to variables only."""

_OF_ONE_CALL = ("TensorArray", "Stack")
"""How the types of ops begin whose state ends with the call."""


_RANDOM = frozenset(
    {
        "RandomUniform",
        "RandomUniformInt",
        "RandomStandardNormal",
        "ParameterizedTruncatedNormal",
        "TruncatedNormal",
        "RandomShuffle",
        "Multinomial",
        "RandomGamma",
        "RandomPoisson",
        "RandomPoissonV2",
    }
)
"""The types of ops whose kernels hold a random generator."""


class TableState:
    """A table that the model's functions can write to, and its entries at the load.

    Args:
        tensorflow: The module `tensorflow`.
        handle: The table's resource handle.
        key_dtype: The type of its keys.
        value_dtype: The type of its values.
    """

    def __init__(self, tensorflow: Any, handle: Any, key_dtype: Any, value_dtype: Any) -> None:
        self._ops = tensorflow.raw_ops
        self._handle = handle
        self._dtypes = key_dtype, value_dtype
        self._published = _entries(*self._read())

    def unchanged(self) -> bool:
        """True if the table has the entries that it had at the load; reads all of them."""
        return _entries(*self._read()) == self._published

    def export(self) -> tuple[Array, Array]:
        """The table's keys and values."""
        keys, values = self._read()
        return Array.of(keys), Array.of(values)

    def fill(self, keys: Any, values: Any) -> None:
        """Replace all entries of the table.

        Args:
            keys: A tensor with all keys.
            values: A tensor with the value of each key, in the same order.
        """
        self._ops.LookupTableImportV2(table_handle=self._handle, keys=keys, values=values)

    def _read(self) -> tuple[Any, Any]:
        keys, values = self._ops.LookupTableExportV2(
            table_handle=self._handle, Tkeys=self._dtypes[0], Tvalues=self._dtypes[1]
        )
        return keys, values


def is_constant(resource: Any) -> bool:
    """True if nothing can change what a resource of a loaded model holds."""
    tables = importlib.import_module("tensorflow.python.ops.lookup_ops")
    initializer = importlib.import_module("tensorflow.python.saved_model.load_v1_in_v2")._Initializer
    if isinstance(resource, (tables.StaticHashTable, initializer)):
        return True
    made = _made_by(resource)
    return bool(made) and made.keys() <= _CONSTANT


def open_table(tensorflow: Any, resource: Any) -> TableState | None:
    """The table behind a resource; None if the resource is not a table that can be read.

    Args:
        tensorflow: The module `tensorflow`.
        resource: A resource of a loaded model.
    """
    made = _made_by(resource)
    if len(made) != 1 or not made.keys() <= _READABLE:
        return None
    (op,) = made.values()
    try:
        return TableState(tensorflow, resource.resource_handle, op.get_attr("key_dtype"), op.get_attr("value_dtype"))
    except tensorflow.errors.OpError:
        return None


def hidden_state(root: Any) -> list[str]:
    """What ops of a TF1 graph remember outside of variables, in words; such a graph has no objects for this state."""
    graph = vars(root).get("graph")
    if graph is None:
        return []
    registry = importlib.import_module("tensorflow.python.framework.op_def_registry")
    types = {op.type for op in graph.get_operations()} - _GRAPH_STATE - _CONSTANT
    harmless = (*_WRITES_VARIABLES, *_OF_ONE_CALL)
    types = {name for name in types if not name.startswith(harmless)}
    found = [name for name in sorted(types) if getattr(registry.get(name), "is_stateful", True)]
    return [f"the op {name} of its graph" for name in found]


def remembers_calls(parts: Iterable[Any]) -> bool:
    """True if a model has a random op with a seed: the op's next value depends on how often the model was called.

    Args:
        parts: The model and its functions.
    """
    seen: set[str] = set()
    for part in parts:
        own = getattr(part, "__dict__", {})  # what wraps a dict in TensorFlow 2.16 has none
        graph = own.get("graph") if "graph" in own else getattr(part, "graph", None)
        if graph is None:
            continue
        if any(map(_is_seeded, graph.get_operations())):
            return True
        inner = getattr(graph, "_functions", {})
        for name in inner.keys() - seen:
            seen.add(name)
            for node in inner[name].cached_definition.node_def:
                if node.op in _RANDOM and (node.attr["seed"].i or node.attr["seed2"].i):
                    return True
    return False


def _is_seeded(op: Any) -> bool:
    return op.type in _RANDOM and bool(op.get_attr("seed") or op.get_attr("seed2"))


def _made_by(resource: Any) -> dict[str, Any]:
    """The ops, by type, that make a resource."""
    create = vars(resource).get("_create_resource")
    functions = getattr(create, "concrete_functions", ())
    glue = {"NoOp", "Identity", "Const", "Placeholder", "PlaceholderWithDefault"}
    return {op.type: op for function in functions for op in function.graph.get_operations() if op.type not in glue}


def _entries(keys: Any, values: Any) -> dict[Any, Any]:
    """Key -> value, each as bytes that tell equal from unequal."""
    return {_plain(key): _plain(value) for key, value in zip(keys.numpy(), values.numpy(), strict=True)}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.hasobject:  # strings
        return tuple(value.reshape(-1).tolist())
    return value.tobytes() if isinstance(value, np.ndarray | np.generic) else value
