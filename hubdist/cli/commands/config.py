"""`hubdist config`: the settings, where they come from, and whether a file of settings is right."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hubdist.cli.command import Command
from hubdist.cli.exits import Exit
from hubdist.cli.output import Output, Table
from hubdist.cli.session import read_settings, read_text, settings_options


@click.group()
def config() -> None:
    """Show and check settings."""


@config.command(cls=Command, examples=["hubdist config show", "hubdist config show --set route=direct --json"])
@settings_options
@click.pass_obj
def show(output: Output, config: Path | None, settings: tuple[str, ...]) -> None:
    """Print every setting, its value, and where the value comes from.

    These are the settings of a job that would begin now in this environment. Secrets are not printed.
    """
    from hubdist.config.shown import shown_settings

    found = shown_settings(*read_settings(config, settings))
    rows = [(setting.key, setting.text, setting.source) for setting in found]
    styles = {number: "bold" for number, setting in enumerate(found) if setting.source != "default"}
    record = {setting.key: {"value": setting.value, "source": setting.source} for setting in found}
    output.give(Table(("KEY", "VALUE", "SOURCE"), rows, styles), record, [f"{key}={value}" for key, value, _ in rows])


@config.command(cls=Command, examples=["hubdist config schema > hubdist.schema.json"])
@click.pass_obj
def schema(output: Output) -> None:
    """Print the JSON schema of the YAML, for editors and other programs."""
    from hubdist.config.shown import settings_schema

    found = settings_schema()
    text = json.dumps(found, indent=2)
    output.give(text, found, [text])


@config.command(cls=Command, examples=["hubdist config validate hubdist.yaml"])
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.pass_obj
@click.pass_context
def validate(ctx: click.Context, output: Output, files: tuple[Path, ...]) -> None:
    """Check FILES of settings; exit with 2 if one is wrong."""
    from hubdist.config.schema import Config
    from hubdist.errors import ConfigError

    wrong: dict[str, str] = {}
    for file in files:
        try:
            Config.from_yaml(read_text(file), str(file))
        except ConfigError as error:
            wrong[str(file)] = str(error)
    lines = [f"{file}: {wrong.get(str(file), 'ok')}" for file in files]
    output.give(lines, {str(file): wrong.get(str(file)) for file in files}, list(wrong))
    if wrong:
        ctx.exit(Exit.WRONG_USE)
