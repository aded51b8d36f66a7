"""The metrics: declared once, counted from reports, and nothing where nobody wants them. Ray's part is a fake."""

from __future__ import annotations

import re
import sys
import time
import types
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from hubdist.cluster.metrics import DECLARED, Metrics, source_kind
from hubdist.delivery.routes import Route
from hubdist.errors import NodeLostError
from hubdist.report.delivery import OWN_STORE, NodeReport, PinReport
from tests.unit.report.test_record import GOT, PIN

DRIVER = "10.0.0.1/aaaa"


class Fake:
    """Stands for a counter or histogram of Ray, and refuses what Ray refuses."""

    values: ClassVar[dict[tuple[str, frozenset[tuple[str, str]]], list[float]]] = defaultdict(list)

    def __init__(
        self, name: str, description: str = "", boundaries: Sequence[float] = (), tag_keys: Sequence[str] = ()
    ) -> None:
        assert description
        self.name, self.tags = name, set(tag_keys)

    def inc(self, amount: float, tags: Mapping[str, str]) -> None:
        assert amount > 0
        self.observe(amount, tags)

    def observe(self, value: float, tags: Mapping[str, str]) -> None:
        assert set(tags) == self.tags
        assert all(isinstance(each, str) for each in tags.values())
        Fake.values[self.name, frozenset(tags.items())].append(value)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Ray that is connected."""
    module: Any = types.ModuleType("ray")
    util: Any = types.ModuleType("ray.util")
    metrics: Any = types.ModuleType("ray.util.metrics")
    module.is_initialized = lambda: True
    module.util, util.metrics = util, metrics
    util.get_node_ip_address = lambda: "10.0.0.9"
    metrics.Counter = metrics.Histogram = Fake
    for each in (module, util, metrics):
        monkeypatch.setitem(sys.modules, each.__name__, each)
    Fake.values.clear()
    Metrics.of_process.cache_clear()
    yield
    Metrics.of_process.cache_clear()


def found(name: str) -> dict[tuple[tuple[str, str], ...], float]:
    return {tuple(sorted(tags)): sum(each) for (metric, tags), each in Fake.values.items() if metric == name}


def note(report: NodeReport) -> None:
    Metrics(DRIVER, enabled=True).note_delivery(report, DRIVER)


@pytest.mark.usefixtures("ray")
def test_every_byte_of_a_delivery_is_counted_by_its_kind_of_source() -> None:
    sources = ((DRIVER, 5), ("10.0.0.3/cc", 7), ("10.0.0.4/dd", 11), (OWN_STORE, 13))
    note(replace(GOT, sources=sources))
    counted = {dict(tags)["source"]: size for tags, size in found("hubdist_received_bytes").items()}
    assert counted == {"driver": 5, "peer": 18, "own_store": 13}


@pytest.mark.usefixtures("ray")
def test_a_failed_delivery_counts_as_failed_and_waits_for_nothing() -> None:
    note(replace(GOT, error=NodeLostError("gone"), route=None))
    (tags,) = found("hubdist_deliveries")
    assert dict(tags) == {"node": GOT.name, "route": "none", "outcome": "failed"}
    assert found("hubdist_delivery_seconds") == {}


@pytest.mark.usefixtures("ray")
def test_retries_and_refused_chunks_are_counted_and_zeros_are_not() -> None:
    note(replace(GOT, retries=3, refused=2))
    note(replace(GOT, retries=0, refused=0))
    assert list(found("hubdist_retries").values()) == [3]
    assert list(found("hubdist_refused_chunks").values()) == [2]


@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize(
    ("source", "kind", "reads"),
    [
        ("origin", "origin", True),
        ("origin, by 10.0.0.2/bb", "origin", False),
        ("shared cache", "shared_cache", False),
        ("TensorFlow Hub cache", "tfhub_cache", False),
        ("store", "store", False),
    ],
)
def test_a_handle_counts_by_where_its_model_came_from(source: str, kind: str, reads: bool) -> None:
    pin: PinReport = replace(PIN, source=source)
    Metrics(DRIVER, enabled=True).note_resolve(pin)
    (tags,) = found("hubdist_resolves")
    assert dict(tags) == {"node": DRIVER, "source": kind, "outcome": "ok"}
    assert list(found("hubdist_resolve_seconds").values()) == [PIN.seconds]
    assert list(found("hubdist_received_bytes").values()) == [PIN.total_bytes] * reads


@pytest.mark.parametrize(
    ("sender", "route", "kind"),
    [
        (DRIVER, Route.DRIVER, "driver"),
        (DRIVER, Route.DIRECT, "driver"),
        ("10.0.0.7/ff", Route.DRIVER, "peer"),
        ("10.0.0.7/ff", Route.SHARED, "peer"),
        ("gs://bucket/model", Route.DIRECT, "origin"),
        ("/mnt/models/m", Route.DIRECT, "origin"),
        ("gs://bucket/cache", Route.SHARED, "shared"),
        (OWN_STORE, Route.SHARED, "own_store"),
    ],
)
def test_the_kind_of_a_source(sender: str, route: Route, kind: str) -> None:
    assert source_kind(sender, route, DRIVER) == kind


@pytest.mark.usefixtures("ray")
def test_a_process_counts_for_its_node() -> None:
    metrics = Metrics.of_process(True, "c0ffee0123456789")
    metrics.note_hit()
    metrics.note_evicted()
    name = (("node", "10.0.0.9/c0ffee01"),)
    assert found("hubdist_store_hits") == {name: 1}
    assert found("hubdist_evictions") == {name: 1}


@pytest.mark.usefixtures("ray")
def test_without_the_setting_nothing_is_counted() -> None:
    metrics = Metrics.of_process(False, "c0ffee")
    metrics.note_hit()
    metrics.note_delivery(GOT, DRIVER)
    metrics.note_resolve(PIN)
    metrics.note_unresolved()
    assert not Fake.values


def test_without_ray_nothing_is_counted() -> None:
    Metrics.of_process.cache_clear()
    Metrics.of_process(True, "c0ffee").note_hit()
    Metrics.of_process.cache_clear()


@pytest.mark.usefixtures("ray")
def test_a_count_takes_microseconds() -> None:
    metrics = Metrics(DRIVER, enabled=True)
    metrics.note_hit()
    begin = time.perf_counter()
    for _ in range(1_000):
        metrics.note_hit()
    assert (time.perf_counter() - begin) / 1_000 < 100e-6


def test_names_follow_the_rules_of_prometheus() -> None:
    names = [metric.name for metric in DECLARED]
    assert len(set(names)) == len(names)
    for metric in DECLARED:
        assert re.fullmatch(r"hubdist_[a-z_]+", metric.name)
        assert not metric.name.endswith("_total")  # Ray adds it
        assert metric.text.endswith(".")
        assert "node" in metric.tags
        assert metric.boundaries is None or (
            metric.name.endswith("_seconds") and list(metric.boundaries) == sorted(set(metric.boundaries))
        )
