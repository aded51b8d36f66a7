"""Runs on the driver's host of `delivery.py`: brings the same bytes to all nodes by each scheme, and measures."""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import functools
import hashlib
import http.server
import json
import os
import random
import signal
import sys
import tarfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray
from delivery_floor import Address, FloorPeer, digest_of

import hubdist
from hubdist.report.delivery import Report

PLACE = Path("/hostlocal")
CHUNK = 4 << 20
PATIENCE_S = 900
WARM_UP_BYTES = 8 << 20


def bytes_sent() -> int:
    """Bytes that this host's link has sent so far."""
    with Path("/proc/net/dev").open() as table:
        return next(int(line.split()[9]) for line in table if line.strip().startswith("eth0"))


def idle_and_total() -> tuple[int, int]:
    """Ticks of all processors: idle, and all."""
    with Path("/proc/stat").open() as table:
        ticks = [int(field) for field in table.readline().split()[1:]]
    return ticks[3] + ticks[4], sum(ticks)


def warm_memory(size: int) -> None:
    """Write to some memory and give it back, so that all schemes write to memory that the machine has.

    The host of a virtual machine hands out a page when it is written to first, which costs more than to copy it there;
    whichever scheme came first to such pages would pay for all.

    Args:
        size: Bytes.
    """
    np.zeros(size, np.uint8)[::4096] = 1


def processor_seconds() -> Counter[str]:
    """Seconds that the processors have spent, by kind of process; `kernel, for packets` counts to no process."""
    spent: Counter[str] = Counter()
    tick = os.sysconf("SC_CLK_TCK")
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            words = stat.with_name("cmdline").read_text().replace("\0", " ").split()
            name = Path(words[0]).name if words else "kernel threads"
            name = Path(words[1]).name if name.startswith("python") and len(words) > 1 else name
            spent[name] += (int(fields[11]) + int(fields[12])) / tick
    with Path("/proc/stat").open() as table:
        spent["kernel, for packets"] = sum(map(int, table.readline().split()[6:8])) / tick
    return spent


@ray.remote(num_cpus=0, max_concurrency=24)
class Node:
    """What each host runs for the schemes."""

    def id(self) -> str:
        """Ray's id of the node."""
        return ray.get_runtime_context().get_node_id()

    def sent(self) -> int:
        """Bytes that the host's link has sent."""
        return bytes_sent()

    def fetch_http(self, url: str, name: str) -> str:
        """One plain stream to this host's disk."""
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as reply:
            return write(name, iter(lambda: reply.read(1 << 20), b""))

    def floor_begin(self, size: int, address: str) -> Address:
        """Make ready for the floor; where this host serves."""
        self.floor = FloorPeer(PLACE / f"floor{os.urandom(3).hex()}", size, address, filled=False)
        return self.floor.address

    def floor_pull(self, peers: list[Address], me: int) -> str:
        """All chunks of the floor."""
        return self.floor.pull(peers, me)

    def floor_end(self) -> None:
        """Serve nothing more for the floor."""
        self.floor.close()

    def fetch_object(self, references: list[Any], name: str) -> str:
        """One object."""
        return write(name, iter([memoryview(ray.get(references[0], timeout=PATIENCE_S))]))

    def fetch_shuffled(self, references: list[Any], name: str, size: int) -> str:
        """Objects of `CHUNK` bytes in random order, eight at a time."""
        order = list(range(len(references)))
        random.Random(name + self.id()).shuffle(order)
        path = PLACE / name
        with path.open("wb") as out:
            out.truncate(size)

        def one(index: int) -> None:
            data = ray.get(references[index], timeout=PATIENCE_S)
            with path.open("r+b") as out:
                out.seek(index * CHUNK)
                out.write(memoryview(data))

        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            list(threads.map(one, order))
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def fetch_torrent(self, torrent: bytes, peers: list[tuple[str, int]], address: str, name: str) -> str:
        """BitTorrent, from all peers."""
        session, handle = join_swarm(torrent, address, 6900, PLACE / name)
        for peer in peers:
            handle.connect_peer(peer)
        deadline = time.monotonic() + PATIENCE_S
        while not handle.status().is_seeding:
            if time.monotonic() > deadline:
                raise TimeoutError(name)
            time.sleep(0.02)
        self.session = session  # goes on to serve the others
        found = next(path for path in (PLACE / name).rglob("*") if path.is_file())
        return hashlib.sha256(found.read_bytes()).hexdigest()

    def leave_swarm(self) -> None:
        """End the session, if there is one."""
        self.session = None

    def digest_of(self, digest: str) -> dict[str, str]:
        """sha256 of each file of a snapshot in this host's store."""
        root = PLACE / "store" / "snapshots" / digest.removeprefix("sha256:") / "files"
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in root.iterdir()}

    def resolve(self, handle: str) -> tuple[float, float]:
        """When this process had the model's path, and when the snapshot was published; by one clock."""
        path = Path(hubdist.resolve(handle))
        return time.time(), path.parent.stat().st_ctime


def write(name: str, parts: Iterator[Any]) -> str:
    """Write and digest what comes; durable."""
    digest = hashlib.sha256()
    with (PLACE / name).open("wb") as out:
        for part in parts:
            digest.update(part)
            out.write(part)
        out.flush()
        os.fsync(out.fileno())
    (PLACE / name).unlink()
    return digest.hexdigest()


def join_swarm(torrent: bytes, address: str, port: int, folder: Path) -> tuple[Any, Any]:
    """A BitTorrent session without tracker, DHT or limits."""
    import libtorrent

    folder.mkdir(exist_ok=True)
    session = libtorrent.session(
        {
            "listen_interfaces": f"{address}:{port}",
            "enable_dht": False,
            "enable_lsd": False,
            "enable_upnp": False,
            "enable_natpmp": False,
            "allow_multiple_connections_per_ip": True,
            "unchoke_slots_limit": 16,
            "alert_mask": 0,
        }
    )
    params = libtorrent.add_torrent_params()
    params.ti = libtorrent.torrent_info(libtorrent.bdecode(torrent))
    params.save_path = str(folder)
    params.flags &= ~(libtorrent.torrent_flags.auto_managed | libtorrent.torrent_flags.paused)
    return session, session.add_torrent(params)


class _Serve(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, data: memoryview, *rest: Any) -> None:
        self._data = data
        super().__init__(*rest)

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self._data)))
        self.end_headers()
        self.wfile.write(self._data)


def serve(data: Any, address: str) -> str:
    """Serve bytes over HTTP; the URL."""
    server = http.server.ThreadingHTTPServer((address, 0), functools.partial(_Serve, memoryview(data)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://{address}:{server.server_address[1]}/model.tar"


class Bench:
    """Actors, bytes and measures.

    Args:
        options: Of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.address = options.address
        self.nodes = [Node.options(resources={f"h{host}": 1}).remote() for host in range(1, options.nodes + 1)]
        self.ids: list[str] = ray.get([node.id.remote() for node in self.nodes], timeout=PATIENCE_S)
        self.size = options.mib << 20
        self.counted = True
        self.random = np.random.default_rng()
        hubdist.init(store=str(PLACE / "store"), agent_idle_s=600, route="driver")
        hubdist.prefetch(self.model(1), nodes=self.ids)  # the agents are there, as the actors of the others are

    def data(self) -> Any:
        """Random bytes."""
        return self.random.integers(0, 256, self.size, dtype=np.uint8)

    def model(self, size: int) -> str:
        """A directory of random files on this host alone."""
        root = PLACE / "models" / os.urandom(4).hex()
        root.mkdir(parents=True)
        for number, part in enumerate((size // 2, size // 4, size - size // 2 - size // 4)):
            self.random.integers(0, 256, part, dtype=np.uint8).tofile(root / f"part{number}.bin")
        return str(root)

    def measure(
        self, scheme: str, work: Callable[[], Any], one_copy: float, count: int | None = None
    ) -> dict[str, Any]:
        """Time and link use of one run."""
        warm_memory((len(self.nodes) + 2) * self.size)
        before = ray.get([node.sent.remote() for node in self.nodes], timeout=60)
        busy = processor_seconds()
        (idle, total), sent, begin = idle_and_total(), bytes_sent(), time.monotonic()
        result = work()
        took = time.monotonic() - begin
        idle_now, total_now = idle_and_total()
        spent = processor_seconds() - busy
        after = ray.get([node.sent.remote() for node in self.nodes], timeout=60)
        row = {
            "scheme": scheme,
            "nodes": count or len(self.nodes),
            "s": took,
            "T1": one_copy,
            "ratio": took / one_copy,
            "driver": (bytes_sent() - sent) / self.size,
            "busiest": max(now - then for now, then in zip(after, before, strict=True)) / self.size,
            "idle": (idle_now - idle) / (total_now - total),
            "per_gib": self.busy_s(idle, total, idle_now, total_now)
            / ((count or len(self.nodes)) * self.size / (1 << 30)),
            "processors": dict(spent.most_common(8)),
        }
        if isinstance(result, Report):
            row["curves"] = [node.timeline for node in result.nodes]
        if self.counted:
            print(json.dumps(row), flush=True)
        return row

    @staticmethod
    def busy_s(idle: int, total: int, idle_now: int, total_now: int) -> float:
        """Processor seconds that the whole machine has spent between two looks."""
        return ((total_now - total) - (idle_now - idle)) / os.sysconf("SC_CLK_TCK")

    def one_copy(self) -> float:
        """T1: one plain copy to one node, seconds."""
        data = self.data()
        url, expected = serve(data, self.address), hashlib.sha256(data).hexdigest()
        begin = time.monotonic()
        assert ray.get(self.nodes[0].fetch_http.remote(url, "one"), timeout=PATIENCE_S) == expected
        return time.monotonic() - begin

    # Schemes

    def deliver(self, model: str, nodes: list[str] | None = None) -> Report:
        """The call."""
        report = hubdist.prefetch(model, nodes=nodes or self.ids)
        assert all(node.error is None for node in report.nodes), report
        return report

    def check(self, model: str, nodes: list[Any]) -> None:
        """Every node's store has the bytes."""
        expected = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(model).iterdir()}
        digest = next(pin.digest for pin in hubdist.status().pins if pin.handle == model)
        assert all(found == expected for found in ray.get([n.digest_of.remote(digest) for n in nodes], timeout=300))

    def hubdist(self, one_copy: float, count: int) -> None:
        """hubdist, from a model that the driver's node has."""
        model = self.model(self.size)
        hubdist.resolve(model)
        self.measure("hubdist", functools.partial(self.deliver, model, self.ids[:count]), one_copy, count)
        self.check(model, self.nodes[:count])

    def floor(self, one_copy: float, count: int) -> None:
        """The least that any scheme costs."""
        data, nodes = self.data(), self.nodes[:count]
        path = PLACE / "floor-source"
        data.tofile(path)
        source = FloorPeer(path, self.size, self.address, filled=True)
        hosts = [f"{self.address.rpartition('.')[0]}.{host + 1}" for host in range(1, count + 1)]
        begun = [node.floor_begin.remote(self.size, host) for node, host in zip(nodes, hosts, strict=True)]
        peers = [source.address, *ray.get(begun, timeout=PATIENCE_S)]

        def run() -> None:
            pulled = [node.floor_pull.remote(peers, at) for at, node in enumerate(nodes, 1)]
            assert set(ray.get(pulled, timeout=PATIENCE_S)) == {digest_of(memoryview(data))}

        self.measure("floor", run, one_copy, count)
        ray.get([node.floor_end.remote() for node in nodes], timeout=60)
        source.close()

    def other(self, scheme: str, one_copy: float, count: int) -> None:
        """Something else."""
        data = self.data()
        expected = hashlib.sha256(data).hexdigest()
        name = f"{scheme}{os.urandom(3).hex()}"
        nodes = self.nodes[:count]
        start = {
            "http star": self.http_star,
            "ray.put": self.ray_put,
            "random chunks": self.random_chunks,
            "BitTorrent": self.bittorrent,
        }[scheme]

        def run() -> None:
            assert set(ray.get(start(data, name, nodes), timeout=PATIENCE_S)) == {expected}

        self.measure(scheme, run, one_copy, count)
        ray.get([node.leave_swarm.remote() for node in nodes], timeout=60)
        self.seed = None

    def http_star(self, data: Any, name: str, nodes: list[Any]) -> list[Any]:
        """All at once from the driver."""
        url = serve(data, self.address)
        return [node.fetch_http.remote(url, name) for node in nodes]

    def ray_put(self, data: Any, name: str, nodes: list[Any]) -> list[Any]:
        """One object for all."""
        reference = ray.put(data)
        return [node.fetch_object.remote([reference], name) for node in nodes]

    def random_chunks(self, data: Any, name: str, nodes: list[Any]) -> list[Any]:
        """Objects that nodes fetch in random order, so that they can have them from each other."""
        references = [ray.put(data[start : start + CHUNK]) for start in range(0, self.size, CHUNK)]
        return [node.fetch_shuffled.remote(references, name, self.size) for node in nodes]

    def bittorrent(self, data: Any, name: str, nodes: list[Any]) -> list[Any]:
        """A torrent is made, and all know all others."""
        import libtorrent

        folder = PLACE / f"seed{name}"
        folder.mkdir()
        data.tofile(folder / "data.bin")
        files = libtorrent.file_storage()
        libtorrent.add_files(files, str(folder / "data.bin"))
        made = libtorrent.create_torrent(files, 256 << 10)
        libtorrent.set_piece_hashes(made, str(folder))
        encoded = libtorrent.bencode(made.generate())
        self.seed = join_swarm(encoded, self.address, 6900, folder)
        addresses = [f"{self.address.rpartition('.')[0]}.{host + 1}" for host in range(1, len(nodes) + 1)]
        peers = [(address, 6900) for address in [self.address, *addresses]]
        return [
            node.fetch_torrent.remote(encoded, [peer for peer in peers if peer[0] != address], address, name)
            for node, address in zip(nodes, addresses, strict=True)
        ]

    # Scenarios

    def swarm(self) -> None:
        """All schemes in turns; first a small model by each, which opens connections and is not counted."""
        self.size, whole, self.counted = WARM_UP_BYTES, self.size, False
        self.turn()
        self.size, self.counted = whole, True
        for _ in range(self.options.rounds):
            self.turn()

    def turn(self) -> None:
        """One round."""
        one_copy = self.one_copy()
        for count in self.options.counts:
            for scheme in self.options.schemes:
                if scheme in ("hubdist", "floor"):
                    getattr(self, scheme)(one_copy, count)
                else:
                    self.other(scheme, one_copy, count)

    def cold(self) -> None:
        """No agent runs on any node when the delivery begins."""
        for _ in range(self.options.rounds):
            one_copy = self.one_copy()
            model = self.model(self.size)
            hubdist.shutdown()
            hubdist.init(store=str(PLACE / "store"), agent_idle_s=600, route="driver")
            hubdist.resolve(model)
            self.measure("first use", functools.partial(self.deliver, model), one_copy)

    def late(self) -> None:
        """Half of the nodes when the others are done."""
        for _ in range(self.options.rounds):
            one_copy = self.one_copy()
            model = self.model(self.size)
            hubdist.resolve(model)
            half = len(self.ids) // 2
            self.measure("first half", functools.partial(self.deliver, model, self.ids[:half]), one_copy, half)
            self.measure("second half", functools.partial(self.deliver, model, self.ids[half:]), one_copy, half)

    def origin(self) -> None:
        """The origin is on another host with a link of the same rate, and is read while it is delivered."""
        for number in range(self.options.rounds):
            one_copy = self.one_copy()
            begin = time.monotonic()
            with urllib.request.urlopen(f"{self.options.origin}/alone.tar", timeout=PATIENCE_S) as reply:
                while reply.read(1 << 20):
                    pass
            alone = time.monotonic() - begin
            url = f"{self.options.origin}/model{number}.tar"
            work = functools.partial(self.deliver, url)
            self.measure("origin and delivery, over the longer", work, max(alone, one_copy))

    def waiters(self) -> None:
        """Sixteen processes of one node wait for one snapshot."""
        host = {"resources": {"h1": 1}}
        waiting = [Node.options(**host).remote() for _ in range(16)]
        ray.get([each.id.remote() for each in waiting], timeout=PATIENCE_S)
        warm = self.model(1000)
        ray.get([each.resolve.remote(warm) for each in waiting], timeout=PATIENCE_S)
        for _ in range(self.options.rounds):
            one_copy = self.one_copy()
            model = self.model(self.size)
            row: list[tuple[float, float]] = []
            self.measure(
                "16 waiters",
                lambda model=model, row=row: row.extend(
                    ray.get([each.resolve.remote(model) for each in waiting], timeout=PATIENCE_S)
                ),
                one_copy,
            )
            late = sorted(returned - published for returned, published in row)
            print(
                json.dumps({"scheme": "awake after publishing", "first_ms": 1e3 * late[0], "last_ms": 1e3 * late[-1]})
            )

    def kill(self) -> None:
        """One node dies in the middle."""
        one_copy = self.one_copy()
        model = self.model(self.size)
        hubdist.resolve(model)
        quiet = self.measure("undisturbed", functools.partial(self.deliver, model), one_copy)
        model = self.model(self.size)
        hubdist.resolve(model)
        threading.Timer(quiet["s"] / 2, lambda: os.kill(os.getppid(), signal.SIGUSR1)).start()
        begin = time.monotonic()
        try:
            hubdist.prefetch(model, nodes=self.ids)
        except hubdist.errors.DeliveryError as error:
            failures = error.failures
        ended = time.monotonic() - begin
        others = max(each.seconds for each in hubdist.status().deliveries if each.handle == model and not each.error)
        row = {
            "scheme": "one of them killed",
            "others_s": others,
            "others_over_undisturbed": others / quiet["s"],
            "until_the_lost_node_is_named_s": ended,
            "failed": {name: str(failure)[:80] for name, failure in failures.items()},
        }
        self.check(model, self.nodes[:-1])
        print(json.dumps(row), flush=True)


def serve_origin(options: argparse.Namespace) -> None:
    """Be the host of an origin: tar files of random bytes."""
    folder = PLACE / "origin"
    folder.mkdir()
    for name in ("alone", *(f"model{number}" for number in range(options.rounds))):
        root = folder / name
        root.mkdir()
        for part in range(2):
            (root / f"part{part}.bin").write_bytes(os.urandom(options.mib << 19))
        with tarfile.open(folder / f"{name}.tar", "w") as archive:
            archive.add(root, arcname=".")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer((options.address, 8000), handler) as server:
        (PLACE / "ready").touch()
        server.serve_forever()


def main() -> None:
    """Run one scenario."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--scenario", default="swarm")
    parser.add_argument("--address", required=True)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--counts", type=int, nargs="+", default=[8])
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--schemes", nargs="*", default=["hubdist"])
    parser.add_argument("--origin", help="URL of the host of an origin")
    options = parser.parse_args()
    if options.scenario == "serve_origin":
        serve_origin(options)
    ray.init(address=f"{options.address}:6379", log_to_driver=False, logging_level="ERROR")
    getattr(Bench(options), options.scenario)()
    sys.stdout.flush()
    os._exit(0)  # sessions and servers have threads that need not be waited for


if __name__ == "__main__":
    main()
