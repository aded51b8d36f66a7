"""The checks of all nodes, one subject after another; each subject on all nodes at once, and in bounded time."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hubdist.config.origin_access import driver_values
from hubdist.config.schema import Config
from hubdist.errors import HubdistError
from hubdist.health.clocks import Offset, judge_clocks, measure_offset
from hubdist.health.finding import Finding, Level, named
from hubdist.health.limits import judge_limits
from hubdist.health.machine import read_facts
from hubdist.health.places import Place, judge_other_node, places_of
from hubdist.health.ports import choose_pairs, judge_ports
from hubdist.health.versions import PACKAGES_EVERYWHERE, judge_versions, needed_packages

_CLOCK_QUESTIONS = 5
_SILENT = "Is the node alive? `ray status` shows it. Its raylet's log says why no process starts there."


@dataclass(frozen=True, slots=True)
class Target:
    """A node to examine.

    Attributes:
        id: Ray's id, or what stands for it without Ray.
        name: For people.
        address: Where other nodes reach it.
    """

    id: str
    name: str
    address: str


class Probes(Protocol):
    """A `Probe` on each node."""

    targets: Sequence[Target]
    driver: Target
    """The node that reads origins."""

    def ask(
        self, method: str, arguments: Mapping[str, tuple[Any, ...]], timeout_s: float
    ) -> dict[str, Any | HubdistError]:
        """Call a method of several probes at once; each has an answer or an error when this returns.

        Args:
            method: The method's name.
            arguments: Name of a node -> the arguments for its probe.
            timeout_s: Longest wait in seconds for all of them.
        """
        ...


@dataclass(frozen=True, slots=True)
class Patience:
    """Longest waits in seconds.

    Attributes:
        start_s: Until a process on each node has started and answered.
        check_s: For one check.
        grace_s: By how much the wait for an answer is longer than the check itself may take.
    """

    start_s: float = 30.0
    check_s: float = 10.0
    grace_s: float = 2.0


@dataclass(slots=True)
class _Asked:
    """What was asked for.

    Attributes:
        settings: Each node's keys of the configuration, by the node's name.
        config: The configuration.
        places: What handles and settings name.
        tell: Is told what is being checked.
        patience: Longest waits.
        facts: What the nodes have answered first.
    """

    settings: Mapping[str, Mapping[str, Any]]
    config: Config
    places: Sequence[Place]
    tell: Callable[[str], None]
    patience: Patience
    facts: dict[str, Any] = field(default_factory=dict)


def examine(
    probes: Probes,
    config: Config,
    handles: Sequence[str],
    base_dir: Path | None,
    settings: Mapping[str, Mapping[str, Any]],
    *,
    tell: Callable[[str], None] = lambda _: None,
    patience: Patience | None = None,
) -> Iterator[Finding]:
    """Check all nodes.

    Args:
        probes: The processes that measure.
        config: The settings.
        handles: What users want to load; none means the models of the settings.
        base_dir: What relative paths are relative to.
        settings: Each node's keys of the configuration, by the node's name.
        tell: Is told what is being checked.
        patience: Longest waits; None for the usual ones.

    Yields:
        Findings, subject by subject.
    """
    wanted = list(handles) or [model.handle for model in config.models]
    places, wrong = places_of(wanted, config.shared_cache, base_dir, set(config.origins))
    asked = _Asked(settings, config, places, tell, patience or Patience())
    tell("versions and limits")
    yield from _versions_and_limits(probes, asked)
    tell("clocks")
    yield from _clocks(probes, asked)
    tell("stores")
    yield from _stores(probes, asked)
    tell("ports")
    yield from _ports(probes, asked)
    yield from wrong
    if places:
        tell("origins")
        yield from _places(probes, asked)


def _versions_and_limits(probes: Probes, asked: _Asked) -> Iterator[Finding]:
    needed = needed_packages([place.text for place in asked.places])
    question = (*PACKAGES_EVERYWHERE, *needed), asked.config.imports
    here = read_facts(*question)
    answers = probes.ask("facts", {target.name: question for target in probes.targets}, asked.patience.start_s)
    limits: list[Finding] = []
    for name, facts in answers.items():
        if isinstance(facts, HubdistError):
            yield Finding("versions", Level.FAIL, name, f"the node gives no answer: {facts.what}", _SILENT)
            continue
        asked.facts[name] = facts
        is_driver = name == probes.driver.name
        yield from judge_versions(name, facts, here, needed, reads_origins=is_driver)
        limits += judge_limits(name, facts["limits"], int(asked.config.max_in_flight_bytes))
    yield from limits


def _clocks(probes: Probes, asked: _Asked) -> Iterator[Finding]:
    exchanges: dict[str, list[tuple[float, float, float]]] = {}
    for name in asked.facts:  # one node after another: an answer must not wait behind another one
        for _ in range(_CLOCK_QUESTIONS):
            sent = time.time()
            answer = probes.ask("clock", {name: ()}, asked.patience.check_s)[name]
            if isinstance(answer, HubdistError):
                yield _unanswered("clock", name, answer)
                break
            exchanges.setdefault(name, []).append((sent, answer, time.time()))
    offsets: dict[str, Offset] = {name: measure_offset(each) for name, each in exchanges.items()}
    yield from judge_clocks(offsets)


def _stores(probes: Probes, asked: _Asked) -> Iterator[Finding]:
    arguments = {target.name: (asked.settings[target.name], target.id) for target in _able(probes, asked)}
    for name, answer in probes.ask("store", arguments, asked.patience.check_s + asked.patience.grace_s).items():
        if isinstance(answer, HubdistError):
            yield _unanswered("store", name, answer, "Does its disk or network file system hang?")
        else:
            yield from named(name, answer)


def _ports(probes: Probes, asked: _Asked) -> Iterator[Finding]:
    able = _able(probes, asked)
    if len(able) < 2:
        return
    secret, wait_s = secrets.token_bytes(32), asked.patience.check_s + asked.patience.grace_s
    opened = probes.ask(
        "open_port", {target.name: (asked.settings[target.name], target.address, secret) for target in able}, wait_s
    )
    addresses = {}
    for name, answer in opened.items():
        if isinstance(answer, HubdistError):
            yield _unanswered("ports", name, answer)
        elif answer == "":
            yield Finding("ports", Level.OK, name, "no port is wanted: bytes go by calls of Ray")
        elif isinstance(answer, str):
            yield Finding("ports", Level.FAIL, name, answer, "Name free ports with data_ports, or set data_port: off.")
        else:
            addresses[name] = answer
    pairs = choose_pairs(list(addresses), random.Random())  # noqa: S311 - nobody gains by guessing them
    targets = {
        name: ({other: addresses[other] for other in others}, secret) for name, others in pairs.items() if others
    }
    tried = probes.ask("try_ports", targets, wait_s)
    for name, answer in tried.items():
        if isinstance(answer, HubdistError):
            yield _unanswered("ports", name, answer)
    yield from judge_ports({name: answer for name, answer in tried.items() if not isinstance(answer, HubdistError)})
    probes.ask("close", dict.fromkeys(addresses, ()), asked.patience.grace_s)


def _places(probes: Probes, asked: _Asked) -> Iterator[Finding]:
    check_s = asked.patience.check_s
    arguments = {}
    for target in _able(probes, asked):
        is_driver = target.name == probes.driver.name
        wanted = [(place.check, place.text) for place in asked.places if is_driver or not place.driver_only]
        if wanted:
            values = driver_values(asked.config) if is_driver else None
            arguments[target.name] = (asked.settings[target.name], wanted, check_s, values)
    for name, answer in probes.ask("places", arguments, check_s + asked.patience.grace_s).items():
        if isinstance(answer, HubdistError):
            yield _unanswered("origin", name, answer)
        else:
            is_driver = name == probes.driver.name
            yield from named(name, answer if is_driver else [judge_other_node(plain) for plain in answer])


def _able(probes: Probes, asked: _Asked) -> list[Target]:
    """The nodes that answer and have the hubdist of this process, whose modules measure the rest."""
    here = read_facts((), ())["hubdist"]
    return [target for target in probes.targets if asked.facts.get(target.name, {}).get("hubdist") == here]


def _unanswered(check: str, node: str, error: HubdistError, mend: str = _SILENT) -> Finding:
    return Finding(check, Level.FAIL, node, f"the check did not end: {error.what}", mend)
