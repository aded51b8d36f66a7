"""What the coordinator remembers of a large job, and what a status sends: bounded, the newest whole, all counted."""

from __future__ import annotations

import pickle
import sys
import tracemalloc
from typing import Any

import pytest

from hubdist.cluster.coordinator.agent_pool import AgentPool
from hubdist.cluster.coordinator.delivery_reports import DeliveryReports
from hubdist.cluster.coordinator.report_log import PINS_BYTES, ReportLog, newest, thinned
from hubdist.cluster.coordinator.running import RunningDeliveries
from hubdist.cluster.nodes import ClusterView, Node
from hubdist.config.schema import Config
from hubdist.delivery.routes import Route
from hubdist.errors import HubdistError, OriginError, StoreFullError
from hubdist.model.manifest import Digest
from hubdist.report.delivery import NodeReport, PinReport
from hubdist.report.plan import RouteTotal, Status

MIB = 1 << 20
HANDLES = 5_000
NODES = [Node(f"{number:056x}", f"10.0.0.{number}/{number:08x}", f"10.0.0.{number}", False) for number in range(20)]
TIMELINE = tuple((0.01 * step, step * MIB) for step in range(1, 257))
SOURCES = tuple((node.name, 12 * MIB) for node in NODES)


@pytest.fixture
def running() -> RunningDeliveries:
    cluster = ClusterView(lambda: NODES)
    return RunningDeliveries(NODES[0], AgentPool(Config(), lambda *_: None, cluster), cluster, Config())


@pytest.fixture
def reports(running: RunningDeliveries) -> DeliveryReports:
    return DeliveryReports(NODES[0], running.note_holder)


def report(number: int, node: Node, **changes: Any) -> NodeReport:
    values: dict[str, Any] = {
        "node": node.id,
        "name": node.name,
        "handle": f"https://tfhub.dev/publisher/model-{number}/1",
        "digest": f"sha256:{number:064x}",
        "route": Route.DRIVER,
        "reason": "the node's store lacks the snapshot",
        "source": NODES[0].name,
        "bytes_received": 240 * MIB,
        "seconds": 2.56,
        "sources": SOURCES,
        "timeline": TIMELINE,
    }
    return NodeReport(**(values | changes))


def pin(handle: int) -> PinReport:
    one = report(handle, NODES[0])
    return PinReport(one.handle, one.digest, 240 * MIB, 5, "origin", 1, 1.5)


def status_of(reports: DeliveryReports, pins: list[PinReport]) -> Status:
    """As the coordinator makes it."""
    done, shown = reports.log, newest(pins, PINS_BYTES)
    left_out = (len(pins) - len(shown), done.left_out)
    return Status("ray", "node", "/store", shown, done.newest, (), *left_out, done.totals)


def test_five_thousand_handles_on_twenty_nodes_take_little_memory_and_a_small_status(
    running: RunningDeliveries, reports: DeliveryReports
) -> None:
    for handle in range(HANDLES):
        digest = Digest(f"{handle:064x}")
        if handle == HANDLES - 500:  # of all that is kept at the end, nothing but whom the models are with is older
            tracemalloc.start()
        for node in NODES:
            error = OriginError("x" * 300, handle=f"{handle}") if (handle + int(node.id, 16)) % 97 == 0 else None
            reports.note(digest, node, report(handle, node, error=error))
    kept_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    holders = running._holders
    kept_bytes += sum(sys.getsizeof(nodes) for nodes in holders.values()) + sys.getsizeof(holders)
    assert kept_bytes < 20 * MIB
    status = status_of(reports, [pin(handle) for handle in range(HANDLES)])
    assert len(pickle.dumps(status)) < MIB
    assert len(status.deliveries) > 500
    assert len(status.pins) > 500
    assert status.pins[-1] == pin(HANDLES - 1)
    assert status.deliveries[-1].handle == pin(HANDLES - 1).handle
    assert len(status.deliveries) + status.deliveries_left_out == HANDLES * len(NODES)
    assert len(status.pins) + status.pins_left_out == HANDLES
    assert sum(total.deliveries for total in status.totals) == HANDLES * len(NODES)
    assert {total.route for total in status.totals} == {Route.DRIVER, None}
    assert "older deliveries; all together: " in str(status)


def test_all_reports_of_a_large_prefetch_together_take_bounded_memory(reports: DeliveryReports) -> None:
    """The caller of a prefetch gets one for each model and node, and the coordinator holds them until then."""
    points = 0
    for handle in range(2_000):
        noted = reports.note(Digest(f"{handle:064x}"), NODES[0], report(handle, NODES[0]))
        points += len(noted.timeline)
        assert noted.timeline[-1] == TIMELINE[-1]
        assert noted.sources == SOURCES
    assert points < 200_000  # of 512,000
    assert len(noted.timeline) <= 20


def test_the_newest_are_whole_and_older_ones_are_brief() -> None:
    reports = ReportLog(max_reports=10_000)
    for handle in range(1_000):
        reports.note(report(handle, NODES[1], error=StoreFullError("full", need_bytes=2, free_bytes=1)))
    found = reports.newest
    assert found[-1].timeline == TIMELINE
    assert found[-1].sources == SOURCES
    assert found[0].timeline == ()
    assert len(found[0].sources) == 4
    assert isinstance(found[0].error, StoreFullError)
    assert found[0].bytes_received == 240 * MIB
    assert [each.handle for each in found] == [report(handle, NODES[1]).handle for handle in range(1000)][-len(found) :]
    assert reports.totals == (RouteTotal(None, 1000, 1000 * 240 * MIB),)


def test_no_more_are_kept_than_allowed_and_a_small_job_sees_all() -> None:
    reports = ReportLog(max_reports=5)
    for handle in range(5):
        reports.note(report(handle, NODES[1]))
    assert (len(reports.newest), reports.left_out) == (5, 0)
    reports.note(report(5, NODES[1]))
    assert (len(reports.newest), reports.left_out, reports.count) == (5, 1, 6)


@pytest.mark.parametrize("large", ["sources", "error", "handle"])
def test_one_huge_report_does_not_break_the_bounds(large: str) -> None:
    huge: dict[str, Any] = {
        "sources": tuple((f"10.0.0.1/{number:08x}", number) for number in range(30_000)),
        "error": HubdistError("x" * 2_000_000),
        "handle": "https://host/" + "x" * 2_000_000,
    }
    reports = ReportLog(max_reports=1000)
    for _ in range(50):
        reports.note(report(1, NODES[1], **{large: huge[large]}))
    reports.note(report(2, NODES[1]))
    found = reports.newest
    assert len(pickle.dumps(found)) < MIB
    assert len(found) > 10
    assert found[-1] == report(2, NODES[1])


def test_an_error_that_cannot_be_pickled_is_kept_as_text() -> None:
    class OwnError(HubdistError):
        def __reduce__(self) -> Any:
            raise TypeError("never")

    reports = ReportLog(max_reports=10)
    reports.note(report(1, NODES[1], error=OwnError("what happened")))
    assert str(reports.newest[0].error) == "what happened"


def test_a_report_that_is_kept_holds_on_to_nothing_of_its_error() -> None:
    class Large:
        gone = False

        def __del__(self) -> None:
            Large.gone = True

    def fail() -> HubdistError:
        large = Large()
        try:
            raise OriginError(f"it broke beside {type(large).__name__}")
        except OriginError as error:
            return error

    reports = ReportLog(max_reports=10)
    reports.note(report(1, NODES[1], error=fail()))
    assert Large.gone


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 100])
def test_a_thinned_timeline_has_few_points_and_the_last_one(count: int) -> None:
    found = thinned(TIMELINE[:count], 4)
    assert len(found) <= 4
    assert found[-1:] == TIMELINE[:count][-1:]
    assert list(found) == sorted(found)
