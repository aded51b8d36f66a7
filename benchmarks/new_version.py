"""What travels when nodes that have a model get a new version of it, of which a part of the blocks has changed.

    python benchmarks/new_version.py [--mib 256] [--changed 0.02] [--nodes 4] [--folder /dev/shm]

Agents, stores, ports and deliveries are the real ones, in threads of this process and without Ray. The driver's node
has both versions, the other nodes have the old one. For each way by which nodes get the new version, a row tells how
many bytes came to each node from others, as a part of the model; the seconds until all nodes have it; the processor
seconds of all nodes together for each node and GiB of the model. The first row is the old version, which comes whole.
In the last two rows the nodes read a directory of the disk in place of a bucket: together, each a share, or each alone.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from hubdist.cluster.coordinator.progress import DeliveryStats
from hubdist.cluster.coordinator.running import RunningDeliveries
from hubdist.delivery.routes import Route
from hubdist.model.manifest import BLOCK_BYTES, Manifest
from hubdist.remote.snapshot_copy import RemoteCopy, list_copy
from hubdist.report.delivery import OWN_STORE
from tests.support.fake_agents import DRIVER, FakeNodes, fake_nodes, run

Bring = Callable[[str], Awaitable[int]]
"""Brings the model to the node of this name; returns the bytes that came from others."""


def processor_seconds() -> float:
    """Of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def change(data: bytes, part: float) -> bytes:
    """The same bytes, with one byte changed in a part of the blocks."""
    new = bytearray(data)
    blocks = range(0, len(data), BLOCK_BYTES)
    for start in random.Random(1).sample(blocks, round(len(blocks) * part)):
        new[start] ^= 1
    return bytes(new)


def together(nodes: FakeNodes, manifest: Manifest, copy: RemoteCopy | None) -> Bring:
    """By one delivery to all nodes."""
    deliveries: list[RunningDeliveries] = []

    async def bring(name: str) -> int:
        if not deliveries:
            deliveries.append(RunningDeliveries(nodes.nodes[DRIVER], nodes.agents, nodes.cluster, nodes.config))
        route = Route.DRIVER if copy is None else Route.DIRECT
        stats: DeliveryStats | None = await deliveries[0].join_delivery(manifest, nodes.nodes[name], route, copy)
        assert stats is not None
        return sum(size for sender, size in stats.sources if sender != OWN_STORE)

    return bring


def alone(nodes: FakeNodes, manifest: Manifest, copy: RemoteCopy) -> Bring:
    """Each node reads the directory by itself."""

    async def bring(name: str) -> int:
        read: int = await nodes.agents.call(nodes.nodes[name], "copy", manifest, copy, timeout_s=600)
        return read

    return bring


def measure(nodes: FakeNodes, names: list[str], manifest: Manifest, bring: Bring, what: str) -> None:
    """Bring a model to all nodes at once and print a row."""
    came: list[int] = []

    async def work() -> None:
        came.extend(await asyncio.gather(*map(bring, names)))

    begun, used = time.perf_counter(), processor_seconds()
    run(work)
    seconds, used = time.perf_counter() - begun, processor_seconds() - used
    assert all(nodes.has(name, manifest) for name in names)
    part = max(came) / manifest.total_bytes
    cost = used / len(names) / manifest.total_bytes * (1 << 30)
    print(f"{what:42} {part:7.2%} {max(came) / 1e6:9.1f} MB {seconds:7.2f} s {cost:7.2f} s/GiB")


def main() -> None:
    """Measure all ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--changed", type=float, default=0.02)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    names = [f"node{number}" for number in range(arguments.nodes)]
    generator = random.Random(0)
    old = b"".join(generator.randbytes(1 << 20) for _ in range(arguments.mib))
    print(f"{arguments.mib} MiB, {arguments.changed:.1%} of the blocks changed, {arguments.nodes} nodes")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder, fake_nodes(Path(folder), *names) as nodes:
        first = nodes.publish(DRIVER, {"saved_model.pb": b"graph", "weights.bin": old})
        measure(nodes, names, first, together(nodes, first, None), "the first version, from the driver's node")
        for number, way in enumerate(("from the driver's node", "a directory, together", "a directory, alone")):
            new = {
                "saved_model.pb": b"graph",
                "weights.bin": change(old, arguments.changed),
            }
            manifest = nodes.publish(DRIVER, new | {"version": str(number).encode()})
            snapshot = nodes.stores[DRIVER].find(manifest.digest)
            assert snapshot is not None
            with snapshot:
                copy = list_copy(str(snapshot.path), nodes.config.deadlines)
                if number == 2:
                    bring = alone(nodes, manifest, copy)
                else:
                    bring = together(nodes, manifest, copy if number else None)
                measure(nodes, names, manifest, bring, f"a new version, {way}")
            for name in names:
                nodes.stores[name].evict(manifest.digest)


if __name__ == "__main__":
    main()
