"""Every kind of origin by every route in every read mode, on a cluster of two nodes with a real bucket.

    python -m tests.support.matrix MODEL FOLDER RESULTS

Loads a copy of the SavedModel in MODEL for each cell, in a task on the node that is not the driver's, and writes what
came of it to the JSON file RESULTS. A program of its own, so that it can run where TensorFlow's own gs:// client
reaches the bucket; see `test_matrix.py`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import ray

import hubdist
from hubdist.testing.cluster import RayCluster
from hubdist.testing.hub import LoopbackHub
from hubdist.testing.memory import MemorySource
from tests.support.archives import targz, zipped
from tests.support.gcs import FakeGcs, fake_gcs

KINDS = ("hub", "hub that has it uncompressed", "archive", "bucket", "path", "member", "custom")
ROUTES = ("shared", "auto", "direct", "driver")
MODES = ("store", "memory", "in_place")
CELLS = tuple(itertools.product(KINDS, ROUTES, MODES))
WORDS = ["one", "two", "unknown"]

Files = dict[str, bytes]


def cell_name(kind: str, route: str, mode: str) -> str:
    """The name of a cell in the results, good for a file name."""
    return f"{kind.replace(' ', '-')}.{route}.{mode}"


class Places:
    """Puts models where the kinds of handles find them."""

    def __init__(self, hub: LoopbackHub, gcs: FakeGcs, folder: Path) -> None:
        self._hub = hub
        self._gcs = gcs
        self._folder = folder
        gcs.make_bucket("models")

    def put(self, kind: str, name: str, files: Files) -> str:
        """Make a handle of this kind for these files."""
        makers: dict[str, Callable[[str, Files], str]] = {
            "hub": self._hub.add_model,
            "hub that has it uncompressed": self._uncompressed,
            "archive": lambda name, files: self._hub.add_file(f"{name}.tar.gz", targz(files)),
            "bucket": self._bucket,
            "path": self._path,
            "member": self._member,
            "custom": lambda name, _: f"cells://{name}",
        }
        return makers[kind](name, files)

    def _uncompressed(self, name: str, files: Files) -> str:
        return self._hub.add_model(name, files, uncompressed_location=self._bucket(name, files))

    def _bucket(self, name: str, files: Files) -> str:
        self._gcs.put_all("models", name, files)
        return f"gs://models/{name}"

    def _path(self, name: str, files: Files) -> str:
        root = self._folder / name
        for path, data in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
        return str(root)

    def _member(self, name: str, files: Files) -> str:
        archive = self._folder / f"{name}.zip"
        archive.write_bytes(zipped({f"inner/{path}": data for path, data in files.items()}))
        return f"zip://inner::{archive}"


@ray.remote(num_cpus=1, max_retries=0)
def load(handle: str, route: str, mode: str) -> dict[str, Any]:
    """What a load gives: the model's answer, and the path that TensorFlow opened; or the error."""
    import tensorflow as tf

    with mock.patch.object(tf.saved_model, "load", wraps=tf.saved_model.load) as spy:
        try:
            model = hubdist.load(handle, route=route, read_mode=mode)
        except hubdist.HubdistError as error:
            return {"error": type(error).__name__, "says": str(error)}
    (output,) = model.signatures["serving_default"](words=tf.constant(WORDS)).values()
    return {"answer": output.numpy().tolist(), "opened": spy.call_args_list[-1].args[0]}


def run(model: Path, folder: Path, gcs: FakeGcs) -> dict[str, dict[str, Any]]:
    """Run all cells; those of the route `shared` in a job with a shared cache, the others in one without."""
    whole = {str(path.relative_to(model)): path.read_bytes() for path in model.rglob("*") if path.is_file()}
    files = {cell_name(*cell): {**whole, "assets.extra/cell": cell_name(*cell).encode()} for cell in CELLS}
    results: dict[str, dict[str, Any]] = {}
    with LoopbackHub() as hub, RayCluster(folder, nodes=2, log_to_driver=False) as cluster:
        places = Places(hub, gcs, folder)
        for shared in (True, False):
            hubdist.init(
                store=cluster.store,
                shared_cache="gs://models/cache" if shared else None,
                origins={"cells": lambda handle: MemorySource(files[handle.removeprefix("cells://")])},
                agent_idle_s=600,
            )
            for cell in CELLS:
                if (cell[1] == "shared") == shared:
                    name = cell_name(*cell)
                    handle = places.put(cell[0], name, files[name])
                    results[name] = run_cell(cluster, handle, *cell[1:])
                    print(name, flush=True)
            hubdist.shutdown()
            if shared:
                ray.shutdown()
                ray.init(address=cluster.address, log_to_driver=False)
    return results


def run_cell(cluster: RayCluster, handle: str, route: str, mode: str) -> dict[str, Any]:
    """Load in a task on the second node; add how the node got the model, and whether its store has it."""
    node = cluster.node_ids[1]
    result: dict[str, Any] = ray.get(load.options(**cluster.on(node)).remote(handle, route, mode), timeout=120)
    status = hubdist.status()
    pin = status.pins[-1]
    routes = [str(report.route) for report in status.deliveries if report.digest == pin.digest]
    digest = pin.digest.removeprefix("sha256:")
    stored = [(cluster.store_of(each) / "snapshots" / digest).exists() for each in cluster.node_ids]
    return {**result, "source": pin.source, "routes": routes, "driver has it": stored[0], "node has it": stored[1]}


def main(model: Path, folder: Path, results: Path) -> None:
    """Run all cells, with the bucket that is there or one of their own."""
    running = os.environ.get("STORAGE_EMULATOR_HOST")
    with contextlib.nullcontext(FakeGcs(running)) if running else fake_gcs() as gcs:
        results.write_text(json.dumps(run(model, folder, gcs), indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
