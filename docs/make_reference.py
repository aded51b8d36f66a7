"""Write the pages of the reference that come from the code: the commands and the errors.

    python docs/make_reference.py commands > docs/reference/commands.md
    python docs/make_reference.py errors > docs/reference/errors.md

`make configs` does both. Commands come from click, exit codes and hints from `hubdist.cli.exits`, errors from their
classes in `hubdist.errors`.
"""

import ast
import inspect
import itertools
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator

import click

from hubdist import errors
from hubdist.cli import exits
from hubdist.cli.command import Command
from hubdist.cli.main import hubdist_command
from hubdist.cli.session import session_options
from hubdist.errors import HubdistError

_WIDTH = 120

_COMMANDS = """\
# Commands

<!-- `make configs` writes this page from hubdist/cli. -->

`hubdist` does from a terminal, a script or `ray job submit` what the library does. [How](../how-to/terminal.md).

Results go to standard output, all else to standard error. Where a command gives a path, it is the last line.
"""

_ERRORS = """\
# Errors

<!-- `make configs` writes this page from hubdist/errors.py and hubdist/cli/exits.py. -->

All errors are `hubdist.HubdistError`. They name what happened, the handle, the node and what to do, and they reach the
calling task with their type. The classes are in `hubdist.errors`. Where Python has an error for the same thing, the
error is also one of those, so code that knows nothing of hubdist handles it well.

Secrets are not in these texts: passwords, query values and fragments of URLs are replaced by `***`, and texts of other
libraries are not quoted. Errors that TensorFlow raises while it loads, for example for tags that the model lacks, come
unchanged.

[Why an origin cannot be read](origin-failures.md) lists the causes and which of them are tried again;
[troubleshooting](../operations/troubleshooting.md) begins with what you see.
"""

_NOT_RUN = {
    "--watch": "ends with Ctrl-C only",
    "| jq": "needs jq",
    "session_latest": "needs a job of that number",
    "--job 01000000": "needs a job of that number",
    "--where shared": "needs a shared cache",
    "9f86d081": "needs a model with that digest",
    "old-model": "needs that model",
    "ssh ": "needs another machine",
    "/shared/": "needs that file",
    "grafana --install": "needs a head node with its dashboard",
    "zsh": "needs zsh",
    "fish": "needs fish",
}
"""What is in examples that the tests cannot run, and why."""

_FIELDS = """\
Every error has the fields `what`, `handle`, `node` and `advice`, which are None where nothing is to say.
"""


def commands_page() -> str:
    """The page of the commands."""
    commands = list(walk(hubdist_command, ("hubdist",)))
    shared = {name for option in shared_options() for name in option.opts}
    parts = [_COMMANDS, "| command | what it does |\n| --- | --- |\n"]
    parts[-1] += "".join(f"| [`{name}`](#{slug(name)}) | {cell(short(command))} |\n" for name, command in commands)
    parts.append("## Exit codes\n")
    parts.append("| code | name | meaning |\n| --- | --- | --- |\n" + "".join(exit_rows()))
    parts.append("## Options of every command\n\n" + option_table(Command("any").params))
    parts.append("## Options of commands that use a cluster or settings\n\n" + option_table(session_parameters()))
    for name, command in commands:
        parts.append(f"## `{name}`\n")
        parts.append(paragraphs(command))
        usage = " ".join(command.collect_usage_pieces(click.Context(command)))
        parts.append(f"```text\n{name} {usage}\n```\n")
        own = [
            option
            for option in command.params
            if isinstance(option, click.Option) and not option.hidden and not shared & set(option.opts)
        ]
        if own:
            parts.append(option_table(own))
        parts += example_blocks(getattr(command, "examples", ()))
    return "\n".join(parts)


def example_blocks(examples: Iterable[str]) -> Iterator[str]:
    """Blocks of the examples: those that the tests run, and those that they do not, with the reason."""
    by_reason: dict[str | None, list[str]] = {None: []}
    for example in examples:
        reason = next((why for part, why in _NOT_RUN.items() if part in example), None)
        by_reason.setdefault(reason, []).append(example)
    for reason, lines in by_reason.items():
        if lines:
            marker = "" if reason is None else f"<!-- not run: {reason} -->\n"
            yield f"{marker}```bash\n" + "\n".join(lines) + "\n```\n"


def walk(group: click.Group, names: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
    """Every command below a group, with its whole name, in the group's order.

    Args:
        group: A group of click.
        names: The names that lead to the group.
    """
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from walk(command, (*names, name))
        elif not command.hidden:
            yield " ".join((*names, name)), command


def session_parameters() -> list[click.Parameter]:
    """The options that `session_options` gives a command."""
    return click.command(session_options(lambda: None)).params


def shared_options() -> list[click.Parameter]:
    """The options that are described once for all commands."""
    return [*Command("any").params, *session_parameters()]


def option_table(options: list[click.Option]) -> str:
    """A table of options, with their defaults."""
    rows = ["| option | meaning |", "| --- | --- |"]
    for option in options:
        names, text = option.get_help_record(click.Context(Command("any"))) or ("", "")
        rows.append(f"| `{names.replace('|', ', ')}` | {cell(text)} |")
    return "\n".join(rows) + "\n"


def exit_rows() -> Iterator[str]:
    """The rows of the exit codes: the text below each in the code is its meaning."""
    (body,) = (
        node.body
        for node in ast.parse(inspect.getsource(exits)).body
        if isinstance(node, ast.ClassDef) and node.name == "Exit"
    )
    for code, text in itertools.pairwise(body):
        if isinstance(code, ast.Assign) and isinstance(text, ast.Expr):
            name = ast.unparse(code.targets[0])
            yield f"| {int(exits.Exit[name])} | `{name}` | {ast.literal_eval(text.value)} |\n"


def errors_page() -> str:
    """The page of the errors."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HubdistError)]
    parts = [_ERRORS, "| error | exit code | meaning |\n| --- | --- | --- |\n"]
    parts[-1] += "".join(
        f"| [`{kind.__name__}`](#{slug(kind.__name__)}) | {int(exits.exit_code(made(kind)))} "
        f"| {cell(sections(kind)[0]).removesuffix('.')} |\n"
        for kind in kinds
    )
    parts.append("The exit code is that of [the command](commands.md#exit-codes).\n")
    parts.append(_FIELDS)
    for kind in kinds:
        parts += [f"## `{kind.__name__}`\n", *error_parts(kind)]
    return "\n".join(parts)


def error_parts(kind: type[HubdistError]) -> Iterator[str]:
    """What the page says of one error: what it means, what it is, what to do."""
    for section in sections(kind):
        if section.startswith("Attributes:"):
            yield "".join(f"- `{name}`: {text}\n" for name, text in attributes(section) if name not in _OF_ALL)
        else:
            yield fill(re.sub(r"^What to do:", "**What to do:**", section))
    bases = [base.__name__ for base in kind.__bases__ if base is not Exception]
    families = " and a ".join(
        f"[`{name}`](#{slug(name)})" if hasattr(errors, name) else f"`{name}` of Python" for name in bases
    )
    code = exits.exit_code(made(kind))
    yield fill((f"It is a {families}. " if families else "") + f"Exit code: {int(code)} (`{code.name}`).")
    hint = exits.hint(made(kind))
    if hint is not None:
        yield fill(f"The command's hint: {hint}")


_OF_ALL = ("what", "handle", "node", "advice")


def sections(kind: type[HubdistError]) -> list[str]:
    """The paragraphs of a class's description, with `What to do:` at the end of them."""
    found = inspect.cleandoc(kind.__doc__ or "").split("\n\n")
    return sorted(found, key=lambda text: text.startswith("What to do:"))


def attributes(section: str) -> list[tuple[str, str]]:
    """Name and description of each attribute that an `Attributes:` section lists."""
    body = textwrap.dedent(section.partition("\n")[2])
    entries = re.findall(r"^(\w+): (.*(?:\n .*)*)", body, flags=re.MULTILINE)
    return [(name, " ".join(text.split())) for name, text in entries]


def made(kind: type[HubdistError]) -> HubdistError:
    """An error of a class, without what its constructor would want."""
    error = kind.__new__(kind)
    error.advice = None
    return error


def short(command: click.Command) -> str:
    """The first sentence of a command's help."""
    return inspect.cleandoc(command.help or "").partition("\n\n")[0]


def paragraphs(command: click.Command) -> str:
    """A command's help as Markdown."""
    return "\n".join(fill(text) for text in inspect.cleandoc(command.help or "").replace("\b\n", "").split("\n\n"))


def fill(text: str) -> str:
    """A paragraph in lines of the width of the pages."""
    return textwrap.fill(" ".join(text.split()), _WIDTH, break_long_words=False, break_on_hyphens=False) + "\n"


def cell(text: str) -> str:
    """A text as a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def slug(title: str) -> str:
    """The anchor of a heading."""
    return title.lower().replace(" ", "-")


if __name__ == "__main__":
    sys.stdout.write({"commands": commands_page, "errors": errors_page}[sys.argv[1]]())
