"""Variables of a loaded model: whether their values were written to, told by memory addresses and not by reading.

TensorFlow copies a variable's buffer before it writes to the variable while somebody else refers to that buffer. So
whoever keeps the tensor that a variable had finds the variable at the same address later exactly if nothing was
written to it. DLPack gives the address on every device without a copy.
Source: tensorflow 2.21.0, `core/kernels/training_op_helpers.h`, `PrepareToUpdateVariable`; `c/eager/dlpack.cc`.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_WITH_ADDRESS = frozenset(
    [
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "bfloat16",
        "float32",
        "float64",
        "complex64",
        "complex128",
    ]
)
"""The types that DLPack knows. Asked for the address of strings, TensorFlow ends the process with no error."""


class Buffer:
    """The values that a resource variable has now, kept.

    While this object lives, TensorFlow writes the variable's next values elsewhere, so it costs no memory until
    somebody writes. The variable itself is not kept.

    Args:
        handle: The variable's resource handle, in this process; everything that can use the variable holds it.
        dtype: The variable's `tf.DType`.

    Raises:
        tensorflow.errors.OpError: The variable has no value.
    """

    __slots__ = ("_address", "_dtype", "_handle", "_shape", "value")

    def __init__(self, handle: Any, dtype: Any) -> None:
        self._handle = weakref.ref(handle)
        self._dtype = dtype
        self.value = _reader()(handle, dtype)
        """The tensor."""
        self._shape = self.value._shape_tuple()
        self._address = _addresser()(self.value) if dtype.name in _WITH_ADDRESS else None

    def unchanged(self) -> bool:
        """True if nothing was written to the variable since, or if the variable is gone."""
        now = self.now()
        if now is None:
            return True
        if self._address is not None:
            return _addresser()(now) == self._address and bool(now._shape_tuple() == self._shape)
        return same_values(self.value, now)

    def now(self) -> Any | None:
        """The tensor that the variable has now; None if nobody can use the variable any more."""
        handle = self._handle()
        return None if handle is None else _reader()(handle, self._dtype)


@dataclass(slots=True)
class VariableState:
    """A variable, and its values at the load.

    Attributes:
        reference: Refers to the variable weakly.
        buffers: The kept values of each replica; None where nobody can tell whether they change.
    """

    reference: weakref.ref[Any]
    buffers: tuple[Buffer, ...] | None

    @classmethod
    def of(cls, tensorflow: Any, variable: Any, local: str) -> VariableState:
        """Keep the values that a variable has now.

        Args:
            tensorflow: The module `tensorflow`.
            variable: A variable of a loaded model; one of a strategy has a replica on each device.
            local: How the names of this process's devices begin.
        """
        return cls(weakref.ref(variable), _buffers(tensorflow, variable, local))

    def unchanged(self) -> bool:
        """True if the variable is known to have the values that it had at the load."""
        return self.buffers is not None and all(buffer.unchanged() for buffer in self.buffers)

    def now(self) -> Any | None:
        """The variable's tensor now; None if nobody can use the variable any more."""
        variable = self.reference()
        if variable is not None:
            return variable.read_value()
        # The object is gone, but a function may still use the resource.
        return self.buffers[0].now() if self.buffers else None


def first_handle(variable: Any) -> Any:
    """The resource handle of a variable, or of its first replica."""
    return getattr(variable, "values", (variable,))[0].handle


def same_values(one: Any, other: Any) -> bool:
    """Read two eager tensors, and compare type, shape and values bit for bit.

    Args:
        one: A tensor.
        other: Another tensor.
    """
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    first, second = one.numpy(), other.numpy()
    if one.dtype.name == "string":
        return bool((first == second).all()) if one.shape.rank else bool(first == second)
    return bool(first.tobytes() == second.tobytes())


def _buffers(tensorflow: Any, variable: Any, local: str) -> tuple[Buffer, ...] | None:
    """The kept values of each replica of a variable; None where nobody can tell whether they change."""
    distributed = importlib.import_module("tensorflow.python.distribute.values").DistributedValues
    plain = importlib.import_module("tensorflow.python.ops.resource_variable_ops").BaseResourceVariable
    replicas = variable.values if isinstance(variable, distributed) else (variable,)
    # Memory addresses of other processes' devices say nothing here.
    if not all(isinstance(one, plain) and one.handle.device.startswith(local) for one in replicas):
        return None
    try:
        return tuple(Buffer(one.handle, one.dtype) for one in replicas)
    except tensorflow.errors.OpError:  # the variable has no value, as with experimental_skip_checkpoint
        return None


@functools.cache
def _reader() -> Callable[[Any, Any], Any]:
    """The op that gives a variable's tensor.

    The variable's own method takes three times as long, and gradient tapes watch it.
    """
    read: Callable[[Any, Any], Any] = importlib.import_module(
        "tensorflow.python.ops.gen_resource_variable_ops"
    ).read_variable_op
    return read


@functools.cache
def _addresser() -> Callable[[Any], int]:
    """The function that gives the address of a tensor's first byte, on whatever device the tensor is."""
    to_capsule = importlib.import_module("tensorflow.python.pywrap_tfe").TFE_ToDlpackCapsule
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype = ctypes.c_void_p
    get.argtypes = [ctypes.py_object, ctypes.c_char_p]

    def address(tensor: Any) -> int:
        capsule = to_capsule(tensor)  # the first field of DLManagedTensor is the data's address
        return ctypes.c_void_p.from_address(get(capsule, b"dltensor")).value or 0

    return address
