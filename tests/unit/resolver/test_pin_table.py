"""What is pinned is found by handle and by digest, also after a refresh; and what a plan says of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hubdist.delivery.routes import Route, RouteChoice, RouteOrder
from hubdist.model.handle import parse_handle
from hubdist.model.manifest import EntryDigester, Manifest
from hubdist.remote.snapshot_copy import RemoteCopy
from hubdist.report.plan import NodePlan
from hubdist.resolver.lookup import PinTable
from hubdist.resolver.plan_view import places_to_probe, plan_of
from hubdist.resolver.values import CallOptions, LoaderPin, Pinned, ReadSources, ResolvedFrom

ONE, TWO = parse_handle("gs://bucket/one"), parse_handle("gs://bucket/two")
NODES = [NodePlan("id", "name", RouteOrder((RouteChoice(Route.DRIVER, "why"),)))]


def manifest_of(data: bytes) -> Manifest:
    digester = EntryDigester("saved_model.pb")
    digester.update(data)
    return Manifest((digester.entry(),))


OLD = Pinned(ONE, manifest_of(b"old"), ResolvedFrom.ORIGIN, origin_reads=1)
NEW = replace(OLD, manifest=manifest_of(b"new"))


def test_a_model_is_known_by_its_digest_after_a_refresh() -> None:
    pins = PinTable()
    pins.keep(OLD)
    pins.keep(NEW)
    assert pins.find(ONE) == NEW
    assert pins.of_digest(OLD.digest) == [OLD]
    assert (pins.is_current(OLD.digest), pins.is_current(NEW.digest)) == (False, True)
    assert [report.digest for report in pins.reports] == [str(NEW.digest)]


def test_several_handles_may_stand_for_one_model() -> None:
    pins = PinTable()
    pins.keep(OLD)
    other = replace(OLD, handle=TWO)
    pins.keep(other)
    assert pins.of_digest(OLD.digest) == [OLD, other]


def test_what_is_learnt_of_a_former_model_does_not_change_the_pin() -> None:
    pins = PinTable()
    pins.keep(OLD)
    pins.keep(NEW)
    pins.update(replace(OLD, origin_reads=2))
    assert pins.find(ONE) == NEW
    pins.update(replace(NEW, origin_reads=2))
    found = pins.find(ONE)
    assert found is not None
    assert found.origin_reads == 2


@pytest.mark.parametrize(
    ("source", "read_by", "words"),
    [
        (ResolvedFrom.STORE, None, "store"),
        (ResolvedFrom.SHARED_CACHE, None, "shared cache"),
        (ResolvedFrom.TFHUB_CACHE, None, "TensorFlow Hub cache"),
        (ResolvedFrom.ORIGIN, None, "origin"),
        (ResolvedFrom.ORIGIN, "10.0.0.1/01234567", "origin, by 10.0.0.1/01234567"),
    ],
)
def test_a_report_says_in_words_where_the_model_came_from(
    source: ResolvedFrom, read_by: str | None, words: str
) -> None:
    assert replace(OLD, source=source, read_by=read_by).report.source == words


def test_a_plan_says_who_knows_the_model() -> None:
    assert plan_of(ONE, None, pinned_by=None, read_mode="stage", nodes=NODES).known is None
    assert plan_of(ONE, OLD, pinned_by="this job", read_mode="stage", nodes=NODES).known == "this job"
    in_cache = replace(OLD, source=ResolvedFrom.SHARED_CACHE)
    plan = plan_of(ONE, in_cache, pinned_by=None, read_mode="stage", nodes=NODES)
    assert (plan.known, plan.digest, plan.total_bytes) == ("the shared cache", str(OLD.digest), 3)


def test_nodes_are_probed_where_the_model_is_or_will_be() -> None:
    shared = RemoteCopy("gs://cache/snapshots/1", {})
    assert places_to_probe(None, fills="gs://cache", directory=None) == {Route.SHARED: "gs://cache"}
    assert places_to_probe(OLD, fills="gs://cache", directory="gs://d") == {Route.DIRECT: "gs://d"}
    assert places_to_probe(replace(OLD, shared=shared), fills=None, directory=None) == {Route.SHARED: shared.url}


def test_candidates_are_the_copies_that_are_there_and_the_driver() -> None:
    direct = RemoteCopy("gs://bucket/one", {})
    pinned = replace(OLD, direct=direct)
    assert ReadSources.ordered(pinned.manifest, pinned.copies, None).candidates == (
        (Route.DIRECT, direct),
        (Route.DRIVER, None),
    )


def test_a_loader_gets_no_secret_and_the_calls_options() -> None:
    secret = replace(OLD, handle=parse_handle("https://user:hunter2@host.example/model.tar.gz"))
    pin = secret.for_loader(LoaderPin("", OLD.digest).settings)
    assert "hunter2" not in repr(pin)
    assert pin.asked_with(CallOptions(route="driver")).settings.route == "driver"
    assert pin.asked_with(CallOptions()) == pin
