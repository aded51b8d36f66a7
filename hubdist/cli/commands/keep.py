"""`hubdist keep` and `hubdist release`: which models are never evicted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hubdist.cli.care import place_options, raise_failures
from hubdist.cli.command import Command
from hubdist.cli.output import Output

if TYPE_CHECKING:
    from hubdist.care.place import Answers, CarePlace
    from hubdist.model.manifest import Digest


@click.command(
    cls=Command,
    examples=["hubdist keep https://tfhub.dev/google/nnlm-en-dim50/2", "hubdist keep sha256:9f86d081 --where all"],
)
@click.argument("targets", nargs=-1, required=True, metavar="HANDLE|DIGEST...")
@click.pass_obj
@place_options
def keep(output: Output, care: CarePlace, targets: tuple[str, ...]) -> None:
    """Never evict these models, whatever the limits say, until `hubdist release`.

    The mark lies in the store, so it holds for all processes and outlives them. Nothing is brought: in a program,
    `hubdist.keep` brings the models first, also to nodes that join. A target is a handle, a digest, or at least six
    first digits of a digest.
    """
    from hubdist.client.care import targets_in

    _tell(output, care.keep(targets_in(care, targets)), "kept")


@click.command(cls=Command, examples=["hubdist release sha256:9f86d081 --where all"])
@click.argument("targets", nargs=-1, required=True, metavar="HANDLE|DIGEST...")
@click.pass_obj
@place_options
def release(output: Output, care: CarePlace, targets: tuple[str, ...]) -> None:
    """Let models be evicted again that `hubdist keep` has kept.

    A target is a handle, a digest, or at least six first digits of a digest.
    """
    from hubdist.client.care import targets_in

    _tell(output, care.release(targets_in(care, targets)), "released")


def _tell(output: Output, answers: Answers[list[Digest]], done: str) -> None:
    found = [(name, digest) for name, digests in answers.by_store.items() for digest in digests]
    several = len(answers.by_store) > 1
    lines = [f"{digest} {done}" + (f" on {name}" if several else "") for name, digest in found]
    output.give(
        lines or f"nothing {done}",
        [{"store": name, "digest": str(digest), done: True} for name, digest in found],
        list(dict.fromkeys(str(digest) for _, digest in found)),
    )
    raise_failures(answers)
