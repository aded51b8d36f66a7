"""What all commands of `hubdist` have: options for the output, examples in the help, and how they end."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

import click

from hubdist.cli.exits import exit_code, hint
from hubdist.cli.output import Form, Output
from hubdist.errors import HubdistError

_FORM = "hubdist.form"
_VERBOSE = "hubdist.verbose"


class Command(click.Command):
    """A command that has `--format`, `--json`, `-q` and `-v`, and turns a `HubdistError` into an exit code.

    Its function gets an `Output` by `click.pass_obj`.

    Args:
        *args: As for `click.Command`.
        examples: Command lines that the help shows.
        **kwargs: As for `click.Command`.
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        self.params += [
            click.Option(
                ["--format"],
                type=click.Choice([form.value for form in Form]),
                default=Form.AUTO.value,
                show_default=True,
                expose_value=False,
                callback=_choose_form,
                help="What results look like.",
            ),
            click.Option(
                ["--json"], is_flag=True, expose_value=False, callback=_choose_json, help="The same as --format json."
            ),
            click.Option(
                ["-q", "--quiet"],
                is_flag=True,
                expose_value=False,
                callback=_choose_quiet,
                help="Print bare values only, and no progress.",
            ),
            click.Option(
                ["-v", "--verbose"],
                is_flag=True,
                expose_value=False,
                callback=_choose_verbose,
                help="Print what the libraries below log, and where an error came from.",
            ),
        ]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Print the examples below the options.

        Args:
            ctx: The call of the command.
            formatter: Takes what is printed.
        """
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{example}\n")
        super().format_epilog(ctx, formatter)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a `HubdistError` ends the process with the exit code for its kind."""
        verbose = ctx.meta.get(_VERBOSE, False)
        output = Output(ctx.meta.get(_FORM, Form.AUTO))
        ctx.obj = output
        _set_up_logging(verbose=verbose)
        try:
            return super().invoke(ctx)
        except HubdistError as error:
            if verbose:
                logging.getLogger(__name__).exception("hubdist: the command ended with an error")
            output.fail(error, hint(error))
            ctx.exit(exit_code(error))


def _choose_form(ctx: click.Context, _: click.Parameter, value: str) -> None:
    ctx.meta.setdefault(_FORM, Form(value))


def _choose_json(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[_FORM] = Form.JSON


def _choose_quiet(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[_FORM] = Form.QUIET


def _choose_verbose(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta[_VERBOSE] = value


def _set_up_logging(*, verbose: bool) -> None:
    """Let warnings of hubdist reach standard error, and nothing of other libraries unless somebody wants it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s" if verbose else "%(message)s"))
    logger = logging.getLogger() if verbose else logging.getLogger("hubdist")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    if not verbose:
        logger.propagate = False
        logging.getLogger().addHandler(logging.NullHandler())
