"""`hubdist doctor`: checks Ray, versions, limits, clocks, stores, ports and origins, on all nodes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hubdist.cli.command import Command
from hubdist.cli.exits import Exit
from hubdist.cli.output import Output
from hubdist.cli.session import address_option, load_settings, settings_options

if TYPE_CHECKING:
    from hubdist.config.schema import Config
    from hubdist.health.examination import Patience, Probes
    from hubdist.health.finding import Finding


@click.command(
    cls=Command,
    examples=[
        "hubdist doctor",
        "hubdist doctor gs://my-bucket/model https://tfhub.dev/google/nnlm-en-dim50/2",
        "hubdist doctor -q || echo 'something is wrong'",
    ],
)
@click.argument("handles", nargs=-1)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=1, max=600),
    default=10,
    show_default=True,
    metavar="SECONDS",
    help="Longest time for one check.",
)
@address_option
@settings_options
@click.pass_context
def doctor(
    ctx: click.Context,
    /,
    *,
    handles: tuple[str, ...],
    timeout_s: float,
    address: str,
    config: Path | None,
    settings: tuple[str, ...],
) -> None:
    """Check the cluster and this machine, and say what to do about each fault.

    With HANDLES, their origins are checked too; without, those of the configuration's models. Nothing is loaded, and no
    job of hubdist begins. The exit code is 1 if something failed. With -q the failed checks are printed, one a line:
    what was checked, and the node.
    """
    from hubdist.cli.findings import shown, to_record
    from hubdist.health.examination import Patience
    from hubdist.health.finding import Level

    output: Output = ctx.obj
    loaded = load_settings(config, settings)
    with _telling(output) as tell:
        findings = list(_examine(address, loaded, handles, Patience(check_s=timeout_s), tell))
    failed = [finding for finding in findings if finding.level is Level.FAIL]
    output.give(shown(findings), to_record(findings), [f"{each.check} {each.node}".strip() for each in failed])
    ctx.exit(Exit.FAILED if failed else Exit.OK)


def _examine(
    address: str, config: Config, handles: Sequence[str], patience: Patience, tell: Callable[[str], None]
) -> Iterator[Finding]:
    from hubdist.health.finding import Finding, Level
    from hubdist.health.local import LocalProbes

    if address == "local":
        yield Finding("ray", Level.OK, "", "not asked: this process alone is checked")
        yield from _examine_nodes(LocalProbes(), config, handles, patience, tell, is_driver=True)
        return
    from hubdist.cluster.ray_access import ConnectionStatus, judge_ray, try_ray
    from hubdist.config.variables import ray_access

    tell("Ray")
    tried = try_ray(address)
    yield judge_ray(tried, ray_access())
    if tried.status is not ConnectionStatus.CONNECTED:
        yield from _examine_nodes(LocalProbes(), config, handles, patience, tell, is_driver=True)
        return
    from hubdist.cluster.node_probes import NodeProbes
    from hubdist.cluster.nodes import ProcessRole, process_role
    from hubdist.cluster.ray_session import connect, disconnect

    connected = connect(tried.address)
    try:
        with NodeProbes() as probes:
            count = len(probes.targets)
            found = f"the driver's node, which reads origins; {count} node{'s are' if count > 1 else ' is'} alive"
            yield Finding("ray", Level.OK, probes.driver.name, found)
            is_driver = process_role() is ProcessRole.DRIVER
            yield from _examine_nodes(probes, config, handles, patience, tell, is_driver=is_driver)
    finally:
        if connected:
            disconnect()


def _examine_nodes(
    probes: Probes,
    config: Config,
    handles: Sequence[str],
    patience: Patience,
    tell: Callable[[str], None],
    *,
    is_driver: bool,
) -> Iterator[Finding]:
    from hubdist.config.handover import literal_store, plain_values
    from hubdist.errors import StoreError
    from hubdist.health.examination import examine
    from hubdist.system.disk import working_directory

    values: dict[str, dict[str, Any]] = {target.name: plain_values(config) for target in probes.targets}
    if is_driver and not config.names_store:  # on the driver's node, this process's environment names the store
        with contextlib.suppress(StoreError):  # the node says it
            values[probes.driver.name]["store"] = literal_store(config, probes.driver.id)
    yield from examine(probes, config, handles, working_directory(), values, tell=tell, patience=patience)


@contextlib.contextmanager
def _telling(output: Output) -> Iterator[Callable[[str], None]]:
    """Show what is being checked, if somebody watches."""
    if not output.live:
        yield lambda _: None
        return
    with output.console().status("checking") as status:
        yield lambda subject: status.update(f"checking {subject}")
