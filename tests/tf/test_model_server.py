"""The server of a model, called as Ray Serve calls it: requests, batches, HTTP, health, and new versions."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.requests import Request

import hubdist
from hubdist.errors import ConfigError, DigestMismatchError, ModelNotFoundError, SignatureError
from hubdist.integrations.ray_serve import ModelServer, MultiplexedModelServer, app, model_server
from hubdist.integrations.ray_serve.served_model import ModelChoice, ServedModel

pytestmark = pytest.mark.tf

ONE = [[2.0, 3.0]]
CHANGED_ONE = [[0.0, 0.0]]


@pytest.fixture
def handle(models: Path) -> str:
    return str(models / "tf2")


@pytest.fixture
def changing(models: Path, tmp_path: Path) -> Path:
    """A model of its own, which a test may change."""
    return Path(shutil.copytree(models / "tf2", tmp_path / "changing"))


def change(model: Path) -> None:
    """Publish a new version under the same handle: "one" is the first word now."""
    next((model / "assets").iterdir()).write_text("one\nzero\n", encoding="utf-8")


def run(call: Callable[[], Awaitable[Any]]) -> Any:
    async def within() -> Any:
        return await asyncio.wait_for(call(), 60)

    return asyncio.run(within())


def served(handle: str, **options: Any) -> ModelServer:
    server = ModelServer(**options)
    run(lambda: server.reconfigure(handle))
    return server


def predict(server: ModelServer, words: Any) -> Any:
    return run(lambda: server.predict({"words": words}))


def request(method: str, body: bytes = b"") -> Request:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request({"type": "http", "method": method, "headers": [], "path": "/"}, receive)


def ask(server: ModelServer | MultiplexedModelServer, method: str, body: Any = b"") -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = run(lambda: server(request(method, data)))
    return response.status_code, json.loads(response.body)


def test_an_answer_tells_the_version_that_gave_it(handle: str) -> None:
    answer = predict(served(handle), np.array(["one"], dtype=object))
    assert answer["outputs"]["output_0"].tolist() == ONE
    (pin,) = hubdist.status().pins
    assert answer["version"] == pin.digest


def test_http_takes_and_gives_json(handle: str) -> None:
    server = served(handle)
    status, answer = ask(server, "POST", {"inputs": {"words": ["one", {"b64": "dHdv"}]}})
    assert (status, answer["outputs"]) == (200, {"output_0": [*ONE, [4.0, 6.0]]})
    status, description = ask(server, "GET")
    assert (status, description["version"]) == (200, answer["version"])
    assert description["inputs"] == {"words": "string (rows)"}
    assert description["outputs"] == {"output_0": "float32 (rows, 2)"}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "the body is no JSON"),
        (b"\xff", "the body is no JSON"),
        ([1], "the request has no inputs"),
        ({"inputs": {}}, "nothing is given for the argument 'words'"),
        ({"inputs": {"word": ["one"]}}, "no argument 'word'; it has 'words'"),
        ({"inputs": {"words": "one"}}, "input 'words' is not a list"),
        ({"inputs": {"words": [1]}}, "input 'words' has int64 (rows), and the signature takes string (rows)"),
        ({"inputs": {"words": [["one"], ["a", "b"]]}}, "input 'words' has rows of different shapes"),
        ({"inputs": {"words": [{"b64": "?"}]}}, "input 'words' has an entry that is no base64"),
        ({"inputs": {"words": ["one", None]}}, "input 'words' has no value in row 1"),
    ],
)
def test_a_wrong_request_is_answered_with_400_and_what_is_wrong(handle: str, body: Any, words: str) -> None:
    status, answer = ask(served(handle), "POST", body)
    assert status == 400
    assert words in answer["error"]


def test_requests_of_a_batch_share_calls_and_a_wrong_one_fails_alone(handle: str) -> None:
    model = ServedModel(ModelChoice(handle))
    runs = []
    call = model.opened.call
    original = call.run

    def counted(fitted: Any, outputs: Any) -> Any:
        runs.append(len(fitted["words"]))
        return original(fitted, outputs)

    call.run = counted  # type: ignore[method-assign]
    answers = model.answer([{"words": ["one"]}, {"words": [7]}, {"words": ["two", "zero"]}])
    assert isinstance(answers[1], SignatureError)
    assert [answers[at]["outputs"]["output_0"].tolist() for at in (0, 2)] == [ONE, [[4.0, 6.0], [0.0, 0.0]]]
    assert runs == [3]


def test_a_request_that_has_begun_ends_with_the_old_version(handle: str, changing: Path) -> None:
    change(changing)
    server = ModelServer()

    async def roll_meanwhile() -> tuple[Any, Any]:
        await server.reconfigure(handle)
        begun = server._current
        held, original = asyncio.Event(), begun.answer
        loop = asyncio.get_running_loop()

        def answer_late(requests: Any) -> Any:
            asyncio.run_coroutine_threadsafe(held.wait(), loop).result(60)
            return original(requests)

        begun.answer = answer_late  # type: ignore[method-assign]
        late = asyncio.create_task(server.predict({"words": ["one"]}))
        await asyncio.sleep(0)
        await server.reconfigure(str(changing))
        early = await server.predict({"words": ["one"]})
        held.set()
        return await late, early

    late, early = run(roll_meanwhile)
    assert late["outputs"]["output_0"].tolist() == ONE
    assert early["outputs"]["output_0"].tolist() == CHANGED_ONE
    assert late["version"] != early["version"]


def test_of_two_changes_the_later_one_stays(handle: str, changing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(changing)
    first_may_load = threading.Event()

    def load_first_late(choice: ModelChoice) -> ServedModel:
        if choice.handle == handle:
            first_may_load.wait(60)
        return ServedModel(choice)

    monkeypatch.setattr(model_server, "ServedModel", load_first_late)
    server = ModelServer()

    async def change_twice() -> None:
        changes = [asyncio.create_task(server.reconfigure(each)) for each in (handle, str(changing))]
        await asyncio.sleep(0)
        first_may_load.set()
        await asyncio.gather(*changes)

    run(change_twice)
    assert predict(server, ["one"])["outputs"]["output_0"].tolist() == CHANGED_ONE


def test_only_names_that_are_listed_are_served(handle: str) -> None:
    server = MultiplexedModelServer()
    run(lambda: server.reconfigure({"models": {"first": handle}}))
    status, answer = ask(server, "POST", {"inputs": {"words": ["one"]}})
    assert status == 404
    assert "there is no model ''; there are 'first'" in answer["error"]


@pytest.mark.parametrize("config", [None, {}, {"models": {}}, {"models": {"first": {"handel": "h"}}}])
def test_a_wrong_list_of_models_is_told(config: Any) -> None:
    with pytest.raises(ConfigError, match=r"no models are listed|keys are handle"):
        run(lambda: MultiplexedModelServer().reconfigure(config))


def test_a_version_that_is_named_is_fetched_from_the_origin(changing: Path) -> None:
    server = served(str(changing))
    before = predict(server, ["one"])["version"]
    change(changing)
    after = hubdist.refresh(changing).digest
    hubdist.shutdown()
    server = served(str(changing))  # a job that stands on the new bytes
    run(lambda: server.reconfigure({"handle": str(changing), "version": after}))
    with pytest.raises(DigestMismatchError, match="other bytes than those that were asked for"):
        run(lambda: server.reconfigure({"handle": str(changing), "version": before}))
    answer = predict(server, ["one"])
    assert (answer["version"], answer["outputs"]["output_0"].tolist()) == (after, CHANGED_ONE)


def test_a_job_that_knows_the_old_bytes_takes_the_version_that_is_named(changing: Path, tmp_path: Path) -> None:
    new = shutil.copytree(changing, tmp_path / "new")
    change(new)
    version = predict(served(str(new)), ["one"])["version"]
    server = served(str(changing))
    change(changing)
    run(lambda: server.reconfigure({"handle": str(changing), "version": version}))
    assert predict(server, ["one"])["outputs"]["output_0"].tolist() == CHANGED_ONE


@pytest.mark.parametrize("example", [{"word": ["one"]}, {"words": [1]}])
def test_a_model_that_cannot_answer_the_example_is_not_taken(handle: str, example: Any) -> None:
    server = served(handle)
    with pytest.raises(SignatureError):
        run(lambda: server.reconfigure({"handle": handle, "example": example}))
    assert predict(server, ["one"])["outputs"]["output_0"].tolist() == ONE


def test_failures_of_the_model_in_a_row_make_the_replica_unhealthy(handle: str) -> None:
    import tensorflow as tf

    server = served(handle, max_failures=2)
    current = server._current
    original = current.answer

    def fail(_requests: Any) -> Any:
        raise tf.errors.ResourceExhaustedError(None, None, "no memory")

    current.answer = fail  # type: ignore[method-assign]
    for _ in range(2):
        run(server.check_health)
        with pytest.raises(tf.errors.ResourceExhaustedError):
            predict(server, ["one"])
    with pytest.raises(RuntimeError, match="failed 2 times in a row"):
        run(server.check_health)
    current.answer = original  # type: ignore[method-assign]
    predict(server, ["one"])
    run(server.check_health)


@pytest.mark.parametrize("config", [None, {}, {"handel": "h"}, {"handle": "h", "versoin": "v"}, 7])
def test_a_wrong_user_config_is_told(config: Any) -> None:
    with pytest.raises(ConfigError, match=r"keys are handle, version, signature, pad_to, example"):
        run(lambda: ModelServer().reconfigure(config))


def test_a_server_without_a_model_says_how_to_name_one() -> None:
    with pytest.raises(ConfigError, match=r"user_config=\{"):
        run(lambda: ModelServer().predict({}))


def test_an_application_of_a_wrong_handle_is_not_built(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        app({"handle": str(tmp_path / "nothing")})


def test_an_application_with_an_unknown_argument_is_not_built(handle: str) -> None:
    with pytest.raises(ConfigError, match="batch_size"):
        app({"handle": handle, "batch_size": 8})


def test_an_application_takes_options_of_its_deployment(handle: str) -> None:
    built = app({"handle": handle, "max_batch_size": 16, "options": {"num_replicas": 3}})
    deployment = built._bound_deployment
    assert deployment.name == "ModelServer"
    assert (deployment.num_replicas, deployment.max_ongoing_requests) == (3, 32)
    assert deployment.user_config == {"handle": handle}
