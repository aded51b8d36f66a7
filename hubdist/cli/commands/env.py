"""`hubdist env`: what a bug report must say of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from hubdist.cli.command import Command
from hubdist.cli.output import Output
from hubdist.cli.session import load_settings, settings_options

_WIDTH = 22


@click.command(cls=Command, examples=["hubdist env", "hubdist env --json > env.json"])
@settings_options
@click.pass_obj
def env(output: Output, config: Path | None, settings: tuple[str, ...]) -> None:
    """Print versions, limits, store and settings of this machine, for a bug report.

    Secrets are left out: of the variables that are set, only harmless values are shown. Ray is not asked.
    """
    from hubdist.health.environment import describe_environment

    facts = describe_environment(load_settings(config, settings))
    output.give("\n".join(_shown(facts)), facts, [facts["hubdist"]["version"]])


def _shown(facts: dict[str, Any]) -> Iterator[str]:
    from hubdist.health.finding import size_words

    limits, store, system, ray = facts["limits"], facts["store"], facts["system"], facts["ray"]
    memory = limits["memory"]
    sizes = {name: "unknown" if size is None else size_words(size) for name, size in memory.items()}
    no_limit = "no cgroup limit" if memory["limit"] is None else f"cgroup limit {sizes['limit']}, {sizes['used']} used"
    shm = "none" if limits["shared_memory"] is None else size_words(limits["shared_memory"])
    place = store.get("problem") or f"{store['path']} ({store['file_system']}, {size_words(store['free'])} free)"
    token = f"a token from {ray['token_from']}" if ray["token_from"] else "no token"
    yield _line("hubdist", f"{facts['hubdist']['version']} at {facts['hubdist']['path']}")
    yield _line("Python", f"{facts['python']['version']} at {facts['python']['executable']}")
    yield _line("System", f"{system['os']}, kernel {system['kernel']}, {system['machine']}, {system['libc']}")
    yield _line("Processors", f"{system['cpus']}, {system['usable_cpus']} for this process")
    yield _line("Memory", f"{sizes['total']}, {sizes['available']} available, {no_limit}; /dev/shm {shm}")
    yield _line("Open files", "at most {} (hard limit {})".format(*limits["descriptors"]))
    yield _line("Store", place)
    yield _line("Ray", f"address {ray['address'] or 'not set'}, auth mode {ray['auth_mode'] or 'not set'}, {token}")
    for title, names in (
        ("Packages", facts["packages"]),
        ("Variables", facts["variables"]),
        ("Settings", facts["settings"]),
    ):
        yield f"{title}:" if names else _line(title, "none that matters")
        yield from (_line(f"  {name}", "is set" if value is None else str(value)) for name, value in names.items())


def _line(name: str, value: str) -> str:
    return f"{name:<{_WIDTH}} {value}"
