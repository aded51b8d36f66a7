"""Errors: each travels with its fields, says what to do, and stands in the tree that is drawn."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable, Iterator

import cloudpickle
import pytest

from hubdist import errors
from hubdist.cluster.calls import NodeLostError
from hubdist.errors import (
    DeliveryError,
    DigestMismatchError,
    HubdistError,
    MissingOperationError,
    PeerError,
    StoreError,
    StoreFullError,
)

CONTEXT = {"handle": "https://h/m", "node": "10.0.0.7", "advice": "Try again."}


def subclasses(kind: type[HubdistError]) -> Iterator[type[HubdistError]]:
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


KINDS = [HubdistError, *subclasses(HubdistError)]


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
    if isinstance(error, DeliveryError):
        values["failures"] = {node: (type(inner), fields(inner)) for node, inner in error.failures.items()}
    return values


def test_the_tree_of_all_errors_is_walked() -> None:
    assert NodeLostError in KINDS
    assert len(KINDS) > 20


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps], ids=["pickle", "cloudpickle"])
def test_every_error_arrives_with_its_fields(kind: type[HubdistError], dumps: Callable[[object], bytes]) -> None:
    error = make(kind)
    arrived = pickle.loads(dumps(error))
    assert type(arrived) is kind
    assert fields(arrived) == fields(error)
    assert (str(arrived), arrived.args) == (str(error), error.args)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_message_names_handle_node_and_advice(kind: type[HubdistError]) -> None:
    text = str(make(kind))
    assert "; handle https://h/m" in text
    assert "; on node 10.0.0.7" in text
    assert text.endswith(". Try again.")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_can_be_copied_and_placed(kind: type[HubdistError]) -> None:
    error = make(kind)
    assert fields(copy.copy(error)) == fields(error)
    error.handle = error.node = None
    with_context = error.with_context(handle="gs://b/m", node="n1")
    assert (with_context.handle, with_context.node, type(with_context)) == ("gs://b/m", "n1", kind)
    assert (error.handle, error.node) == (None, None)


def test_placing_keeps_what_is_known() -> None:
    with_context = make(PeerError).with_context(handle="other", node="other")
    assert (with_context.handle, with_context.node) == ("https://h/m", "10.0.0.7")


def test_a_message_does_not_name_the_handle_twice() -> None:
    assert str(HubdistError("nothing at https://h/m", handle="https://h/m")) == "nothing at https://h/m"


def test_a_message_without_context_is_the_plain_sentence() -> None:
    assert str(HubdistError("it went wrong")) == "it went wrong"


def test_a_failed_delivery_lists_its_nodes() -> None:
    error = DeliveryError("2 failed:", failures={"b": PeerError("gone"), "a": make(StoreFullError)})
    assert re.findall(r"\n  (\w+): ", str(error)) == ["a", "b"]


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    assert errors.__doc__ is not None
    drawn: dict[str, str | None] = {}
    path: list[str] = []
    for line in errors.__doc__.splitlines():
        match = re.fullmatch(r" {4}((?:[|'] {1,2}|   |[|']- )*)(\w+Error)\b.*", line)
        if match:
            depth = len(match[1]) // 3
            path[depth:] = [match[2]]
            drawn[match[2]] = path[depth - 1] if depth else None
    real = {
        kind.__name__: None if kind is HubdistError else kind.__mro__[1].__name__
        for kind in KINDS
        if kind.__module__ == errors.__name__
    }
    assert drawn == real
