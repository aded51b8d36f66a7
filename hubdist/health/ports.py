"""The ports of nodes: each is opened as a delivery opens it, and tried by other nodes with a delivery's handshake."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hubdist.config.node_settings import find_tls_files
from hubdist.config.schema import Config
from hubdist.errors import HubdistError, IntegrityError
from hubdist.health.finding import Finding, Level
from hubdist.streams.client import UnitStream
from hubdist.streams.encryption import Encryption
from hubdist.streams.frames import DELIVERY_BYTES
from hubdist.streams.server import StreamServer
from hubdist.streams.units import Units

_DELIVERY = b"\0" * DELIVERY_BYTES
"""The id of a delivery that has no units."""

_TRIES_AT_ONCE = 32
_MAX_ALL = 64
_RANDOM_PEERS = 4
_SHOWN = 4
_OPEN = "Allow TCP between the nodes, for certain ports with data_ports (HUBDIST_DATA_PORTS) such as 19800-19999."
_OFF = "Or set data_port: off; then bytes go by calls of Ray, which takes three times the processor time."


def open_port(settings: Mapping[str, Any], host: str, secret: bytes) -> StreamServer | str:
    """Open a port as a delivery would.

    Args:
        settings: Keys of the configuration.
        host: The address of this node.
        secret: What others must know.

    Returns:
        The open port, which the caller stops; or words that say why there is none: "" if none is wanted.
    """
    config = Config(**settings).node_settings
    if not config.opens_port:
        return ""
    units, tls = Units(secret, _no_file), find_tls_files()
    try:
        return StreamServer(
            host,
            lambda key: units if key == _DELIVERY else None,
            ports=config.port_range,
            encryption=None if tls is None else Encryption(tls),
        )
    except OSError as error:
        return f"no port can be opened on {host}: {error.strerror or error}"


def try_ports(targets: Mapping[str, tuple[str, int]], secret: bytes) -> dict[str, str | None]:
    """Try ports of other nodes.

    Args:
        targets: Name of a node -> its host and port.
        secret: What the nodes know.

    Returns:
        For each name None, or words that say why the port cannot be reached.
    """
    tls = find_tls_files()
    try:
        encryption = None if tls is None else Encryption(tls)
    except OSError as error:
        return dict.fromkeys(targets, f"this node cannot encrypt: {error}")

    def reach(target: tuple[str, int]) -> str | None:
        try:
            UnitStream((target[0], target[1]), secret, _DELIVERY, encryption=encryption).close()
        except HubdistError as error:
            return error.what
        return None

    with ThreadPoolExecutor(min(_TRIES_AT_ONCE, max(1, len(targets)))) as pool:
        return dict(zip(targets, pool.map(reach, targets.values()), strict=True))


def choose_pairs(
    names: Sequence[str], rng: random.Random, *, max_all: int = _MAX_ALL, random_peers: int = _RANDOM_PEERS
) -> dict[str, list[str]]:
    """Which nodes try the ports of which others: of few nodes each all others, of many a ring and a few at random.

    Args:
        names: The nodes.
        rng: Chooses the ones at random.
        max_all: Most nodes of which each tries all others.
        random_peers: Of more nodes, how many others each tries besides the next one of the ring.
    """
    if len(names) <= max_all:
        return {name: [other for other in names if other != name] for name in names}
    chosen = {}
    for at, name in enumerate(names):
        others = {names[(at + 1) % len(names)], *rng.sample(list(names), random_peers)}
        chosen[name] = sorted(others - {name})
    return chosen


def judge_ports(tried: Mapping[str, Mapping[str, str | None]]) -> list[Finding]:
    """Judge which ports can be reached.

    Args:
        tried: Node that tried -> node whose port it tried -> None, or words that say why it cannot be reached.

    Returns:
        A finding for each node whose port was tried.
    """
    results: dict[str, dict[str, str | None]] = {}
    for tester, targets in tried.items():
        for target, failure in targets.items():
            results.setdefault(target, {})[tester] = failure
    return [_judge(target, by_tester) for target, by_tester in sorted(results.items())]


def _judge(target: str, by_tester: Mapping[str, str | None]) -> Finding:
    failures = {tester: failure for tester, failure in sorted(by_tester.items()) if failure is not None}
    if not failures:
        count = len(by_tester)
        return Finding("ports", Level.OK, target, f"its port is reached by {count} other node{'s' * (count > 1)}")
    shown = ", ".join(list(failures)[:_SHOWN])
    more = f" and {len(failures) - _SHOWN} more" if len(failures) > _SHOWN else ""
    why = next(iter(failures.values()))
    found = f"not reached from {shown}{more} ({len(failures)} of {len(by_tester)} that tried): {why}"
    return Finding("ports", Level.FAIL, target, found, f"{_OPEN} {_OFF}")


def _no_file(number: int) -> int:
    raise IntegrityError(f"there is no file {number}")
