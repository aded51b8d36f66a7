"""Spans: whole and with a parent where the program traces, nothing where it does not, and never a secret."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import opentelemetry.trace
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import hubdist
from hubdist.errors import ModelNotFoundError
from hubdist.system.tracing import span
from hubdist.testing.hub import LoopbackHub

SECRET = "hunter2"


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """A program that traces; its provider is a fixture's, for a process may set one only once."""
    found = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(found))
    monkeypatch.setattr(opentelemetry.trace, "get_tracer", provider.get_tracer)
    yield found
    provider.shutdown()


def spans(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {each.name: each for each in exporter.get_finished_spans()}


def test_a_resolve_is_a_child_of_the_callers_span(
    exporter: InMemorySpanExporter, hub: LoopbackHub, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "words.txt").write_text("the of and")
    handle = hub.add_model("acme/words/1", tmp_path / "model")
    hubdist.init(store=str(tmp_path / "store"))
    with opentelemetry.trace.get_tracer("program").start_as_current_span("mine") as mine:
        hubdist.resolve(f"{handle}?token={SECRET}")
    found = spans(exporter)["hubdist.resolve"]
    assert found.parent is not None
    assert found.parent.span_id == mine.get_span_context().span_id
    assert found.attributes is not None
    assert str(found.attributes["hubdist.digest"]).startswith("sha256:")
    assert found.attributes["hubdist.bytes"] == 10
    assert SECRET not in str(found.attributes)
    assert "acme/words/1" in str(found.attributes["hubdist.handle"])


def test_a_load_that_fails_is_marked_with_the_error_and_holds_its_resolve(
    exporter: InMemorySpanExporter, hub: LoopbackHub, tmp_path: Path
) -> None:
    hubdist.init(store=str(tmp_path / "store"))
    with pytest.raises(ModelNotFoundError):
        hubdist.load(f"{hub.url}/acme/none/1?token={SECRET}")
    found = spans(exporter)
    load, resolve = found["hubdist.load"], found["hubdist.resolve"]
    assert resolve.parent is not None
    assert load.context is not None
    assert resolve.parent.span_id == load.context.span_id
    for each in (load, resolve):
        assert each.status.status_code is opentelemetry.trace.StatusCode.ERROR
        assert each.attributes is not None
        assert each.attributes["error.type"] == "ModelNotFoundError"
        assert each.status.description
        assert SECRET not in each.to_json()


def test_a_prefetch_counts_what_it_did(exporter: InMemorySpanExporter, hub: LoopbackHub, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "words.txt").write_text("the of and")
    hubdist.init(store=str(tmp_path / "store"))
    hubdist.prefetch(hub.add_model("acme/words/1", tmp_path / "model"))
    found = spans(exporter)["hubdist.prefetch"].attributes
    assert found is not None
    assert (found["hubdist.handles"], found["hubdist.deliveries"]) == (1, 1)


def test_the_text_of_a_foreign_error_is_not_recorded(exporter: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match=SECRET), span("hubdist.test"):
        raise ValueError(SECRET)
    (found,) = exporter.get_finished_spans()
    assert found.attributes is not None
    assert found.attributes["error.type"] == "ValueError"
    assert not found.events
    assert SECRET not in found.to_json()


def test_attributes_without_a_value_are_left_out(exporter: InMemorySpanExporter) -> None:
    with span("hubdist.test", route=None, bytes=0) as seen:
        seen.set(digest=None, handle="h")
    (found,) = exporter.get_finished_spans()
    assert dict(found.attributes or {}) == {"hubdist.bytes": 0, "hubdist.handle": "h"}


def test_without_opentelemetry_a_span_is_nothing_and_loads_nothing() -> None:
    code = """
import sys
from hubdist.system.tracing import span
with span("hubdist.test", a=1) as seen:
    seen.set(b=2)
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_span_of_a_program_that_does_not_trace_is_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "opentelemetry.trace")
    begin = time.perf_counter()
    for _ in range(1_000):
        with span("hubdist.test", a=1):
            pass
    assert (time.perf_counter() - begin) / 1_000 < 100e-6
