"""What each `install` of these integrations does: something takes its place in another library, until it is taken away.

It is put there once in a process, when the program has imported the library and not before, and in Ray's workers by
the function that they call when they start.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from hubdist.integrations.import_watch import ImportWatch, unexplained
from hubdist.integrations.setup_hooks import with_setup_hook


class Seam(Protocol):
    """A place in another library where hubdist answers.

    Attributes:
        module: The full name of the module that must be imported before the place is there.
    """

    module: str

    def put(self) -> None:
        """Put hubdist there; the module is imported. Called again when the module is reloaded."""

    def take_away(self) -> None:
        """Let the place be what it was; the module is imported."""


class Installation:
    """hubdist behind a library, in this process and in workers. Safe for several threads.

    Args:
        hook: The full name of the function that workers call when they start; it calls `install`.
        *seams: The places in the library.
        explained: As for `ImportWatch`.
    """

    def __init__(
        self, hook: str, *seams: Seam, explained: Callable[[ImportError], ImportError | None] = unexplained
    ) -> None:
        self._hook = hook
        self._guard = threading.Lock()
        self._watched = [(seam, ImportWatch(seam.module, seam.put, explained)) for seam in seams]

    def install(self) -> None:
        """Put hubdist in each place, now or when its module is imported; nothing if that is done already."""
        with self._guard:
            for seam, watch in self._watched:
                if not watch.is_on:
                    watch.start()
                    if seam.module in sys.modules:
                        seam.put()

    def uninstall(self) -> None:
        """Take hubdist away from each place."""
        with self._guard:
            for seam, watch in self._watched:
                watch.stop()
                if seam.module in sys.modules:
                    seam.take_away()

    def install_everywhere(self, runtime_env: Mapping[str, Any] | None) -> dict[str, Any]:
        """Install here, and name the hook for the workers.

        Args:
            runtime_env: As for `with_setup_hook`.

        Returns:
            The `runtime_env` for `ray.init`.
        """
        self.install()
        return with_setup_hook(runtime_env, self._hook)


class RegisteredResolver:
    """A seam where a library keeps a list of resolvers, and asks the one that was added last first.

    Source: tensorflow_hub 0.16.1 and kagglehub 1.0.2, `registry.py`. They have no public way to take one away.

    Args:
        module: The full name of the library.
        resolver: What is added.
        registry: Returns the library's registry; called once the library is imported.
    """

    def __init__(self, module: str, resolver: object, registry: Callable[[], Any]) -> None:
        self.module = module
        self._resolver = resolver
        self._registry = registry

    def put(self) -> None:
        """Add the resolver, unless it is in the list."""
        registry = self._registry()
        if self._resolver not in registry._impls:
            registry.add_implementation(self._resolver)

    def take_away(self) -> None:
        """Make a list without the resolver; whoever is going through the old one is not disturbed."""
        registry = self._registry()
        registry._impls = [each for each in registry._impls if each is not self._resolver]
