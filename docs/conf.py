"""How Sphinx makes the site from the pages in this folder: `make docs` writes it to build/docs.

The pages are plain Markdown that can be read on GitHub as well. So the navigation is made from the lists of `index.md`,
and links that lead out of this folder become links to the repository. Nothing here needs a network.
"""

import posixpath
import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).parent
REPOSITORY = DOCS.parent
sys.path.insert(0, str(REPOSITORY))

import hubdist  # noqa: E402 - the package beside these pages, whichever is installed

ON_GITHUB = "https://github.com/hubdist/hubdist"

project = "hubdist"
version = release = hubdist.__version__
author = "the hubdist authors"
copyright = author  # noqa: A001 - Sphinx's name

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
highlight_language = "text"
smartquotes = False  # options begin with two hyphens
nitpicky = False
myst_heading_anchors = 4
myst_enable_extensions = ["attrs_block"]

default_role = "code"  # docstrings mark code with single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signature shows them as they are written
autodoc_preserve_defaults = True
napoleon_use_rtype = False

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = f"hubdist {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "source_repository": f"{ON_GITHUB}/",
    "source_branch": "main",
    "source_directory": "docs/",
    "top_of_page_buttons": ["view"],
}
templates_path: list[str] = []

_FENCES = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?![a-z]+:|#)([^)\s]+)\)")
_ITEM = re.compile(r"^- +\[([^\]]+)\]\(((?!\.\./)[^)#\s]+)\.md\)(.*)$", re.MULTILINE)


def link_to_github(text: str, page: str) -> str:
    """Let links that lead out of docs/ lead to the repository.

    Args:
        text: A page's Markdown; blocks of code stay as they are.
        page: The page's name, such as `how-to/jobs`.
    """

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), found[1].partition("#")[0]))
        if target.startswith("docs/") and target.endswith((".md", ".svg", ".png")):
            return found[0]
        kind = "tree" if (REPOSITORY / target).is_dir() else "blob"
        anchor = found[1].partition("#")[2]
        return f"]({ON_GITHUB}/{kind}/main/{target}{'#' + anchor if anchor else ''})"

    parts, last = [], 0
    for fence in _FENCES.finditer(text):
        parts += [_LINK.sub(link, text[last : fence.start()]), fence[0]]
        last = fence.end()
    return "".join([*parts, _LINK.sub(link, text[last:])])


def navigation(index: str) -> str:
    """The tables of contents for the side bar: one for each section of the index, in the order of its list.

    Pages that the index does not list follow those of their folder.

    Args:
        index: The Markdown of `index.md`.
    """
    blocks = []
    listed = {found[2] for found in _ITEM.finditer(index)}
    for section in re.split(r"^## ", index, flags=re.MULTILINE)[1:]:
        pages = [found[2] for found in _ITEM.finditer(section)]
        folders = sorted({posixpath.dirname(page) for page in pages} - {"", "decisions"})
        names = (path.relative_to(DOCS).with_suffix("") for each in folders for path in (DOCS / each).glob("*.md"))
        pages += sorted({name.as_posix() for name in names} - listed)
        if pages:
            caption = section.partition("\n")[0]
            blocks.append("\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```"]))
    return "\n\n" + "\n\n".join(blocks) + "\n"


def decisions(index: str) -> str:
    """The table of contents of the decisions, for the side bar.

    Args:
        index: The Markdown of `decisions/README.md`.
    """
    pages = re.findall(r"\]\((\d{4}-[^)]+)\.md\)", index)
    return "\n".join(["\n\n```{toctree}", ":hidden:", "", *pages, "```\n"])


def on_source(_: Sphinx, page: str, source: list[str]) -> None:
    """Change a page's text between the file and the parser."""
    text = source[0]
    source[0] = link_to_github(text, page)
    if page == "index":
        source[0] += navigation(text)
    if page == "decisions/README":
        source[0] += decisions(text)


def write_llms_txt(app: Sphinx, error: Exception | None) -> None:
    """Write `llms.txt`: the pages of the site as Markdown, for programs that read it."""
    if error is not None or app.builder.name != "html":
        return
    lines = ["# hubdist", "", "> " + (hubdist.__doc__ or "").partition("\n")[0]]
    for section in re.split(r"^## ", (DOCS / "index.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        items = [f"- [{found[1]}](_sources/{found[2]}.md.txt){found[3]}" for found in _ITEM.finditer(section)]
        lines += ["", f"## {section.partition(chr(10))[0]}", "", *items] if items else []
    (Path(app.outdir) / "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def mark_code(_app: Sphinx, _what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Let indented examples in docstrings be blocks of Python, which Sphinx would take for quotations."""
    for number in range(len(lines) - 1, 0, -1):
        if lines[number].startswith("    ") and not lines[number - 1].strip():
            before = next((line for line in reversed(lines[:number]) if line.strip()), "")
            if before and not before.startswith(" "):
                lines[number:number] = [".. code-block:: python", ""]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register what this file adds to Sphinx."""
    app.connect("source-read", on_source)
    app.connect("autodoc-process-docstring", mark_code, priority=400)  # before napoleon, which takes 500
    app.connect("build-finished", write_llms_txt)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
