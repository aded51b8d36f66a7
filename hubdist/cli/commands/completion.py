"""`hubdist completion`: what a shell needs to complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from hubdist.cli.command import Command
from hubdist.cli.output import Output

SHELLS = ("bash", "zsh", "fish")


@click.command(
    cls=Command,
    examples=[
        'eval "$(hubdist completion bash)"',
        'eval "$(hubdist completion zsh)"',
        "hubdist completion fish > ~/.config/fish/completions/hubdist.fish",
    ],
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script with which SHELL completes commands and options; put it into the shell's start file."""
    output = ctx.find_object(Output)
    kind = get_completion_class(shell)
    assert output is not None
    assert kind is not None
    script = kind(ctx.find_root().command, {}, "hubdist", "_HUBDIST_COMPLETE").source()
    output.give(script, {"shell": shell, "script": script}, [script])
