"""`hubdist ls`: the models on disk."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from hubdist.cli.amounts import show_age
from hubdist.cli.care import named, place_options, raise_failures, short
from hubdist.cli.command import Command
from hubdist.cli.filters import parse_filter, sort_models
from hubdist.cli.output import Output, Table

if TYPE_CHECKING:
    from hubdist.care.listing import StoredModel
    from hubdist.care.place import CarePlace


@click.command(
    "ls",
    cls=Command,
    examples=[
        "hubdist ls",
        'hubdist ls --filter "size>1GB" --filter "used>30d" --sort size',
        "hubdist ls --where all --limit 20",
        "hubdist ls -q --where shared",
    ],
)
@click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="EXPRESSION",
    help="size>1GB, files=3, used<30d (time since the last use), handle=*mnist*, kept=true, in_use=false. May be"
    " repeated; all must hold.",
)
@click.option("--sort", default="used", show_default=True, help="used, size or handle; :asc or :desc behind it.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Show N models at most.")
@click.pass_obj
@place_options
def ls(output: Output, care: CarePlace, filters: tuple[str, ...], sort: str, limit: int | None) -> None:
    """List the models on disk: digest, size, last use, and the handles that stood for them."""
    from hubdist.report.delivery import size_text

    conditions, now = [parse_filter(text) for text in filters], time.time()
    answers = care.list_models()
    found = [(name, model) for name, models in answers.by_store.items() for model in models]
    wanted = [pair for pair in sort_models(found, sort) if all(holds(pair[1], now) for holds in conditions)]
    shown = wanted[:limit]
    total = sum(model.size for _, model in wanted)
    summary = f"{len(wanted)} model{'' if len(wanted) == 1 else 's'}, {size_text(total)}"
    if len(shown) < len(wanted):
        summary += f"; the first {len(shown)} are shown"
    output.give(
        [_table(shown, now, several=len(answers.by_store) > 1), summary] if shown else summary,
        [{"store": name, **model.record()} for name, model in shown],
        list(dict.fromkeys(str(model.digest) for _, model in shown)),
    )
    raise_failures(answers)


def _table(models: list[tuple[str, StoredModel]], now: float, *, several: bool) -> Table:
    from hubdist.report.delivery import size_text

    rows = [
        [
            *([name] if several else []),
            short(model.digest),
            size_text(model.size),
            str(model.files) if model.files else "?",
            show_age(now - model.used_at),
            ", ".join(["kept"] * model.kept + ["in use"] * model.in_use),
            named(model.handles),
        ]
        for name, model in models
    ]
    return Table([*(["NODE"] if several else []), "DIGEST", "SIZE>", "FILES>", "USED", "STAYS", "HANDLE"], rows)
