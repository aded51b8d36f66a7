"""What callers get of a report in which something failed: an error."""

from __future__ import annotations

from collections.abc import Sequence

from hubdist.errors import DeliveryError
from hubdist.model.hints import suggested
from hubdist.report.delivery import Report


def raise_failures(report: Report, texts: Sequence[str]) -> None:
    """Raise the error of a report in which something failed.

    Args:
        report: What was resolved, and how each node got it.
        texts: The handles that were asked for.

    Raises:
        DeliveryError: Some nodes or handles failed.
        HubdistError: One handle alone could not be resolved.
    """
    failures = {node.name: node.error for node in report.nodes if node.error is not None}
    unresolved = [suggested(error, texts) for error in report.unresolved]
    if len(unresolved) == 1 and not failures:
        raise unresolved[0]
    if failures or unresolved:
        failures |= {error.handle or "a handle": error for error in unresolved}
        tried = len(report.nodes) + len(unresolved)
        raise DeliveryError(f"{len(failures)} of {tried} deliveries failed:", failures=failures)
