"""Puts a function among those that Ray calls when a worker starts, for integrations: one that is there already is kept.

Ray has room for one, the `worker_process_setup_hook` of a `runtime_env`: the name of a function, or a function.
Source: ray 2.60.0, `ray/_private/runtime_env/setup_hook.py`; a name is `package.module.function`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from hubdist.errors import ConfigError

_KEY = "worker_process_setup_hook"
_CALLED = "called_hooks"
"""The attribute of a combined function that holds what it calls."""

_Hook = str | Callable[[], object]


def with_setup_hook(runtime_env: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
    """A copy of a `runtime_env` with which workers call one more function when they start.

    Args:
        runtime_env: What there is so far; None means nothing. The function that it names is called first.
        name: The full name of the function to call. If it is called already, nothing is added.
    """
    given = dict(runtime_env or {})
    there: _Hook | None = given.get(_KEY)
    hooks: tuple[_Hook, ...] = () if there is None else getattr(there, _CALLED, (there,))
    if name not in hooks:
        given[_KEY] = _combined((*hooks, name)) if hooks else name
    return given


def _combined(hooks: tuple[_Hook, ...]) -> Callable[[], None]:
    """One function that calls several; Ray pickles it, and shows its name."""

    def setup_hook() -> None:
        for hook in hooks:
            (_function(hook) if isinstance(hook, str) else hook)()

    setattr(setup_hook, _CALLED, hooks)
    return setup_hook


def _function(name: str) -> Callable[[], object]:
    """The function with a full name, looked up as Ray looks it up.

    Raises:
        ConfigError: The name is not that of a function in a module.
    """
    user_module, _, function = name.rpartition(".")
    found = getattr(import_module(user_module), function, None) if user_module else None
    if not callable(found):
        raise ConfigError(
            f"worker_process_setup_hook {name!r} is not the name of a function",
            advice="Write package.module.function.",
        )
    return found  # type: ignore[no-any-return]  # what a user's module holds
