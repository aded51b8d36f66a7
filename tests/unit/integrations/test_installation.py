"""Something takes its place in another library once, when the program imports it, and is taken away again."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hubdist.integrations.installation import Installation, RegisteredResolver

LIBRARY = "hubdist_test_library"
_REGISTRY = """
class Registry:
    def __init__(self):
        self._impls = ["its own"]

    def add_implementation(self, one):
        self._impls.append(one)

resolvers = Registry()
"""


@pytest.fixture(autouse=True)
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / f"{LIBRARY}.py").write_text(_REGISTRY, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop(LIBRARY, None)


@pytest.fixture
def installation() -> Iterator[Installation]:
    made = Installation("package.install", RegisteredResolver(LIBRARY, "hubdist's", lambda: _imported().resolvers))
    yield made
    made.uninstall()


def _imported() -> Any:
    return importlib.import_module(LIBRARY)


def test_it_waits_until_the_program_imports_the_library(installation: Installation) -> None:
    installation.install()
    assert LIBRARY not in sys.modules
    assert _imported().resolvers._impls == ["its own", "hubdist's"]


def test_a_library_that_is_imported_already_is_changed_at_once(installation: Installation) -> None:
    registry = _imported().resolvers
    installation.install()
    assert registry._impls == ["its own", "hubdist's"]


def test_it_is_put_in_place_once(installation: Installation) -> None:
    installation.install()
    installation.install()
    registry = _imported().resolvers
    installation.install()
    assert registry._impls == ["its own", "hubdist's"]


def test_what_is_taken_away_is_gone_and_comes_back(installation: Installation) -> None:
    installation.install()
    registry = _imported().resolvers
    installation.uninstall()
    assert registry._impls == ["its own"]
    installation.install()
    assert registry._impls == ["its own", "hubdist's"]


def test_what_is_taken_away_before_the_import_is_never_put_and_imports_nothing(installation: Installation) -> None:
    installation.install()
    installation.uninstall()
    assert LIBRARY not in sys.modules
    assert _imported().resolvers._impls == ["its own"]


def test_what_is_taken_away_while_the_library_is_imported_is_not_put(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "taken_away_by_the_library", installation.uninstall, raising=False)
    path = tmp_path / f"{LIBRARY}.py"
    path.write_text(f"{_REGISTRY}\nimport sys\nsys.taken_away_by_the_library()\n", encoding="utf-8")
    installation.install()
    assert _imported().resolvers._impls == ["its own"]


def test_everywhere_is_here_and_the_hook_for_workers(installation: Installation) -> None:
    given = {"env_vars": {"A": "1"}}
    assert installation.install_everywhere(given) == {**given, "worker_process_setup_hook": "package.install"}
    assert _imported().resolvers._impls == ["its own", "hubdist's"]
