"""What commands print, and where: one contract for people, scripts and other programs.

Results go to standard output; progress, notes, warnings and errors go to standard error. `--format` chooses how results
look:

- `human`: text and tables, coloured on a terminal, whole in a pipe;
- `json`: one JSON document;
- `quiet`: the bare values, one a line: paths, digests, names;
- `auto`: `human`.

Where a command's result is a path, the path is the last line in every format but `json`.
"""

from __future__ import annotations

import enum
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from hubdist.errors import HubdistError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

WIDE = 1 << 14
"""Columns of a pipe, in which no cell is cut or wrapped."""


class Form(enum.StrEnum):
    """What results look like."""

    AUTO = "auto"
    HUMAN = "human"
    JSON = "json"
    QUIET = "quiet"


@dataclass(frozen=True)
class Table:
    """A table of texts for people.

    Attributes:
        columns: The headings. Those that end in `>` are printed without it, and their cells stand right.
        rows: The cells of each row, from left to right.
        styles: Row number -> colour of the row, in rich's words.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    styles: Mapping[int, str] = field(default_factory=dict)

    def rich(self) -> RichTable:
        """The table as rich draws it."""
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=None, pad_edge=False, header_style="bold")
        for column in self.columns:
            table.add_column(column.rstrip(">"), justify="right" if column.endswith(">") else "left", overflow="fold")
        for number, row in enumerate(self.rows):
            table.add_row(*map(Text, row), style=self.styles.get(number))
        return table


class Output:
    """Prints a command's results and everything else.

    Args:
        form: What results look like.
        out: Where results go.
        err: Where all else goes.
    """

    def __init__(self, form: Form = Form.AUTO, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.form = Form.HUMAN if form is Form.AUTO else form
        self._out = out or sys.stdout
        self._err = err or sys.stderr

    @property
    def quiet(self) -> bool:
        """True if only bare values are wanted, and no progress."""
        return self.form is Form.QUIET

    @property
    def live(self) -> bool:
        """True if somebody watches: progress may be drawn on standard error."""
        return not self.quiet and self._err.isatty()

    def give(self, human: str | Table | Sequence[str | Table], record: Any, values: Sequence[str] = ()) -> None:
        """Print a command's result; each command does so once.

        Args:
            human: Texts and tables for people.
            record: What JSON can hold.
            values: The bare values: the last lines for people too if the command gives `paths`.
        """
        if self.form is Form.JSON:
            json.dump(record, self._out, indent=2, ensure_ascii=False)
            self._out.write("\n")
        elif self.quiet:
            self._out.writelines(f"{value}\n" for value in values)
        else:
            parts = [human] if isinstance(human, (str, Table)) else list(human)
            for part in parts:
                self._print(part)
        self._out.flush()

    def say(self, text: str) -> None:
        """Tell people something beside the result."""
        if not self.quiet:
            print(text, file=self._err, flush=True)

    def fail(self, error: HubdistError, hint: str | None) -> None:
        """Print an error, what the error advises, and the hint that names the next command.

        Args:
            error: What went wrong.
            hint: The sentence that names the next command; None if no command helps.
        """
        console = self.console(self._err)
        text = str(error) if error.advice is None else str(error.without_advice())
        console.print(f"[bold red]error:[/] {_plain(text)}", highlight=False, soft_wrap=True)
        for advice in (error.advice, hint):
            if advice is not None:
                console.print(f"[bold cyan]hint:[/] {_plain(advice)}", highlight=False, soft_wrap=True)

    def console(self, file: TextIO | None = None) -> Console:
        """A console of rich; wide where nobody watches, so that nothing is cut.

        Args:
            file: Where it prints; None for standard error.
        """
        from rich.console import Console

        file = file or self._err
        return Console(file=file, width=None if file.isatty() else WIDE)

    def _print(self, part: str | Table) -> None:
        if isinstance(part, str):
            print(part, file=self._out)
        else:
            console = self.console(self._out)
            with console.capture() as captured:
                console.print(part.rich())
            # rich fills cells up to the right edge of the last column.
            self._out.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
