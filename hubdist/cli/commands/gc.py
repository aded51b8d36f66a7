"""`hubdist gc`: delete what is too old or too much."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hubdist.cli.amounts import parse_age, parse_size
from hubdist.cli.care import place_options, raise_failures, records, removal_table
from hubdist.cli.command import Command
from hubdist.cli.output import Output, Table

if TYPE_CHECKING:
    from hubdist.care.place import CarePlace


@click.command(
    "gc",
    cls=Command,
    examples=[
        "hubdist gc --max-bytes 100GiB",
        "hubdist gc --max-age 30d --dry-run",
        "hubdist gc --where shared --max-age 90d",
    ],
)
@click.option(
    "--max-bytes", type=parse_size, metavar="SIZE", help="Delete the least recently used models above this size."
)
@click.option(
    "--max-age", type=parse_age, metavar="TIME", help="Delete models that were not used for longer than this."
)
@click.option("--dry-run", is_flag=True, help="Only tell what would be deleted.")
@click.pass_obj
@place_options
def gc(output: Output, care: CarePlace, max_bytes: int | None, max_age: float | None, dry_run: bool) -> None:
    """Delete what dead processes left, and models that are too old or too many.

    Models that a process uses, that a running job has pinned, or that are kept, stay. In the shared cache models are
    marked first, and deleted by a later run unless somebody has used them meanwhile.
    """
    from hubdist.report.delivery import size_text

    answers = care.collect(max_bytes=max_bytes, max_age_s=max_age, dry_run=dry_run)
    found = [removal for removals in answers.by_store.values() for removal in removals]
    gone = [removal for removal in found if removal.removed]
    done = "would be deleted" if dry_run else "deleted"
    summary = f"{len(gone)} model{'' if len(gone) == 1 else 's'}, {size_text(sum(one.size for one in gone))} {done}"
    parts: list[str | Table] = [removal_table(answers, done)] if found else []
    output.give([*parts, summary], records(answers), [str(one.digest) for one in gone])
    raise_failures(answers)
