"""What a job leaves behind in the logs of Ray's session, and what its metrics say, on a real cluster."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray

import hubdist
from hubdist.cluster.metrics import DECLARED, DELIVERY_SECONDS
from hubdist.report.delivery import Report
from hubdist.report.record import read_record_file
from hubdist.testing.cluster import RayCluster
from hubdist.testing.hub import LoopbackHub

pytestmark = pytest.mark.cluster
SIZE = 6 << 20


def make_model(folder: Path, size: int = SIZE) -> Path:
    folder.mkdir()
    (folder / "weights.bin").write_bytes(os.urandom(size))
    return folder


_SCRAPE_S = 60.0
_LINE = re.compile(r"^ray_(hubdist_\w+)\{(.*)\} (\S+)$")


Values = dict[str, dict[frozenset[tuple[str, str]], float]]
"""Metric -> its tags, without Ray's own -> value."""


def scrape(port: int) -> Values:
    """What one node exports of hubdist, as Prometheus reads it."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    found: Values = defaultdict(lambda: defaultdict(float))
    for line in text.splitlines():
        matched = _LINE.match(line)
        if matched is not None:
            tags = re.findall(r'(\w+)="([^"]*)"', matched[2])
            own = {"node", "route", "source", "outcome", "le"}
            found[matched[1]][frozenset((name, value) for name, value in tags if name in own)] += float(matched[3])
    return found


def tags(**values: str) -> frozenset[tuple[str, str]]:
    return frozenset(values.items())


@ray.remote(num_cpus=0)
def traced_resolve(handle: str) -> dict[str, dict[str, object]]:
    """Resolve a handle in a process that traces; returns the attributes of each span, by its name."""
    import opentelemetry.trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    opentelemetry.trace.set_tracer_provider(provider)
    hubdist.resolve(handle)
    return {each.name: dict(each.attributes or {}) for each in exporter.get_finished_spans()}


@dataclass(frozen=True)
class Seen:
    """A job with three deliveries of one model, two of another that evict the first, two hits and a failed handle."""

    report: Report
    evicting: Report
    others: list[str]
    found: Values

    @property
    def driver(self) -> str:
        return self.report.nodes[0].name


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with RayCluster(tmp_path_factory.mktemp("cluster"), nodes=3, log_to_driver=False) as running:
        yield running


@pytest.fixture(scope="module")
def seen(cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """What the first job of the cluster did, and all that the nodes export by its end."""
    folder = tmp_path_factory.mktemp("seen")
    with LoopbackHub() as hub:
        handle = hub.add_model("acme/big/1", make_model(folder / "model"))
        hubdist.init(store=cluster.store, max_store_bytes="7MiB")
        report = hubdist.prefetch(handle)
        others = [one.node for one in report.nodes[1:]]

        @ray.remote(num_cpus=0)
        def resolve_twice() -> None:
            for _ in range(2):
                hubdist.resolve(handle)

        ray.get(resolve_twice.options(**cluster.on(others[0])).remote(), timeout=120)
        with pytest.raises(hubdist.errors.ModelNotFoundError):
            hubdist.resolve(handle.replace("/big/1", "/big/2"))
        evicting = hubdist.prefetch(hub.add_model("acme/other/1", make_model(folder / "again")), nodes=others)
        found = scrape_until(lambda values: len(values) >= 11)
    hubdist.shutdown()
    yield Seen(report, evicting, others, found)


@pytest.fixture
def later_job(cluster: RayCluster, seen: Seen) -> RayCluster:
    """The cluster, of which this process is the driver of another job."""
    hubdist.shutdown()
    ray.shutdown()
    ray.init(address=cluster.address, log_to_driver=False)
    return cluster


def scrape_until(enough: Callable[[Values], bool]) -> Values:
    """What all nodes export, once it is enough; Ray exports every few seconds."""
    ports = [int(info["MetricsExportPort"]) for info in ray.nodes() if info["Alive"]]
    deadline = time.monotonic() + _SCRAPE_S
    while True:
        found: Values = defaultdict(lambda: defaultdict(float))
        for port in ports:
            for name, values in scrape(port).items():
                for key, value in values.items():
                    found[name][key] += value
        if enough(found) or time.monotonic() > deadline:
            return found
        time.sleep(1)


def test_received_bytes_are_those_of_the_report(seen: Seen) -> None:
    wanted: dict[frozenset[tuple[str, str]], float] = defaultdict(float)
    for one in (*seen.report.nodes, *seen.evicting.nodes):
        for sender, size in one.sources:
            kind = "driver" if sender == seen.driver else "peer"
            wanted[tags(node=one.name, route="driver", source=kind)] += size
    wanted[tags(node=seen.driver, route="resolve", source="origin")] = 2 * SIZE
    assert seen.found["hubdist_received_bytes_total"] == wanted


def test_deliveries_and_their_waits_are_those_of_the_report(seen: Seen) -> None:
    wanted: dict[frozenset[tuple[str, str]], float] = defaultdict(float)
    several = (*seen.report.nodes, *seen.evicting.nodes)
    for one in several:
        wanted[tags(node=one.name, route=str(one.route), outcome="ok")] += 1
    assert seen.found["hubdist_deliveries_total"] == wanted
    assert sum(seen.found["hubdist_delivery_seconds_count"].values()) == len(several)
    buckets: dict[float, float] = defaultdict(float)
    for key, count in seen.found["hubdist_delivery_seconds_bucket"].items():
        buckets[float(dict(key)["le"])] += count
    assert DELIVERY_SECONDS.boundaries is not None
    for end in (*DELIVERY_SECONDS.boundaries, float("inf")):
        assert buckets[end] == sum(one.seconds <= end for one in several)


def test_handles_are_counted_with_their_outcome(seen: Seen) -> None:
    assert seen.found["hubdist_resolves_total"] == {
        tags(node=seen.driver, source="origin", outcome="ok"): 2,
        tags(node=seen.driver, source="none", outcome="failed"): 1,
    }
    assert sum(seen.found["hubdist_resolve_seconds_count"].values()) == 2


def test_hits_and_evictions_are_those_of_their_nodes(seen: Seen) -> None:
    names = {one.node: one.name for one in seen.report.nodes}
    assert seen.found["hubdist_store_hits_total"] == {tags(node=names[seen.others[0]]): 2}
    evicted = seen.found["hubdist_evictions_total"]
    assert set(evicted) >= {tags(node=names[seen.others[1]])}
    assert set(evicted.values()) == {1.0}


def test_every_name_is_declared(seen: Seen) -> None:
    declared = {name.removeprefix("ray_") for metric in DECLARED for name in metric.exported}
    assert set(seen.found) <= declared
    never = {"hubdist_retries_total", "hubdist_refused_chunks_total"}
    assert declared - set(seen.found) == never


def test_a_job_leaves_its_record_in_the_logs_of_the_session(
    later_job: RayCluster, tmp_path: Path, hub: LoopbackHub
) -> None:
    handle = hub.add_model("acme/big/1", make_model(tmp_path / "model"))
    hubdist.init(store=later_job.store)
    report = hubdist.prefetch(handle)
    context = ray.get_runtime_context()
    path = Path(context.get_temp_dir(), context.get_session_name(), "logs", "hubdist", f"{context.get_job_id()}.json")
    found = read_record_file(path)
    assert found.session == context.get_session_name()
    assert found.pins == report.pins
    assert {one.name: one.bytes_received for one in found.deliveries} == {
        one.name: one.bytes_received for one in report.nodes
    }
    assert all(one.ended > found.began > 0 for one in found.deliveries)
    assert not found.closed
    command = [sys.executable, "-m", "hubdist", "report", "--json", "--address", later_job.address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout)["deliveries"] == json.loads(path.read_text(encoding="utf-8"))["deliveries"]
    with pytest.raises(hubdist.errors.ModelNotFoundError):
        hubdist.resolve(handle.replace("/big/1", "/big/2"))
    hubdist.shutdown()
    found = read_record_file(path)
    assert found.closed
    (error,) = found.errors
    assert "acme/big/2" in str(error.handle)


@pytest.mark.parametrize("size", [1_000, SIZE], ids=["enclosed", "delivered"])
def test_a_task_that_traces_has_a_span_of_its_delivery(
    later_job: RayCluster, tmp_path: Path, hub: LoopbackHub, size: int
) -> None:
    handle = hub.add_model("acme/big/1", make_model(tmp_path / "model", size))
    hubdist.init(store=later_job.store)
    other = later_job.node_ids[1]
    found = ray.get(traced_resolve.options(**later_job.on(other)).remote(handle), timeout=120)
    assert set(found) == {"hubdist.resolve", "hubdist.deliver"}
    deliver = found["hubdist.deliver"]
    assert deliver["hubdist.route"] == "driver"
    assert deliver["hubdist.bytes"] == found["hubdist.resolve"]["hubdist.bytes"] == size
    assert deliver["hubdist.node"] == other
