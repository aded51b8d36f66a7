"""How long the coordinator's process lives, and what its methods raise: for `coordinator.py`."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from hubdist.cluster.calls import unexpected_error
from hubdist.errors import HubdistError

_MAX_LOOK_S = 15.0

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Lifetime:
    """Measures how long an actor has had no work. The clock starts with the actor, and stands still during work."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._running = 0
        self._since = time.monotonic()

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """Count the block as work."""
        with self._guard:
            self._running += 1
        try:
            yield
        finally:
            with self._guard:
                self._running -= 1
                self._since = time.monotonic()

    @property
    def idle_s(self) -> float:
        """Seconds without work; 0 while there is some."""
        with self._guard:
            return 0.0 if self._running else time.monotonic() - self._since

    def end_when_idle(self, limit_s: Callable[[float], float], end: Callable[[], None]) -> None:
        """End the actor once it has had no work for long. A thread watches, so an actor that nobody calls ends too.

        Args:
            limit_s: Gets the seconds without work so far; returns after how many of them the actor has to end.
            end: Ends the actor.
        """

        def watch() -> None:
            look = threading.Event()
            while True:
                idle = self.idle_s
                left = limit_s(idle) - idle
                if left <= 0:
                    end()
                    return
                look.wait(min(max(left, 0.5), _MAX_LOOK_S))

        threading.Thread(target=watch, name="hubdist-life", daemon=True).start()


class _Living(Protocol):
    _life: Lifetime


_Actor = TypeVar("_Actor", bound=_Living)


def answering(
    method: Callable[Concatenate[_Actor, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[_Actor, _P], Coroutine[Any, Any, _T]]:
    """Make a method callable from other processes: it counts as work, and raises only errors of hubdist."""

    @functools.wraps(method)
    async def answer(self: _Actor, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with self._life.work():
            try:
                return await method(self, *args, **kwargs)
            except HubdistError:
                raise
            except Exception as error:  # noqa: BLE001 - the actor's boundary: callers get errors with a type
                # `from None`: callers must not see the text of the unknown error, which may hold a secret.
                raise unexpected_error(error, f"the coordinator answered `{method.__name__}`") from None

    return answer
