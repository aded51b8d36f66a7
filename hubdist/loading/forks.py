"""Processes that were forked after TensorFlow had begun to work: models raise an error there instead of hanging.

A fork does not copy TensorFlow's threads, so the first op that needs one waits for ever in the child. A process that
imported TensorFlow before the fork, but had run no op, is fine: TensorFlow works in its child.
"""

from __future__ import annotations

import functools
import os
import sys
import weakref
from collections.abc import Mapping
from typing import Any, NoReturn

from hubdist.errors import ConfigError
from hubdist.loading.state.parts import set_class

_living: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
"""Every loaded model in this process, and every part of one that a user may hold."""

_forked = False


def remember(part: Any) -> None:
    """Note a loaded model, or a part of one, so that it becomes unusable in forked children of this process."""
    _watch()
    # By id, and not in a WeakSet: a part may compare by value, or have no hash.
    _living[id(part)] = part


def check_fork() -> None:
    """Check that TensorFlow can work in this process.

    Raises:
        ConfigError: This process was forked from one in which TensorFlow had worked.
    """
    _watch()
    if _forked:
        _refuse()


@functools.cache
def _watch() -> None:
    os.register_at_fork(after_in_child=_disable_models)


def _disable_models() -> None:
    """Make all models unusable; Python calls this in the child right after the fork."""
    global _forked  # noqa: PLW0603 - a process is forked or it is not
    context = getattr(sys.modules.get("tensorflow.python.eager.context"), "_context", None)
    # TensorFlow starts its threads with the context's handle; before that a fork does no harm.
    if getattr(context, "_context_handle", None) is None:
        return
    _forked = True
    for part in list(_living.values()):
        set_class(part, ForkedMap if isinstance(part, Mapping) else Forked)


def _refuse(*_args: object, **_kwargs: object) -> NoReturn:
    raise ConfigError(
        "this process was forked from one in which TensorFlow had already worked, and TensorFlow would hang here",
        advice='Start processes with multiprocessing.get_context("spawn"), or fork before the first model is loaded.',
    )


class Forked:
    """The class of a loaded model in a forked process: every use raises an error, but Python can still inspect it."""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__") and name != "__call__":
            return object.__getattribute__(self, name)
        _refuse()

    __setattr__ = __call__ = __getitem__ = __reduce_ex__ = __deepcopy__ = __copy__ = _refuse


class ForkedMap(Mapping[str, Any], Forked):
    """The class of a model's signatures in a forked process; Python lets them take a class of the same layout only."""

    __getattribute__ = Forked.__getattribute__
    __setattr__ = __call__ = __getitem__ = __reduce_ex__ = __deepcopy__ = __copy__ = _refuse
    __len__ = __iter__ = __contains__ = _refuse
