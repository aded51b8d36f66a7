"""Errors: each travels with its fields, says what to do, and stands in the tree that is drawn."""

from __future__ import annotations

import contextlib
import copy
import errno
import os
import pickle
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import hubdist
from hubdist import errors
from hubdist.config.schema import Config
from hubdist.errors import (
    DeliveryError,
    HubdistError,
    ModelNotFoundError,
    NodeLostError,
    PeerError,
    StoreError,
    StoreFullError,
    TransferTimeoutError,
)
from hubdist.remote.file_system import os_errors
from hubdist.remote.retry import call_storage
from hubdist.remote.snapshot_copy import probe
from hubdist.system.disk import disk_errors, optional_note
from hubdist.system.foreign import call_foreign
from hubdist.system.threads import run_within
from tests.support.made_errors import KINDS, OWN_AND_PYTHONS, fields, make


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
    assert fields(copy.deepcopy(error)) == fields(error)
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
        if kind.__module__ == "hubdist.errors"
    }
    assert drawn == real


# Errors that are Python's too

PYTHONS = {
    "ConfigError": ValueError,
    "HandleError": ValueError,
    "NotAModelError": ValueError,
    "SignatureError": ValueError,
    "ModelNotFoundError": FileNotFoundError,
    "AccessDeniedError": PermissionError,
    "TransferTimeoutError": TimeoutError,
    "StoreError": OSError,
    "StoreFullError": OSError,
    "UnsafeStoreError": OSError,
}
NUMBERS = {
    "ModelNotFoundError": errno.ENOENT,
    "AccessDeniedError": errno.EACCES,
    "TransferTimeoutError": errno.ETIMEDOUT,
    "StoreFullError": errno.ENOSPC,
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_is_the_one_of_python_that_says_the_same(kind: type[HubdistError]) -> None:
    wanted = PYTHONS.get(kind.__name__)
    assert [base for base in (ValueError, OSError) if issubclass(kind, base)] == (
        [] if wanted is None else [ValueError if wanted is ValueError else OSError]
    )
    assert wanted is None or issubclass(kind, wanted)
    if issubclass(kind, OSError):
        assert getattr(make(kind), "errno", None) == NUMBERS.get(kind.__name__)


def test_the_numbers_and_names_of_the_system_are_kept() -> None:
    full = StoreFullError("no room", path="/s", number=errno.EDQUOT, need_bytes=7, free_bytes=5)
    for error in (full, pickle.loads(pickle.dumps(full)), copy.deepcopy(full), full.with_context(handle="h", node="n")):
        assert (error.errno, error.strerror, error.filename) == (errno.EDQUOT, os.strerror(errno.EDQUOT), "/s")
    missing = ModelNotFoundError("there is nothing").with_context(handle="gs://b/m")
    assert (missing.errno, missing.filename, str(missing)) == (
        errno.ENOENT,
        "gs://b/m",
        "there is nothing; handle gs://b/m",
    )


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO])
def test_a_disks_error_keeps_its_number(tmp_path: Path, number: int) -> None:
    with pytest.raises(StoreError) as caught, disk_errors(tmp_path):
        raise OSError(number, os.strerror(number), str(tmp_path))
    assert caught.value.errno == number


def test_a_missing_model_is_a_file_that_is_not_found(tmp_path: Path) -> None:
    hubdist.init(store=str(tmp_path / "store"))
    with pytest.raises(FileNotFoundError) as caught:
        hubdist.load(str(tmp_path / "nothing"))
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(ValueError, match="http"):
        hubdist.load("https://")
    with pytest.raises(ValueError, match="retrys"):
        hubdist.init(retrys=3)


def raising(error: Exception) -> Callable[..., Any]:
    def work(*_: object, **__: object) -> Any:
        raise error

    return work


def translators(tmp_path: Path) -> dict[str, Callable[[Exception], None]]:
    """Places that turn errors of Python into hubdist's: each is given an error that happens in it."""

    def inside(context: contextlib.AbstractContextManager[Any], error: Exception) -> None:
        with context:
            raise error

    return {
        "disk": lambda error: inside(disk_errors(tmp_path), error),
        "disk in disk": lambda error: inside(disk_errors(tmp_path / "other"), error),
        "local": lambda error: inside(os_errors(tmp_path, on_driver=True), error),
        "mounted": lambda error: inside(os_errors(tmp_path), error),
        "storage": lambda error: call_storage(raising(error), "gs://b/m", Config().deadlines, threading.Event()),
        "foreign": lambda error: call_foreign(raising(error), "gs://b/m"),
        "thread": lambda error: run_within(raising(error), "hubdist-test", 10),
    }


@pytest.mark.parametrize("kind", OWN_AND_PYTHONS, ids=lambda kind: kind.__name__)
def test_no_translator_touches_an_own_error(kind: type[HubdistError], tmp_path: Path) -> None:
    for name, translate in translators(tmp_path).items():
        error = make(kind)
        with pytest.raises(HubdistError) as caught:
            translate(error)
        assert caught.value is error, name


def test_an_own_error_is_tried_once(tmp_path: Path) -> None:
    tries = []

    def work() -> None:
        tries.append(1)
        raise make(TransferTimeoutError)

    with pytest.raises(TransferTimeoutError):
        call_storage(work, "gs://b/m", Config().deadlines, threading.Event())
    assert len(tries) == 1


def test_a_probe_hands_a_late_answer_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = make(TransferTimeoutError)
    monkeypatch.setattr("hubdist.remote.snapshot_copy.open_tree", raising(error))
    with pytest.raises(TransferTimeoutError) as caught:
        probe(str(tmp_path), Config().deadlines, timeout_s=10)
    assert caught.value is error


def test_an_optional_note_gives_way_to_the_disk_only(tmp_path: Path) -> None:
    for error in (OSError(errno.ENOSPC, "full"), make(StoreError), make(StoreFullError)):
        with optional_note(tmp_path):
            raise error
    for kind in (ModelNotFoundError, TransferTimeoutError):
        with pytest.raises(kind), optional_note(tmp_path):
            raise make(kind)
