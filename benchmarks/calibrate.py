"""What a delivery costs on this machine beside its links: the figures of `hubdist.delivery.costs.Costs`.

    sudo python benchmarks/calibrate.py

Simulated hosts (`hosts.py`). A plain copy tells which part of a link's bytes are a model's; connections to eight hosts
how unevenly TCP shares a link; deliveries of 1 MiB to two and to eight nodes what a node and a call take; larger
deliveries what bytes take, kernel included. `benchmarks/streams.py` says the same of bytes without hosts. Needs root,
iproute2 and util-linux.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from hosts import Hosts
from what_if import MIB, deliver, open_bench, run_inside

from hubdist.delivery.costs import Costs

SMALL_ROUNDS = 20
LARGE_ROUNDS = 3
SHARE_ROUNDS = 12
"""Single rounds differ by a factor of two and more."""


def calibrate_inside(nodes: int, mib: int, address: str) -> None:
    """On the driver's host: a new job's first delivery, small ones, and large ones."""
    import hubdist

    bench = open_bench(nodes, mib, address)
    hubdist.shutdown()
    hubdist.init(store="/hostlocal/store", agent_idle_s=600, route="driver")
    model = bench.model(1)
    begin = time.monotonic()
    hubdist.prefetch(model, nodes=bench.ids)
    first_s = time.monotonic() - begin
    whole, bench.size = bench.size, MIB
    deliver(bench)
    small, small_spent = repeat(bench, SMALL_ROUNDS)
    bench.size = whole
    _, spent = repeat(bench, LARGE_ROUNDS)
    row = {
        "first_s": first_s,
        "start_s": small,
        "coordinator_s": small_spent["ray::Coordinator"],
        "agents_s": small_spent["ray::NodeAgent"],
        "bytes_s": sum(spent[name] - small_spent[name] for name in ("ray::NodeAgent", "kernel, for packets")),
    }
    print(json.dumps(row), flush=True)


def repeat(bench: Any, rounds: int) -> tuple[float, Counter[str]]:
    """Seconds of a delivery, the median, and the mean processor seconds by kind of process."""
    from delivery_schemes import processor_seconds

    import hubdist

    models = [bench.model(bench.size) for _ in range(rounds)]
    for model in models:
        hubdist.resolve(model)
    before, took = processor_seconds(), []
    for model in models:
        begin = time.monotonic()
        bench.deliver(model)
        took.append(time.monotonic() - begin)
    after = processor_seconds()
    return statistics.median(took), Counter({name: (after[name] - before[name]) / rounds for name in after})


def payload_part(rate: int, mib: int) -> float:
    """Part of a link's rate that a plain copy gets."""
    with Hosts(1, f"{rate}mbit") as hosts:
        command = [sys.executable, __file__, "--inside", "receive", "--address", hosts.address(1)]
        copy: list[str] = []
        reader = threading.Thread(target=lambda: copy.append(hosts.run(1, command, timeout_s=60)))
        reader.start()
        send = [sys.executable, __file__, "--inside", "send", "--address", hosts.address(1), "--mib", str(mib)]
        hosts.run(0, send, timeout_s=60)
        reader.join()
    return float(json.loads(copy[0])["rate"]) * 8e-6 / rate


def uneven(rate: int, hosts_count: int, seconds: float) -> float:
    """Which part less than an even share the slowest of several streams gets of the link that sends them."""
    with Hosts(hosts_count, f"{rate}mbit") as hosts:
        for host in range(1, hosts_count + 1):
            command = [sys.executable, __file__, "--inside", "sink", "--address", hosts.address(host)]
            subprocess.Popen(hosts.command(host, command))
        arguments = ["--inside", "shares", "--rounds", str(SHARE_ROUNDS), "--seconds", str(seconds)]
        return statistics.median(row["uneven"] for row in run_inside(__file__, hosts, arguments))


def share_link(hosts_count: int, seconds: float, rounds: int) -> None:
    """Send to all hosts at once for some time; how far the slowest stream is below the mean."""
    for _ in range(rounds):
        print(json.dumps({"uneven": share_once(hosts_count, seconds)}))


def share_once(hosts_count: int, seconds: float) -> float:
    """One round of it."""
    sent = [0] * hosts_count
    connections = [connect(Hosts.address(host)) for host in range(1, hosts_count + 1)]
    deadline = time.monotonic() + seconds

    def push(stream: int) -> None:
        while time.monotonic() < deadline:
            connections[stream].sendall(bytes(1 << 16))
            sent[stream] += 1

    threads = [threading.Thread(target=push, args=(stream,)) for stream in range(hosts_count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for connection in connections:
        connection.close()
    return 1 - min(sent) * hosts_count / sum(sent)


def sink(address: str) -> None:
    """Take what comes, until this process is killed."""
    with socket.create_server((address, 5001)) as listener:
        while True:
            connection, _ = listener.accept()
            while connection.recv(MIB):
                pass


def receive(address: str) -> None:
    """Take what comes; bytes per second, without the first part, which a shaper lets through at once."""
    with socket.create_server((address, 5001)) as listener:
        connection, _ = listener.accept()
        total, begin, first = 0, 0.0, 4 * MIB
        while data := connection.recv(MIB):
            total += len(data)
            if not begin and total >= first:
                begin, first = time.monotonic(), total
        print(json.dumps({"rate": (total - first) / (time.monotonic() - begin)}))


def connect(address: str) -> socket.socket:
    """A connection to whoever listens within ten seconds."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection((address, 5001))
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def send(address: str, mib: int) -> None:
    """Send to whoever listens."""
    with connect(address) as connection:
        for _ in range(mib):
            connection.sendall(bytes(MIB))


def calibrate() -> None:
    """Print the costs of this machine: what depends on the number of nodes from clusters of two and of eight."""
    part = payload_part(100, 32)
    shares = uneven(100, 8, 6.0)
    found = {}
    for nodes, mib, rate in ((2, 8, None), (8, 8, None), (4, 128, "500mbit")):
        with Hosts(nodes, rate) as hosts:
            hosts.start_ray()
            found[nodes] = next(run_inside(__file__, hosts, ["--inside", "calibrate", "--mib", str(mib)]))
    more = {name: (found[8][name] - found[2][name]) / 6 for name in found[2]}
    call_s = more["coordinator_s"] / Costs().calls_per_node
    node_s = (more["start_s"] - more["coordinator_s"]) * (os.cpu_count() or 1)
    start_s = found[2]["start_s"] - 2 * more["start_s"]
    print(f"payload_part                 {part:.3f}")
    print(f"uneven                       {shares:.2f}")
    print(f"start_s                      {start_s:.3f}")
    print(f"node_s                       {node_s:.4f}")
    print(f"call_s                       {call_s:.5f}")
    print(f"receive and send, s per MiB  {found[4]['bytes_s'] / 4 / 128:.5f}")
    print(f"first delivery of a job, s   {found[2]['first_s']:.2f} to {found[8]['first_s']:.2f}")
    print(*(f"{nodes} nodes: {row}" for nodes, row in found.items()), sep="\n")


def main() -> None:
    """Measure and print, or play the part of one host."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--inside", choices=["calibrate", "receive", "send", "sink", "shares"], help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--mib", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--nodes", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside is None:
        calibrate()
        return
    parts: dict[str, Callable[[], None]] = {
        "calibrate": lambda: calibrate_inside(options.nodes, options.mib, options.address),
        "receive": lambda: receive(options.address),
        "send": lambda: send(options.address, options.mib),
        "sink": lambda: sink(options.address),
        "shares": lambda: share_link(options.nodes, options.seconds, options.rounds),
    }
    parts[options.inside]()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
