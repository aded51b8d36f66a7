"""How often a hub is read by a program that knows tensorflow_hub alone, without hubdist and with it.

    PYTHONPATH=build/legacy python benchmarks/unmodified_tensorflow_hub.py MODEL_DIRECTORY [--nodes 3] [--processes 4]

The program is `examples/unchanged_tensorflow_hub.py`. It runs twice on the same Ray cluster; what differs is one
variable in the driver's environment. Each node has a directory for temporary files of its own, where tensorflow_hub
keeps its cache, as on machines of their own. A loopback hub counts. Needs tensorflow_hub and Keras 2, which
`make test` puts into build/legacy.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hubdist.testing.cluster import RayCluster
from hubdist.testing.hub import LoopbackHub

REPOSITORY = Path(__file__).parent.parent
PROGRAM = REPOSITORY / "examples" / "unchanged_tensorflow_hub.py"
HOOK = {"RAY_RUNTIME_ENV_HOOK": "hubdist.integrations.tensorflow_hub.install_everywhere"}


def run(cluster: RayCluster, handle: str, processes: int, variables: dict[str, str]) -> tuple[float, list[Any]]:
    """Seconds that the program took, and what its processes said."""
    command = [sys.executable, str(PROGRAM), handle, "--processes", str(processes)]
    begin = time.monotonic()
    done = subprocess.run(
        command,
        env={**os.environ, "RAY_ADDRESS": cluster.address, **variables},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(done.stdout + done.stderr)
    return time.monotonic() - begin, [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def measure(root: Path, options: argparse.Namespace) -> None:
    """Run the program on a cluster whose stores and temporary files are in a directory."""
    with RayCluster(root, nodes=1, cpus=0) as cluster:
        for number in range(options.nodes):
            own = root / f"tmp-{number}"
            own.mkdir()
            cluster.add_node(num_cpus=options.processes, env_vars={"TMPDIR": str(own)})
        said = []
        for name, variables in (("without hubdist", {}), ("with hubdist", HOOK)):
            with LoopbackHub() as hub:
                handle = hub.add_model("acme/words/1", options.model)
                seconds, answers = run(cluster, handle, options.nodes * options.processes, variables)
                sent = sum(request.bytes_sent for request in hub.requests)
                reads = hub.reads(handle)
            said.append([answer["answers"] for answer in answers])
            nodes = len({answer["node"] for answer in answers})
            print(
                f"{name}: {len(answers)} processes on {nodes} nodes, the hub was read {reads} times, {sent:,} bytes,"
                f" {seconds:.0f} s",
                flush=True,
            )
    print("equal answers" if said[0] == said[1] else "DIFFERENT ANSWERS")


def main() -> None:
    """Run the program without hubdist and with it, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--processes", type=int, default=4, help="on each node")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        os.environ["HUBDIST_STORE"] = f"{root}/stores/{{node_id}}"  # which the nodes' workers inherit
        measure(Path(root), options)


if __name__ == "__main__":
    main()
