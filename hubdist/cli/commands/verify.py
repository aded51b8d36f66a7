"""`hubdist verify`: every byte on disk against the manifests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hubdist.cli.care import place_options, raise_failures, records, short
from hubdist.cli.command import Command
from hubdist.cli.output import Output, Table

if TYPE_CHECKING:
    from hubdist.care.place import CarePlace
    from hubdist.care.verification import Verified


@click.command(
    cls=Command,
    examples=[
        "hubdist verify",
        "hubdist verify --repair --where all",
        "hubdist verify https://tfhub.dev/google/nnlm-en-dim50/2 sha256:9f86d081",
    ],
)
@click.argument("targets", nargs=-1, metavar="[HANDLE|DIGEST]...")
@click.option(
    "--repair",
    is_flag=True,
    help="Mend damaged blocks with those of other nodes, of the shared cache, or of the origin, in this order; what"
    " cannot be mended is moved aside.",
)
@click.pass_obj
@place_options
def verify(output: Output, care: CarePlace, targets: tuple[str, ...], repair: bool) -> None:
    """Read every byte of the models on disk, and compare it with their manifests. No network is needed for that.

    A target is a handle, a digest, or at least six first digits of a digest; without any, all models are verified. The
    exit code is 5 if damage stays.
    """
    from hubdist.client.care import targets_in
    from hubdist.errors import IntegrityError
    from hubdist.report.delivery import size_text

    answers = care.verify(targets_in(care, targets) if targets else None, repair=repair)
    several = len(answers.by_store) > 1
    found = [(name, one) for name, results in answers.by_store.items() for one in results]
    damaged = [(name, one) for name, one in found if one.damage]
    left = [one for _, one in damaged if one.damaged]
    size = size_text(sum(one.size for _, one in found))
    summary = f"{len(found)} model{'' if len(found) == 1 else 's'}, {size}: " + (
        "all whole" if not damaged else f"{len(damaged)} damaged, {len(damaged) - len(left)} of them repaired"
    )
    parts: list[str | Table] = [_table(damaged, several=several)] if damaged else []
    output.give([*parts, summary], records(answers), [str(one.digest) for one in left])
    raise_failures(answers)
    if left:
        raise IntegrityError(
            f"{len(left)} model{' is' if len(left) == 1 else 's are'} damaged",
            advice="What was moved aside is brought anew by the next load." if repair else None,
        )


def _table(damaged: list[tuple[str, Verified]], *, several: bool) -> Table:
    rows = [
        [*([name] if several else []), short(one.digest), "; ".join(one.damage), _result(one)] for name, one in damaged
    ]
    return Table([*(["NODE"] if several else []), "DIGEST", "DAMAGE", "RESULT"], rows)


def _result(one: Verified) -> str:
    if one.repaired:
        return f"repaired, from {', '.join(one.repaired_from) or 'its own files'}"
    return "moved to the quarantine" if one.quarantined else "damaged"
