"""The options `--include` and `--exclude` of commands that take handles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

_INCLUDE = "Only files that match, such as '*.json'; may be repeated."
_EXCLUDE = "No files that match; may be repeated."


def selection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that choose files; it gets them as `include` and `exclude`."""
    command = click.option("--exclude", multiple=True, metavar="PATTERN", help=_EXCLUDE)(command)
    return click.option("--include", multiple=True, metavar="PATTERN", help=_INCLUDE)(command)
