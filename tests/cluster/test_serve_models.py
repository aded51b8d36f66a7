"""Models behind Ray Serve on two real nodes: a new version rolls out under load, and many models share a replica.

The deployments are made once and watched; the tests look at what was seen.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import hubdist
from hubdist.errors import SignatureError
from hubdist.testing.cluster import RayCluster

pytestmark = [pytest.mark.cluster, pytest.mark.tf, pytest.mark.timeout(300)]

WORDS = ["one", "two"]
ROWS = {"first": {"one": [2.0, 3.0], "two": [4.0, 6.0]}, "second": {"one": [0.0, 0.0], "two": [-2.0, -3.0]}}
RATE = 50  # requests per second
PATIENCE_S = 90


@dataclass
class Seen:
    """What requests were answered.

    Attributes:
        digests: Name of a version -> its digest.
        answers: Of each request what it asked for, the digest and the outputs.
        errors: What went wrong with requests.
        by_name: Name of a model -> digest and outputs of its answer.
        unknown: What a request for a model that is not listed got.
        origin_reads: Of each handle, how often its origin was read.
    """

    digests: dict[str, str] = field(default_factory=dict)
    answers: list[tuple[list[str], str, list[list[float]]]] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    by_name: dict[str, tuple[str, list[list[float]]]] = field(default_factory=dict)
    unknown: BaseException | None = None
    origin_reads: list[int] = field(default_factory=list)


class Clients:
    """Asks at a steady rate, whether answers have come or not, from threads of its own."""

    def __init__(self, handle: Any, seen: Seen) -> None:
        self._handle = handle
        self._seen = seen
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(10)]
        for thread in self._threads:
            thread.start()

    def _ask(self, number: int) -> None:
        words = WORDS[number % 2 :] * (1 + number)  # so that requests of one batch differ
        due = time.monotonic() + number / RATE
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            due += len(self._threads) / RATE
            try:
                answer = self._handle.predict.remote({"words": words}).result(timeout_s=PATIENCE_S)
            except Exception as error:  # noqa: BLE001 - any failure of a request is what is looked for
                self._seen.errors.append(error)
            else:
                self._seen.answers.append((words, answer["version"], answer["outputs"]["output_0"].tolist()))

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)


def deploy(args: dict[str, Any], user_config: dict[str, Any]) -> None:
    """What `serve deploy` does with a file."""
    from ray import serve
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    application = {
        "name": "words",
        "import_path": "hubdist.integrations.ray_serve:app",
        "args": args,
        "deployments": [{"name": "ModelServer", "num_replicas": 2, "user_config": user_config}],
    }
    _get_global_client().deploy_apps(ServeDeploySchema.model_validate({"applications": [application]}))
    wait_until(lambda: serve.status().applications["words"].status == "RUNNING")


def wait_until(holds: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Seen]:
    from ray import serve

    from hubdist.integrations.ray_serve import multiplexed_app

    folder = tmp_path_factory.mktemp("serve")
    handles = {"first": str(models / "tf2"), "second": str(shutil.copytree(models / "tf2", folder / "second"))}
    next((folder / "second" / "assets").iterdir()).write_text("one\nzero\n", encoding="utf-8")
    seen = Seen()
    with RayCluster(folder, nodes=2, cpus=4, log_to_driver=False) as cluster:
        hubdist.init(store=cluster.store)
        serve.start(proxy_location="Disabled")
        try:
            args = {"handle": handles["first"], "max_batch_size": 8, "example": {"words": ["one"]}}
            deploy(args, {"handle": handles["first"]})
            clients = Clients(serve.get_app_handle("words"), seen)
            wait_until(lambda: len(seen.answers) > RATE)
            deploy(args, {"handle": handles["second"]})
            rolled = len(seen.answers)
            wait_until(lambda: len(seen.answers) > rolled + RATE)
            clients.end()
            serve.delete("words")

            many = serve.run(multiplexed_app({"models": handles, "max_models": 1}), name="many", route_prefix=None)
            for name in ("first", "second", "first"):
                answer = (
                    many.options(multiplexed_model_id=name)
                    .predict.remote({"words": WORDS})
                    .result(timeout_s=PATIENCE_S)
                )
                seen.by_name[name] = answer["version"], answer["outputs"]["output_0"].tolist()
            try:
                many.options(multiplexed_model_id="third").predict.remote({"words": WORDS}).result(timeout_s=PATIENCE_S)
            except SignatureError as error:
                seen.unknown = error
            for pin in hubdist.status().pins:
                seen.digests |= {name: pin.digest for name, handle in handles.items() if pin.handle == handle}
                seen.origin_reads.append(pin.origin_reads)
        finally:
            serve.shutdown()
    yield seen


def test_no_request_fails_while_a_new_version_rolls_out(seen: Seen) -> None:
    assert seen.errors == []
    assert len(seen.answers) > 2 * RATE


def test_each_answer_is_of_one_version_and_says_which(seen: Seen) -> None:
    names = {digest: name for name, digest in seen.digests.items()}
    assert {names[version] for _, version, _ in seen.answers} == {"first", "second"}
    for words, version, rows in seen.answers:
        assert rows == [ROWS[names[version]][word] for word in words]


def test_after_the_roll_all_answers_are_of_the_new_version(seen: Seen) -> None:
    assert {version for _, version, _ in seen.answers[-RATE // 2 :]} == {seen.digests["second"]}


def test_models_of_one_replica_are_told_apart_by_name(seen: Seen) -> None:
    expected = {name: (seen.digests[name], [rows[word] for word in WORDS]) for name, rows in ROWS.items()}
    assert seen.by_name == expected


def test_a_model_that_is_not_listed_is_an_error_that_lists_them(seen: Seen) -> None:
    assert "there is no model 'third'; there are 'first', 'second'" in str(seen.unknown)


def test_each_origin_is_read_once_whatever_the_number_of_replicas(seen: Seen) -> None:
    assert seen.origin_reads == [1, 1]
