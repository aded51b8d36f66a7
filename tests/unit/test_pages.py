"""The code in the pages is well written where it cannot run; `tests/cluster/test_pages.py` runs what can."""

from __future__ import annotations

import doctest
import re
import subprocess
import textwrap

import pytest
import yaml

from tests.support import REPOSITORY
from tests.support.pages import PAGES, RUN, SHOWN, Block, blocks, indented, parse

ALL = [block for page in PAGES for block in blocks(page)]
NOT_RUN = [block for block in ALL if block.not_run]
PROGRAMS = ("cd", "git", "gsutil", "hubdist", "kubectl", "ls", "make", "pip", "python", "ray", "sudo")


def ids(found: list[Block]) -> list[str]:
    return [block.place for block in found]


def test_blocks_have_their_lines_and_reasons() -> None:
    page = "# Title\n\n```python\na = 1\n```\n\n<!-- not run: needs a moon -->\n```bash\nfly\n```\n"
    page += "\n```{toctree}\nx\n```\n"
    assert parse("page.md", page) == [
        Block("page.md", 4, "python", "a = 1\n"),
        Block("page.md", 9, "bash", "fly\n", "needs a moon"),
    ]


def test_a_block_without_an_end_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"page\.md:2: a block has no end"):
        parse("page.md", "\n```bash\nls\n")


@pytest.mark.parametrize("block", ALL, ids=ids(ALL))
def test_a_block_names_its_language(block: Block) -> None:
    assert block.language in (*RUN, *SHOWN), f"{block.place}: {block.language!r}"


def test_commands_stand_in_blocks_that_are_run() -> None:
    loose = [
        f"{page}:{number}: {line}"
        for page in PAGES
        for number, line in indented(page)
        if line.split()[0] in PROGRAMS and line not in ("make demo", "make test")  # what CI runs
    ]
    assert loose == []


def test_blocks_that_only_show_something_hold_no_commands() -> None:
    shown = [block for block in ALL if block.language in SHOWN and not block.page.startswith("docs/reference/commands")]
    assert [block.place for block in shown if block.text.split()[0] in PROGRAMS] == []


@pytest.mark.parametrize("block", NOT_RUN, ids=ids(NOT_RUN))
def test_what_is_not_run_can_be_parsed(block: Block) -> None:
    assert re.search(r"\w \w", block.not_run or ""), f"{block.place}: say why"
    if block.language == "python":
        compile(block.text, block.place, "exec")
    elif block.language == "pycon":
        assert doctest.DocTestParser().get_examples(block.text)
    elif block.language == "yaml":
        yaml.safe_load(block.text)
    else:
        parsed = subprocess.run(
            ["bash", "-n"], input=block.text, text=True, capture_output=True, check=False, timeout=9
        )
        assert parsed.returncode == 0, f"{block.place}: {parsed.stderr}"


@pytest.mark.parametrize("block", NOT_RUN, ids=ids(NOT_RUN))
def test_what_is_not_run_names_files_and_options_that_are_there(block: Block) -> None:
    for name in re.findall(r"\b(?:benchmarks|configs|examples|docs)/[\w./-]+", block.text):
        assert (REPOSITORY / name).exists(), f"{block.place}: {name}"
    for script, options in re.findall(r"python ((?:benchmarks|examples|docs)/\S+\.py)(.*)", block.text):
        program = (REPOSITORY / script).read_text(encoding="utf-8")
        for option in re.findall(r"--[\w-]+", options.partition("#")[0]):
            assert f'"{option}"' in program, f"{block.place}: {script} knows no {option}"


def test_most_blocks_are_run() -> None:
    programs = [block for block in ALL if block.language in ("python", "yaml")]
    assert len([block for block in programs if block.not_run is None]) > 0.8 * len(programs) > 25


def test_a_page_that_quotes_a_picture_names_its_script() -> None:
    drawn = {path.stem for path in (REPOSITORY / "docs" / "pictures").glob("*.svg")}
    script = (REPOSITORY / "docs" / "make_pictures.py").read_text(encoding="utf-8")
    functions = {name.replace("_", "-") for name in re.findall(r"^def (\w+)\(stage: Stage\)", script, re.MULTILINE)}
    quoted = {name for page in PAGES for name in re.findall(r"pictures/([\w-]+)\.svg", (REPOSITORY / page).read_text())}
    assert drawn == functions >= quoted, textwrap.shorten(f"{drawn} {functions} {quoted}", 200)
