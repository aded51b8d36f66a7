"""Something is done when a module is imported: by whomever, once per execution, and nothing is imported for it."""

from __future__ import annotations

import importlib
import importlib.resources
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hubdist.integrations.import_watch import ImportWatch, unexplained

NAME = "watched_by_hubdist"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # else an edit within a second is not seen
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == NAME]:
        del sys.modules[name]


@pytest.fixture
def watch() -> Iterator[Callable[..., ImportWatch]]:
    made = []

    def make(
        imported: Callable[[], None], explained: Callable[[ImportError], ImportError | None] = unexplained
    ) -> ImportWatch:
        made.append(ImportWatch(NAME, imported, explained))
        made[-1].start()
        return made[-1]

    yield make
    for each in made:
        each.stop()
    assert not [finder for finder in sys.meta_path if isinstance(finder, ImportWatch)]


def write(folder: Path, text: str) -> None:
    (folder / f"{NAME}.py").write_text(text, encoding="utf-8")


def test_the_function_is_called_after_the_modules_own_code(folder: Path, watch: Callable[..., ImportWatch]) -> None:
    write(folder, "VALUE = 7")
    seen = []
    watch(lambda: seen.append(sys.modules[NAME].VALUE))
    assert NAME not in sys.modules

    importlib.import_module(NAME)
    importlib.import_module(NAME)

    assert seen == [7]


def test_a_reloaded_module_is_told_again(folder: Path, watch: Callable[..., ImportWatch]) -> None:
    write(folder, "VALUE = 1")
    seen = []
    watch(lambda: seen.append(sys.modules[NAME].VALUE))
    module = importlib.import_module(NAME)
    write(folder, "VALUE = 2")
    importlib.reload(module)
    assert seen == [1, 2]


def test_the_module_is_what_it_would_be_without_a_watch(folder: Path, watch: Callable[..., ImportWatch]) -> None:
    package = folder / NAME
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "data.txt").write_text("text", encoding="utf-8")
    (package / "part.py").write_text("", encoding="utf-8")
    watch(lambda: None)

    module = importlib.import_module(NAME)

    assert module.__spec__ is not None
    assert module.__spec__.loader is module.__loader__
    assert type(module.__loader__).__name__ == "SourceFileLoader"
    assert importlib.resources.files(NAME).joinpath("data.txt").read_text() == "text"
    assert importlib.import_module(f"{NAME}.part").__package__ == NAME


def test_to_look_for_the_module_is_not_to_import_it(folder: Path, watch: Callable[..., ImportWatch]) -> None:
    write(folder, "raise SystemError")
    watch(pytest.fail)
    found = importlib.util.find_spec(NAME)
    assert found is not None
    assert found.origin == str(folder / f"{NAME}.py")


def test_a_missing_module_is_missing_as_ever(folder: Path, watch: Callable[..., ImportWatch]) -> None:
    watch(pytest.fail, pytest.fail)
    with pytest.raises(ModuleNotFoundError, match=f"No module named '{NAME}'"):
        importlib.import_module(NAME)


def test_an_import_that_fails_is_explained_with_its_cause(folder: Path, watch: Callable[..., ImportWatch]) -> None:
    write(folder, "import a_part_that_is_gone")
    watch(pytest.fail, lambda error: ImportError(f"install {error.name}"))
    with pytest.raises(ImportError, match=r"^install a_part_that_is_gone$") as caught:
        importlib.import_module(NAME)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    assert NAME not in sys.modules


def test_an_import_error_that_nobody_explains_passes(folder: Path, watch: Callable[..., ImportWatch]) -> None:
    write(folder, "import a_part_that_is_gone")
    watch(pytest.fail)
    with pytest.raises(ModuleNotFoundError, match="No module named 'a_part_that_is_gone'"):
        importlib.import_module(NAME)


def test_a_stopped_watch_notices_nothing(folder: Path, watch: Callable[..., ImportWatch]) -> None:
    write(folder, "")
    made = watch(pytest.fail)
    made.start()
    made.stop()
    made.stop()
    importlib.import_module(NAME)
    assert not made.is_on
