"""Whether a tensor's values were written to, told from where they lie in memory and not by reading them.

TensorFlow copies a variable's buffer before it writes to it while somebody else refers to that buffer. Whoever keeps
the tensor that a variable had, finds the variable at the same address later exactly if nothing was written to it.
The address comes from DLPack, which gives it on every device without a copy.
Source: tensorflow 2.21.0, `core/kernels/training_op_helpers.h`, `PrepareToUpdateVariable`; `c/eager/dlpack.cc`.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import weakref
from collections.abc import Callable
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
"""Types that DLPack knows. For a string, TensorFlow ends the process instead of raising an error."""


class Buffer:
    """The values that a resource variable has now, kept.

    While this object lives, TensorFlow writes the variable's next values elsewhere, so it costs no memory until
    somebody writes. The variable itself is not kept.

    Args:
        handle: The variable's resource handle, in this process; whoever can use the variable has it.
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
        """True if the variable has these values still, nothing having been written to it since, or is gone."""
        now = self.now()
        if now is None:
            return True
        if self._address is not None:
            return _addresser()(now) == self._address and bool(now._shape_tuple() == self._shape)
        return same_values(self.value, now)

    def now(self) -> Any | None:
        """The tensor that the variable has now; None if nobody can use it any more."""
        handle = self._handle()
        return None if handle is None else _reader()(handle, self._dtype)


def same_values(one: Any, other: Any) -> bool:
    """Compare two tensors by reading them, bit for bit."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    first, second = one.numpy(), other.numpy()
    if one.dtype.name == "string":
        return bool((first == second).all()) if one.shape.rank else bool(first == second)
    return bool(first.tobytes() == second.tobytes())


@functools.cache
def _reader() -> Callable[[Any, Any], Any]:
    """The op that gives a variable's tensor; the variable's own method takes three times as long and tells tapes."""
    read: Callable[[Any, Any], Any] = importlib.import_module(
        "tensorflow.python.ops.gen_resource_variable_ops"
    ).read_variable_op
    return read


@functools.cache
def _addresser() -> Callable[[Any], int]:
    """The function that gives the address of a tensor's first byte, on whatever device it is."""
    to_capsule = importlib.import_module("tensorflow.python.pywrap_tfe").TFE_ToDlpackCapsule
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype = ctypes.c_void_p
    get.argtypes = [ctypes.py_object, ctypes.c_char_p]

    def address(tensor: Any) -> int:
        capsule = to_capsule(tensor)  # the first field of DLManagedTensor is the data's address
        return ctypes.c_void_p.from_address(get(capsule, b"dltensor")).value or 0

    return address
