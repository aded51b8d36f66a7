"""Spans of OpenTelemetry for programs that trace, without a dependency on it.

A program that traces has imported OpenTelemetry and set a tracer provider. In every other program a span is nothing and
costs some microseconds. A span is a child of the span that the caller is in.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from hubdist.errors import HubdistError


class Span:
    """What is known of a piece of work while it runs.

    Args:
        recorder: The span of OpenTelemetry; None records nothing.
    """

    def __init__(self, recorder: Any | None) -> None:
        self._recorder = recorder

    def set(self, **attributes: str | float | None) -> None:
        """Note attributes, as `hubdist.<name>`; those that are None are left out."""
        if self._recorder is not None:
            self._recorder.set_attributes(_named(attributes))


@contextlib.contextmanager
def span(name: str, **attributes: str | float | None) -> Iterator[Span]:
    """Record the block as a span, if the program traces. An error marks the span, and goes on.

    Of errors that are not hubdist's, only the kind is recorded: their texts may hold secrets.

    Args:
        name: The name of the span, such as `hubdist.load`.
        **attributes: As for `Span.set`.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        yield Span(None)
        return
    tracer = trace.get_tracer("hubdist")
    with tracer.start_as_current_span(
        name, attributes=_named(attributes), record_exception=False, set_status_on_exception=False
    ) as recorder:
        try:
            yield Span(recorder)
        except BaseException as error:
            recorder.set_attribute("error.type", type(error).__qualname__)
            told = str(error) if isinstance(error, HubdistError) else None
            recorder.set_status(trace.Status(trace.StatusCode.ERROR, told))
            raise


def _named(attributes: dict[str, str | float | None]) -> dict[str, str | float]:
    return {f"hubdist.{name}": value for name, value in attributes.items() if value is not None}
