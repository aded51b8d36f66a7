"""How long the coordinator lives, and the boundary of its methods."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from hubdist.errors import HubdistError, PeerError

_LOG = logging.getLogger(__name__)
_MAX_LOOK_S = 15.0

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Lifetime:
    """Counts what an actor has to do. Its clock starts with it, and stands while there is work."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._running = 0
        self._since = time.monotonic()

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """There is work for as long as the block runs."""
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
        """Watch from a thread of its own, so that an actor that was made and never asked ends too.

        Args:
            limit_s: Of the seconds without work so far: after how many seconds without work the actor shall end.
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
    """Make a method one that others call: it counts as work, and all that it raises is an error of hubdist."""

    @functools.wraps(method)
    async def answer(self: _Actor, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with self._life.work():
            try:
                return await method(self, *args, **kwargs)
            except HubdistError:
                raise
            except Exception as error:  # noqa: BLE001 - the actor's boundary: callers get errors with a type
                where = "".join(traceback.format_tb(error.__traceback__))  # not its text, which may hold a secret
                _LOG.error("hubdist: unexpected %s in %s:\n%s", type(error).__name__, method.__name__, where)
                raise PeerError(
                    f"unexpected {type(error).__name__} in the coordinator's {method.__name__}",
                    advice="The coordinator's log has more. It is a fault of hubdist: please report it.",
                ) from None

    return answer
