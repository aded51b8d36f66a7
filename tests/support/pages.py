"""The blocks of code and the commands in the Markdown pages of the documentation."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.support import REPOSITORY

PAGES = sorted(
    path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md"))
)
RUN = ("python", "pycon", "bash", "yaml")
"""The languages of blocks that are run."""

SHOWN = ("json", "text")
"""The languages of blocks that are only looked at."""

_FENCE = re.compile(r"^```(?P<language>[^\s`]*)\s*$")
_MARKER = re.compile(r"^<!-- not run: (?P<reason>.+) -->$")


@dataclass(frozen=True)
class Block:
    """A block between fences.

    Attributes:
        page: The page's path in the repository.
        line: The number of the block's first line in the page, from 1.
        language: What stands behind the opening fence.
        text: The lines between the fences.
        not_run: Why it is not run, as the line above it says; None if it is run.
    """

    page: str
    line: int
    language: str
    text: str
    not_run: str | None = None

    @property
    def place(self) -> str:
        """Page and line, for messages."""
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    """The blocks of a page of the repository, in their order."""
    return parse(page, (REPOSITORY / page).read_text(encoding="utf-8"))


def parse(page: str, text: str) -> list[Block]:
    """The blocks of a page; directives of Sphinx, such as `{eval-rst}`, are none.

    Args:
        page: The page's name.
        text: Its Markdown.
    """
    found: list[Block] = []
    lines = text.splitlines()
    begin: int | None = None
    language = ""
    for number, line in enumerate(lines):
        if begin is None and (fence := _FENCE.match(line)):
            begin, language = number, fence["language"]
        elif begin is not None and line == "```":
            if not language.startswith("{"):
                marker = _MARKER.match(lines[begin - 1]) if begin else None
                code = "".join(f"{each}\n" for each in lines[begin + 1 : number])
                found.append(Block(page, begin + 2, language, code, marker["reason"] if marker else None))
            begin = None
    if begin is not None:
        raise ValueError(f"{page}:{begin + 1}: a block has no end")
    return found


def indented(page: str) -> list[tuple[int, str]]:
    """The lines of a page that are indented as code outside of fences, with their numbers."""
    inside = False
    found = []
    for number, line in enumerate((REPOSITORY / page).read_text(encoding="utf-8").splitlines(), 1):
        inside ^= line.startswith("```")
        if not inside and line.startswith("    "):
            found.append((number, line[4:]))
    return found
