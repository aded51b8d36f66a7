"""Links of the documentation lead somewhere, and log lines that it quotes are those of the code."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path

import pytest

import hubdist
from tests.support import REPOSITORY

PAGES = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for path in (
        *REPOSITORY.glob("*.md"),
        *(REPOSITORY / "docs").rglob("*.md"),
        *(REPOSITORY / "examples").rglob("*.md"),
    )
)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_MAX_README_LINES = 140


def read(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def links(page: str) -> list[str]:
    text = re.sub(r"^```.*?^```", "", read(page), flags=re.MULTILINE | re.DOTALL)
    return [link for link in _LINK.findall(text) if not re.match(r"[a-z]+:", link)]


def anchors(path: Path) -> set[str]:
    """The names that GitHub and mkdocs give to headings."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ +(.*?)\s*$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: str) -> None:
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (REPOSITORY / page).parent / name if name else REPOSITORY / page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page}: {link}"


def test_every_page_can_be_reached_from_the_index() -> None:
    found: set[Path] = set()
    todo = [REPOSITORY / "docs" / "index.md"]
    while todo:
        page = todo.pop().resolve()
        if page in found or page.suffix != ".md":
            continue
        found.add(page)
        todo += [page.parent / link.partition("#")[0] for link in links(str(page)) if link.partition("#")[0]]
    assert [page for page in PAGES if page.startswith("docs/") and REPOSITORY / page not in found] == []


def test_the_readme_is_a_first_page() -> None:
    lines = read("README.md").splitlines()
    assert len(lines) <= _MAX_README_LINES
    assert {"    make demo", "    make test"} <= set(lines[:40])


def strings() -> str:
    """All texts of the code, with `<>` for what is filled in."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (REPOSITORY / "hubdist").rglob("*.py")]
    texts = [
        node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return re.sub(r"%(?:\.\d+)?[sdfg]", "<>", "\n".join(texts))


def test_the_log_lines_of_the_reference_are_those_of_the_code() -> None:
    quoted = re.findall(
        r"^\| `([^`]*)` \| (?:warning|info|error)", read("docs/reference/log-lines.md"), flags=re.MULTILINE
    )
    code = strings()
    assert len(quoted) > 20
    assert [line for line in quoted if re.sub(r"<[^>]*>", "<>", line) not in code] == []


def messages(page: str) -> list[str]:
    """The messages that a page quotes: indented lines up to a blank one, each from its class or `hubdist:` on."""
    quoted = re.findall(r"(?:^    \S.*\n)+", read(page), flags=re.MULTILINE)
    one = re.compile(r"(?=\b[A-Z]\w+Error: |\bhubdist: )")
    return [part.strip() for text in quoted for part in one.split(" ".join(text.split())) if part.strip()]


def test_the_messages_of_troubleshooting_are_those_of_the_code() -> None:
    code = " ".join(re.sub(r"\W+", " ", strings()).split())
    found = messages("docs/operations/troubleshooting.md")
    assert len(found) > 12
    for message in found:
        kind, _, text = message.rpartition("Error: ")
        assert not kind or hasattr(hubdist.errors, f"{kind}Error"), message
        # Words in a row, without names, numbers and paths that differ each time.
        plain = [re.findall(r"[A-Za-z_]+", part) for part in re.split(r"\S*[\d/]\S*|\S+\.\S+|\.\.\.|`", text)]
        length = 3 if sum(map(len, plain)) > 6 else 2
        rows = [" ".join(part[at : at + length]) for part in plain for at in range(len(part) - length + 1)]
        unknown = [row for row in rows if row not in code]
        assert len(unknown) <= len(rows) / length, f"{message}: {unknown}"  # words where a text was filled in


@pytest.mark.parametrize("page", ["commands", "errors"])
def test_the_reference_is_what_its_script_writes(page: str) -> None:
    scope = runpy.run_path(str(REPOSITORY / "docs" / "make_reference.py"))
    assert scope[f"{page}_page"]() == read(f"docs/reference/{page}.md")  # else: make configs


def test_every_error_says_what_to_do() -> None:
    families = {"HubdistError", "ResolveError", "TransferError"}
    kinds = {name: kind for name, kind in vars(hubdist.errors).items() if name.endswith("Error")}
    assert len(kinds) > 20
    silent = {
        name for name, kind in kinds.items() if not re.search(r"^ *What to do: [A-Z]", kind.__doc__, re.MULTILINE)
    }
    assert silent == families


def test_what_the_pages_call_is_there() -> None:
    pages = [read("README.md"), *(path.read_text(encoding="utf-8") for path in (REPOSITORY / "docs").rglob("*.md"))]
    objects = {"hubdist": hubdist, "report": hubdist.Report, "plan": hubdist.Plan, "status": hubdist.Status}
    called = {found for page in pages for found in re.findall(r"\b(hubdist|report|plan|status)\.([a-z_]+)\(", page)}
    assert len(called) > 10
    assert sorted(f"{of}.{name}" for of, name in called if not hasattr(objects[of], name)) == []
