"""Reports of jobs that never ran, for tests and pictures: small and large ones, with and without failures."""

from __future__ import annotations

import random
from collections.abc import Sequence

from hubdist.delivery.routes import Route
from hubdist.errors import HubdistError, ModelNotFoundError, NodeLostError, StoreFullError
from hubdist.report.delivery import OWN_STORE, NodeReport, PinReport
from hubdist.report.job import JobReport, totals_of

MIB = 1 << 20
HANDLE = "https://tfhub.dev/google/universal-sentence-encoder/4"
OTHER = "gs://my-bucket/models/translate-large"
BEGAN = 1_790_000_000.0


def name_of(number: int) -> str:
    """The name of a node."""
    return f"10.0.{number // 250}.{number % 250 + 1}/{(number * 2_654_435_761) % (1 << 32):08x}"


def delivery(number: int, nodes: int, *, size: int = 1024 * MIB, handle: str = HANDLE, seed: int = 0) -> NodeReport:
    """What a node got by the route `driver`, with a timeline and senders as real ones.

    Args:
        number: The node.
        nodes: How many there are.
        size: Bytes of the model.
        handle: Its handle.
        seed: Of what is random.
    """
    chance = random.Random(f"{number} {handle} {seed}")
    end = 4.0 + 2.5 * chance.random() + (6 if chance.random() < 0.01 else 0)
    points, power = 64, 0.8 + 0.6 * chance.random()
    timeline = tuple((round(end * at / points, 3), round(size * (at / points) ** power)) for at in range(1, points + 1))
    others = chance.sample([other for other in range(1, nodes) if other != number], min(7, max(0, nodes - 2)))
    share = size // (len(others) + 1)
    sources = ((name_of(0), size - share * len(others)), *((name_of(other), share) for other in others))
    retries = 3 if chance.random() < 0.05 else 0
    return NodeReport(
        node=f"id{number}",
        name=name_of(number),
        handle=handle,
        digest=f"sha256:{abs(hash(handle)) % 16:x}" + 63 * "1",
        route=Route.DRIVER,
        reason="the node's store lacks the snapshot and the driver's node has it",
        source=name_of(0),
        bytes_received=size,
        seconds=end + 0.2,
        sources=sources,
        timeline=timeline,
        retries=retries,
        refused=min(1, retries),
        ended=BEGAN + end,
    )


def failed(number: int, error: HubdistError) -> NodeReport:
    """What a node did not get.

    Args:
        number: The node.
        error: Why.
    """
    name = name_of(number)
    told = error.with_context(handle=HANDLE, node=name)
    return NodeReport(f"id{number}", name, HANDLE, "sha256:" + 64 * "1", None, "it failed", seconds=31.0, error=told)


def job_report(nodes: int, *, failures: Sequence[HubdistError] = (), models: int = 1) -> JobReport:
    """A job that brought models to nodes.

    Args:
        nodes: How many nodes there are, the driver's among them.
        failures: Errors of further nodes.
        models: How many models; the second comes from storage.
    """
    driver = NodeReport(
        "id0", name_of(0), HANDLE, "sha256:" + 64 * "1", Route.STORE, "it is the driver's own node", seconds=0.01
    )
    deliveries = [driver, *(delivery(number, nodes) for number in range(1, nodes))]
    pins = [PinReport(HANDLE, "sha256:" + 64 * "1", 1024 * MIB, 12, "origin", 1, 6.41)]
    if models > 1:
        pins.append(PinReport(OTHER, "sha256:" + 64 * "2", 300 * MIB, 240, "origin, by " + name_of(1), 0, 2.02))
        for number in range(nodes):
            one = delivery(number, nodes, size=300 * MIB, handle=OTHER)
            had = 40 * MIB
            deliveries.append(
                NodeReport(
                    **{name: getattr(one, name) for name in ("node", "name", "handle", "seconds", "timeline", "ended")},
                    digest="sha256:" + 64 * "2",
                    route=Route.DIRECT,
                    reason="the node can list and read it",
                    source=OTHER,
                    bytes_received=260 * MIB,
                    sources=((OTHER, 260 * MIB), (OWN_STORE, had)),
                )
            )
    deliveries += [failed(nodes + at, error) for at, error in enumerate(failures)]
    return JobReport(
        job="0a000000",
        session="session_2026-11-28_09-12-44_120034_1287",
        coordinator=name_of(0),
        began=BEGAN - 60,
        written=BEGAN + 30,
        closed=True,
        versions={"hubdist": "0.1.0", "python": "3.12.7", "ray": "2.60.0", "tensorflow": "2.21.0"},
        settings={
            "store": "/mnt/disks/ssd/hubdist",
            "max_store_bytes": 50 << 30,
            "models": [{"handle": "https://user:***@hub.example.com/big/1?token=***", "digest": None}],
            "offline": False,
            "route": "auto",
            "read_mode": "store",
            "shared_cache": None,
            "timeout_s": 3600.0,
            "link": 3.125e9,
            "imports": ["tensorflow_text"],
        },
        given=("store", "max_store_bytes", "models", "link", "imports"),
        pins=tuple(pins),
        deliveries=tuple(deliveries),
        errors=(
            ()
            if not failures
            else (
                ModelNotFoundError(
                    "the origin has nothing there: 404 Not Found",
                    handle="https://tfhub.dev/google/universal-sentence-encoder/9",
                    advice="Is the version right? https://tfhub.dev/google/universal-sentence-encoder lists them.",
                ),
            )
        ),
        totals=totals_of(tuple(deliveries)),
    )


FAILURES: tuple[HubdistError, ...] = (
    NodeLostError("the agent on the node is gone", advice="Ray's log of the node says why; a new delivery goes on."),
    StoreFullError(
        "the model has 1073741824 bytes, the disk at /mnt/disks/ssd/hubdist has 52428800 free",
        need_bytes=1 << 30,
        free_bytes=50 << 20,
        advice="Free space, lower max_store_bytes or set store to another disk.",
    ),
    StoreFullError(
        "the model has 1073741824 bytes, the disk at /mnt/disks/ssd/hubdist has 52428800 free",
        need_bytes=1 << 30,
        free_bytes=50 << 20,
        advice="Free space, lower max_store_bytes or set store to another disk.",
    ),
)
