"""The entry point of the command `hubdist`."""

from __future__ import annotations

import sys

import click

import hubdist
from hubdist.cli.commands.completion import completion
from hubdist.cli.commands.config import config
from hubdist.cli.commands.doctor import doctor
from hubdist.cli.commands.env import env
from hubdist.cli.commands.export import export
from hubdist.cli.commands.gc import gc
from hubdist.cli.commands.grafana import grafana
from hubdist.cli.commands.import_file import import_file
from hubdist.cli.commands.keep import keep, release
from hubdist.cli.commands.lock import lock
from hubdist.cli.commands.ls import ls
from hubdist.cli.commands.plan import plan
from hubdist.cli.commands.prefetch import prefetch
from hubdist.cli.commands.report import report
from hubdist.cli.commands.resolve import resolve
from hubdist.cli.commands.rm import rm
from hubdist.cli.commands.status import status
from hubdist.cli.commands.verify import verify
from hubdist.cli.exits import Exit


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(hubdist.__version__, message="hubdist %(version)s")
def hubdist_command() -> None:
    """TensorFlow Hub models for every process of a Ray cluster: resolved once, verified, delivered to each node.

    Results go to standard output, all else to standard error.
    """


for command in (
    resolve,
    prefetch,
    plan,
    status,
    report,
    ls,
    verify,
    rm,
    gc,
    keep,
    release,
    lock,
    export,
    import_file,
    doctor,
    env,
    config,
    grafana,
    completion,
):
    hubdist_command.add_command(command)


def main() -> None:
    """Run the command that the arguments name, and end the process with its exit code."""
    try:
        ended = hubdist_command.main(prog_name="hubdist", standalone_mode=False)
    except click.Abort:  # Ctrl-C
        sys.exit(Exit.INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(Exit.WRONG_USE)
    sys.exit(ended or Exit.OK)
