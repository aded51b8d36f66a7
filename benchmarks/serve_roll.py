"""Roll out new versions behind Ray Serve under a steady load: requests that fail, or that see two versions.

    python benchmarks/serve_roll.py [--rate 50] [--seconds 10] [--rolls 4] [--way config|run]

Two Ray nodes on this machine, two replicas, a model whose answer is its version. Each request has 64 rows, which the
model gets 8 at a time, so one request is eight calls of the model: if two versions had answered it, its rows would
differ. Clients ask at the rate, whether answers have come or not; `--seconds` lie between two rolls. `config` changes
`user_config`, as `serve deploy` of a file does, and replicas stay; `run` calls `serve.run`, and Ray Serve replaces
them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

import hubdist
from hubdist.integrations.ray_serve import app
from hubdist.testing.cluster import RayCluster

ROWS = 64
THREADS = 25
PATIENCE_S = 120
_EXPORT = """
import sys
import tensorflow as tf

for version in range(int(sys.argv[2])):
    module = tf.Module()
    module.version = tf.Variable(float(version))
    call = tf.function(lambda x: {"version": 0 * x + module.version}, [tf.TensorSpec((None,), name="x")])
    tf.saved_model.save(module, f"{sys.argv[1]}/{version}", signatures=call)
"""


class Clients:
    """Ask at a steady rate; what came back is in `answers`, `failures` and `mixed`."""

    def __init__(self, handle: Any, rate: float) -> None:
        self.answers: list[tuple[float, float, float, str]] = []
        self.failures: list[str] = []
        self.mixed = 0
        self._handle = handle
        self._every_s = THREADS / rate
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number / rate,)) for number in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Wait for the last answers."""
        self._ended.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def _ask(self, after_s: float) -> None:
        due = time.monotonic() + after_s
        x = np.zeros(ROWS, np.float32)
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            due = max(due + self._every_s, time.monotonic() - self._every_s)
            begin = time.monotonic()
            try:
                answer = self._handle.predict.remote({"x": x}).result(timeout_s=PATIENCE_S)
            except Exception as error:  # noqa: BLE001 - any failure of a request is what is counted
                self.failures.append(repr(error)[:300])
                continue
            versions = set(answer["outputs"]["version"].tolist())
            self.mixed += len(versions) > 1
            self.answers.append((begin, time.monotonic() - begin, versions.pop(), answer["version"]))


def deploy(way: str, handle: str, first: str) -> None:
    """Serve a version, and wait until all replicas do."""
    args = {"handle": first, "pad_to": 8, "max_batch_size": 4, "example": {"x": [0.0]}}
    model = {"handle": handle, "pad_to": 8, "example": {"x": [0.0]}}
    if way == "run":
        serve.run(app({**args, "handle": handle, "options": {"num_replicas": 2}}), name="versions", route_prefix=None)
        return
    deployment = {"name": "ModelServer", "num_replicas": 2, "user_config": model}
    application = {
        "name": "versions",
        "import_path": "hubdist.integrations.ray_serve:app",
        "args": args,
        "deployments": [deployment],
    }
    _get_global_client().deploy_apps(ServeDeploySchema.model_validate({"applications": [application]}))
    deadline = time.monotonic() + PATIENCE_S
    while serve.status().applications["versions"].status != "RUNNING":
        if time.monotonic() > deadline:
            raise TimeoutError(f"not running after {PATIENCE_S} s: {serve.status()}")
        time.sleep(0.1)


def main() -> None:
    """Serve, ask, roll, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=50, help="requests per second")
    parser.add_argument("--seconds", type=float, default=10, help="between two rolls")
    parser.add_argument("--rolls", type=int, default=4)
    parser.add_argument("--way", choices=["config", "run"], default="config")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-c", _EXPORT, name, str(options.rolls + 1)]
        subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S)
        with RayCluster(Path(name), nodes=2, cpus=4, log_to_driver=False) as cluster:
            hubdist.init(store=cluster.store)
            serve.start(proxy_location="Disabled")
            handles = [f"{name}/{version}" for version in range(options.rolls + 1)]
            deploy(options.way, handles[0], handles[0])
            clients = Clients(serve.get_app_handle("versions"), options.rate)
            time.sleep(options.seconds)
            for handle in handles[1:]:
                begin = time.monotonic()
                deploy(options.way, handle, handles[0])
                print(f"rolled in {time.monotonic() - begin:.1f} s", flush=True)
                time.sleep(options.seconds)
            clients.end()
            serve.shutdown()
    took = np.array([seconds for _, seconds, _, _ in clients.answers])
    asked = len(clients.answers) + len(clients.failures)
    lasted = max(begin for begin, *_ in clients.answers) - min(begin for begin, *_ in clients.answers)
    print(f"{asked} requests in {lasted:.0f} s, {asked / lasted:.1f} per second, {options.rolls} rolls ({options.way})")
    print(f"failed: {len(clients.failures)}; saw two versions: {clients.mixed}")
    print(f"versions seen: {sorted({version for _, _, version, _ in clients.answers})}")
    median, tail, longest = np.quantile(took, [0.5, 0.99, 1])
    print(f"seconds for an answer: median {median:.3f}, 99 % below {tail:.3f}, longest {longest:.3f}")
    for failure in clients.failures[:3]:
        print(f"  {failure}")


if __name__ == "__main__":
    main()
