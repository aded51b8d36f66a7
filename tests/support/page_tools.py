"""The programs that commands of the documentation's pages name, for a directory at the head of `PATH`."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from tests.support import REPOSITORY


def make_tools(folder: Path) -> Path:
    """Programs by the names that pages use: the command of this repository, this Python, and a pip that only looks."""
    folder.mkdir()
    pip = (
        f'import sys; sys.path.insert(0, "{REPOSITORY}"); from tests.support.page_tools import look; look(sys.argv[1:])'
    )
    for name, arguments in {"hubdist": '-m hubdist "$@"', "python": '"$@"', "pip": f"-c '{pip}' \"$@\""}.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\nexec {sys.executable} {arguments}\n", encoding="utf-8")
        path.chmod(0o755)
    return folder


def look(arguments: list[str]) -> None:
    """Stand for `pip install`: what is to be installed is this package, with extras that it has.

    Raises:
        ValueError: It is not.
    """
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for text in arguments[1:]:
        requirement = Requirement(text)
        if requirement.name != project["name"] or requirement.extras - set(project["optional-dependencies"]):
            raise ValueError(f"pip {' '.join(arguments)}: {project['name']} has no such extra")
