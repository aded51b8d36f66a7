"""What travels when a process reads a part of a large model by `hubdist://` on a node that does not have the model.

    sudo python benchmarks/ranges.py                 # 1 MiB of 1 GiB, links of 1 Gbit/s
    sudo python benchmarks/ranges.py --gib 4 --rate 10gbit

Simulated hosts (`hosts.py`): the driver's, which has the model in its store, and one other with a Ray node. A task on
the other reads 1 MiB that begins inside of a block, the same again, ten more, and the first 64 MiB. Printed are, for
each, the bytes that the node's network interface received meanwhile, with all that Ray itself sends, those that hubdist
counts, and seconds. Needs root, iproute2 and util-linux.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from hosts import Hosts

import hubdist

MIB = 1 << 20


def received() -> int:
    """Bytes that this host's interfaces have received, but for the loopback."""
    lines = Path("/proc/self/net/dev").read_text(encoding="utf-8").splitlines()[2:]
    counts = {name.strip(): int(values.split()[0]) for name, _, values in (line.partition(":") for line in lines)}
    return sum(count for name, count in counts.items() if name != "lo")


@ray.remote(max_retries=0, max_calls=1)  # a process of its own, with no block in memory
def read(handle: str, size: int) -> list[tuple[str, int, int, float]]:
    """For each step its name, bytes of the interface, bytes that hubdist counts, seconds."""
    from hubdist.integrations.fsspec import HubdistFileSystem

    fs = HubdistFileSystem()
    path, half = f"{handle}!/weights.bin", size // 2 + 12_345
    steps: dict[str, Callable[[], Any]] = {
        "nothing, for 1 s": lambda: time.sleep(1),
        "info: the first call of the process": lambda: fs.info(path),
        "1 MiB": lambda: fs.cat_file(path, half, half + MIB),
        "the same 1 MiB": lambda: fs.cat_file(path, half, half + MIB),
        "10 x 1 MiB elsewhere": lambda: [fs.cat_file(path, at * 8 * MIB, at * 8 * MIB + MIB) for at in range(1, 11)],
        "the first 64 MiB": lambda: fs.cat_file(path, 0, 64 * MIB),
    }
    found = []
    for name, step in steps.items():
        travelled, counted, begin = received(), fs.received_bytes, time.perf_counter()
        step()
        seconds = time.perf_counter() - begin
        time.sleep(0.2)  # what is still on its way
        found.append((name, received() - travelled, fs.received_bytes - counted, seconds))
    return found


def inside(gib: float) -> None:
    """On the driver's host: make the model, let the other host read."""
    model = Path("/hostlocal/model")
    model.mkdir()
    size = int(gib * 1024) * MIB
    with (model / "weights.bin").open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
    ray.init(address="auto", log_to_driver=False)
    hubdist.init(store="/hostlocal/store")
    hubdist.resolve(model)
    ray.get(read.options(resources={"h1": 1}).remote(str(model), size))  # the process starts, and Ray learns the task
    hubdist.shutdown()
    hubdist.init(store="/hostlocal/store")
    for name, travelled, counted, seconds in ray.get(read.options(resources={"h1": 1}).remote(str(model), size)):
        print(f"{name:<36} {travelled / MIB:8.2f} MiB received, {counted / MIB:6.2f} counted, {seconds:6.3f} s")
    hubdist.shutdown()


def main() -> None:
    """Build the hosts and measure, or be the driver on one of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gib", type=float, default=1.0, help="the size of the model")
    parser.add_argument("--rate", default="1gbit", help="of each link, as tc writes it")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        inside(options.gib)
        return
    with Hosts(1, options.rate) as hosts:
        hosts.start_ray()
        command = [sys.executable, str(Path(__file__).resolve()), "--inside", "--gib", str(options.gib)]
        print(hosts.run(0, command, timeout_s=600), end="")


if __name__ == "__main__":
    main()
