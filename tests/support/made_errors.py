"""One error of each kind, with every field set."""

from __future__ import annotations

from collections.abc import Iterator

from hubdist.errors import (
    DeliveryError,
    DigestMismatchError,
    HubdistError,
    MissingOperationError,
    StoreError,
    StoreFullError,
)

CONTEXT = {"handle": "https://h/m", "node": "10.0.0.7", "advice": "Try again."}


def subclasses(kind: type[HubdistError]) -> Iterator[type[HubdistError]]:
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


KINDS = [HubdistError, *subclasses(HubdistError)]

OWN_AND_PYTHONS = [kind for kind in KINDS if issubclass(kind, (OSError, ValueError))]
"""Kinds that are Python's errors too: whoever translates or drops errors of Python lets these pass."""


def make(kind: type[HubdistError]) -> HubdistError:
    """An error of this kind with every field set."""
    if issubclass(kind, DigestMismatchError):
        return kind("the bytes differ", expected="sha256:1", actual="sha256:2", **CONTEXT)
    if issubclass(kind, MissingOperationError):
        return kind("the op is missing", operation="SentencepieceOp", **CONTEXT)
    if issubclass(kind, StoreFullError):
        return kind("no room", path="/s", need_bytes=7, free_bytes=5, **CONTEXT)
    if issubclass(kind, StoreError):
        return kind("the disk refuses", path="/s", **CONTEXT)
    if issubclass(kind, DeliveryError):
        return kind("1 of 2 failed:", failures={"b": make(StoreFullError)}, **CONTEXT)
    return kind("it went wrong", **CONTEXT)


def fields(error: HubdistError) -> dict[str, object]:
    """All fields, errors among them as their own fields."""
    values = dict(vars(error))
    if isinstance(error, OSError):
        values |= {"errno": error.errno, "strerror": error.strerror, "filename": error.filename}
    if isinstance(error, DeliveryError):
        values["failures"] = {node: (type(inner), fields(inner)) for node, inner in error.failures.items()}
    return values
