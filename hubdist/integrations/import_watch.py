"""Acts when a module of another library is imported, without importing it: for what every Ray worker installs.

A worker that never imports the library pays for one more object in `sys.meta_path`, and for nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def unexplained(_: ImportError) -> None:
    """For an ImportWatch that lets each ImportError pass."""


class ImportWatch(MetaPathFinder):
    """Calls a function each time after a module has been executed: at its import, and when it is reloaded.

    Args:
        name: The full name of the module.
        imported: Is called in the thread that imports, right after the module's own code, unless the watch was stopped
            meanwhile.
        explained: Is called with the ImportError that the module's own code raised; returns the error to raise in its
            place, or None to let it pass.
    """

    def __init__(
        self,
        name: str,
        imported: Callable[[], None],
        explained: Callable[[ImportError], ImportError | None] = unexplained,
    ) -> None:
        self._name = name
        self._imported = imported
        self._explained = explained

    @property
    def is_on(self) -> bool:
        """True between `start` and `stop`."""
        return self in sys.meta_path

    def start(self) -> None:
        """Watch imports from now on. A module that is imported already is not noticed."""
        if not self.is_on:
            sys.meta_path.insert(0, self)

    def stop(self) -> None:
        """Watch no more."""
        if self.is_on:
            sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the other finders find for the module, with a loader that tells this watch; None for other modules.

        Args:
            fullname: The name of a module that is imported.
            path: Where to look for a part of a package; None for a module that is no part of one.
            target: The module that is reloaded, or None.
        """
        if fullname != self._name:
            return None
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find is None else find(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:  # None: a directory without __init__.py, which has no code to wait for
                    spec.loader = _TellingLoader(spec.loader, self._tell, self._explained)
                return spec
        return None

    def _tell(self) -> None:
        if self.is_on:
            self._imported()


class _TellingLoader(Loader):
    """Lets another loader make and execute a module, and tells of it.

    Args:
        loader: The module's own loader.
        imported: As for `ImportWatch`.
        explained: As for `ImportWatch`.
    """

    def __init__(
        self, loader: Loader, imported: Callable[[], None], explained: Callable[[ImportError], ImportError | None]
    ) -> None:
        self._loader = loader
        self._imported = imported
        self._explained = explained

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """What the module's own loader makes of the spec."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module by its own loader, which from now on is the module's loader for everybody.

        Raises:
            ImportError: The module's own code raised one; perhaps another one that explains it.
        """
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        try:
            self._loader.exec_module(module)
        except ImportError as error:
            explanation = self._explained(error)
            if explanation is None:
                raise
            raise explanation from error
        self._imported()
