"""A large model on nodes with small object stores: does it arrive, and how much memory do coordinator and agents take?

    python benchmarks/memory.py [--gib 2] [--store-mb 300]

Three nodes on this machine with a store each; the model is random bytes. Prints private memory (Private_Clean +
Private_Dirty of /proc/<pid>/smaps_rollup) of the coordinator and of every agent: before the delivery, and the most
that was seen during it. Also whether Ray spilled objects to disk.
"""

import argparse
import os
import tempfile
import threading
import time
from pathlib import Path

import ray

import hubdist
from hubdist.testing.cluster import RayCluster


def private_bytes(pid: int) -> int:
    """Memory that belongs to this process alone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_"))


def actors(session: str) -> dict[int, str]:
    """Process id -> class name of the coordinators and agents of one Ray session on this machine."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            title = (entry / "cmdline").read_bytes().decode()
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            if title.startswith(("ray::Coordinator", "ray::NodeAgent")):
                raylet = Path(f"/proc/{parent}/cmdline").read_bytes().decode()
                if session in raylet:
                    found[int(entry.name)] = "coordinator" if "Coordinator" in title else "agent"
        except OSError:
            continue
    return found


class Watch(threading.Thread):
    """Notes the most private memory of each actor, ten times a second."""

    def __init__(self, session: str) -> None:
        super().__init__(daemon=True)
        self.session = session
        self.first: dict[int, int] = {}
        self.most: dict[int, int] = {}
        self.names: dict[int, str] = {}
        self.end = threading.Event()

    def run(self) -> None:
        """Watch until `end` is set."""
        while not self.end.wait(0.1):
            for pid, name in actors(self.session).items():
                now = private_bytes(pid)
                self.names[pid] = name
                self.first.setdefault(pid, now)
                self.most[pid] = max(now, self.most.get(pid, 0))


def main() -> None:
    """Deliver one large model and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=2.0, help="size of the model in GiB")
    parser.add_argument("--store-mb", type=int, default=300, help="size of each node's object store in MB")
    parser.add_argument("--dir", type=Path, default=None, help="where model and stores go (4 x the model's size)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        folder = Path(name)
        (folder / "model").mkdir()
        (folder / "small").mkdir()
        (folder / "small" / "saved_model.pb").write_bytes(b"small")
        with (folder / "model" / "saved_model.pb").open("wb") as file:
            for _ in range(int(options.gib * 64)):
                file.write(os.urandom(16 << 20))
        with RayCluster(folder, nodes=3, object_store_bytes=options.store_mb * 10**6, log_to_driver=False) as cluster:
            # the nodes could read the directory, for they are one machine: the route of a real cluster is asked for
            hubdist.init(store=cluster.store, agent_idle_s=60, route="driver")
            hubdist.prefetch(str(folder / "small"))  # starts coordinator and agents
            session = ray.get_runtime_context().get_session_name()
            watch = Watch(session)
            watch.start()
            time.sleep(1.0)  # a few looks at them while they are idle
            watch.first = dict(watch.most)
            begin = time.monotonic()
            report = hubdist.prefetch(str(folder / "model"))
            seconds = time.monotonic() - begin
            watch.end.set()
            watch.join()
            print(report)
            spilled = list(Path(f"/tmp/ray/{session}").glob("ray_spilled_objects*/*"))
            print(f"{options.gib} GiB to 3 nodes with object stores of {options.store_mb} MB in {seconds:.1f} s")
            for pid, most in watch.most.items():
                print(
                    f"  {watch.names[pid]}: idle {watch.first.get(pid, 0) >> 20} MiB,"
                    f" at most {(most - watch.first.get(pid, 0)) >> 20} MiB over it"
                )
            print(f"  spilled objects: {len(spilled)}")


if __name__ == "__main__":
    main()
