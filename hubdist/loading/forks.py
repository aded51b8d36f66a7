"""Processes that were forked after TensorFlow had begun to work: they get an error instead of a hang.

TensorFlow's threads do not come along by fork, so the first op of a child that needs one waits for ever. Where
TensorFlow was imported before the fork, but had run nothing, it works in the child.
"""

from __future__ import annotations

import functools
import os
import sys
import weakref
from collections.abc import Mapping
from typing import Any, NoReturn

from hubdist.errors import ConfigError

_living: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
"""Every loaded model and part of one in this process."""

_forked = False
_SET_CLASS = object.__dict__["__class__"].__set__


def remember(part: Any) -> None:
    """Note a loaded model or a part of one, which will be of no use in a child of this process."""
    _watch()
    _living[id(part)] = part


def check_fork() -> None:
    """Make sure that TensorFlow can work in this process.

    Raises:
        ConfigError: This process was forked from one in which TensorFlow worked.
    """
    _watch()
    if _forked:
        _refuse()


@functools.cache
def _watch() -> None:
    os.register_at_fork(after_in_child=_end_models)


def _end_models() -> None:
    """In the child, right after the fork."""
    global _forked  # noqa: PLW0603 - a process is forked or it is not
    context = getattr(sys.modules.get("tensorflow.python.eager.context"), "_context", None)
    if getattr(context, "_context_handle", None) is None:
        return
    _forked = True
    for part in list(_living.values()):
        _SET_CLASS(part, ForkedMap if isinstance(part, Mapping) else Forked)


def _refuse(*_args: object, **_kwargs: object) -> NoReturn:
    raise ConfigError(
        "this process was forked from one in which TensorFlow had already worked, and TensorFlow would hang here",
        advice='Start processes with multiprocessing.get_context("spawn"), or fork before the first model is loaded.',
    )


class Forked:
    """What a loaded model becomes in such a process. Python's own questions, such as for its class, are answered."""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__") and name != "__call__":
            return object.__getattribute__(self, name)
        _refuse()

    __setattr__ = __call__ = __getitem__ = __reduce_ex__ = __deepcopy__ = __copy__ = _refuse


class ForkedMap(Mapping[str, Any], Forked):
    """The same for a model's signatures, whose objects have another layout."""

    __getattribute__ = Forked.__getattribute__
    __setattr__ = __call__ = __getitem__ = __reduce_ex__ = __deepcopy__ = __copy__ = _refuse
    __len__ = __iter__ = __contains__ = _refuse
