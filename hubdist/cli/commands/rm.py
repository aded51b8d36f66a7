"""`hubdist rm`: delete models that a person names."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from hubdist.cli.care import place_options, raise_failures, records, removal_table
from hubdist.cli.command import Command
from hubdist.cli.output import Output

if TYPE_CHECKING:
    from hubdist.care.place import CarePlace


@click.command(
    "rm",
    cls=Command,
    examples=[
        "hubdist rm gs://my-bucket/old-model --dry-run",
        "hubdist rm sha256:9f86d081 -y",
        'hubdist ls -q --filter "used>90d" | xargs -r hubdist rm -y',
    ],
)
@click.argument("targets", nargs=-1, required=True, metavar="HANDLE|DIGEST...")
@click.option("--dry-run", is_flag=True, help="Only tell what would be deleted.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
@place_options
def rm(output: Output, care: CarePlace, targets: tuple[str, ...], dry_run: bool, yes: bool) -> None:
    """Delete models from disk.

    A target is a handle, a digest, or at least six first digits of a digest. A model that a process uses, that a
    running job has pinned, or that is kept, is never deleted; then the exit code is 1.
    """
    from hubdist.client.care import targets_in
    from hubdist.errors import HubdistError
    from hubdist.report.delivery import size_text

    digests = targets_in(care, targets)
    if not (dry_run or yes):
        _ask(len(digests))
    answers = care.remove(digests, dry_run=dry_run)
    found = [removal for removals in answers.by_store.values() for removal in removals]
    gone = [removal for removal in found if removal.removed]
    done = "would be deleted" if dry_run else "deleted"
    summary = f"{size_text(sum(removal.size for removal in gone))} {done}"
    output.give([removal_table(answers, done), summary], records(answers), [str(one.digest) for one in gone])
    raise_failures(answers)
    stays = [removal for removal in found if not removal.removed and removal.size]
    if stays:
        raise HubdistError(f"{stays[0].digest} stays: {stays[0].why}" + (" (and others)" if len(stays) > 1 else ""))


def _ask(count: int) -> None:
    """Ask whether models shall be deleted; end the command if not, or if nobody can answer."""
    if not sys.stdin.isatty():
        raise click.UsageError("nobody can be asked here; give -y to delete without a question")
    if not click.confirm(f"Delete {count} model{'' if count == 1 else 's'}?", err=True):
        raise click.Abort
