"""The deployment that serves one model: batches of requests, health, and new versions without a pause.

`user_config` says which model. When it changes, each replica loads the new model beside the old one and then takes it
with one assignment: requests that have begun end with the old one.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any

from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hubdist.errors import ConfigError, SignatureError
from hubdist.integrations.ray_serve.json_rows import inputs_of, to_json
from hubdist.integrations.ray_serve.served_model import Answer, ModelChoice, ServedModel

_LOG = logging.getLogger(__name__)


class ModelServer:
    """A class for `serve.deployment` that answers requests by a signature of a model.

    Over HTTP, POST takes `{"inputs": {"<argument>": [row, ...]}}` and gives `{"outputs": {"<output>": [row, ...]},
    "version": "sha256:..."}`; a wrong request gets status 400 with `{"error": "..."}`. GET says what the model takes
    and gives. Other deployments call `predict`. One version of the model answers the whole of a request.

    Args:
        max_batch_size: The number of requests that are answered together at most; 1 answers each alone.
        batch_wait_timeout_s: How long a request waits for others to join it, in seconds.
        max_failures: After so many failures of the model in a row the replica calls itself unhealthy, and Serve starts
            another one. Wrong requests are no failures.
    """

    def __init__(self, max_batch_size: int = 1, batch_wait_timeout_s: float = 0.01, max_failures: int = 3) -> None:
        self._served: ServedModel | None = None
        self._loading = asyncio.Lock()
        self._max_failures = max_failures
        self._failures = 0

        async def answer_batch(requests: list[Mapping[str, Any]]) -> list[Answer | SignatureError]:
            return await self._answer(requests)

        self._batched = None
        if max_batch_size > 1:
            batching = serve.batch(max_batch_size=max_batch_size, batch_wait_timeout_s=batch_wait_timeout_s)
            self._batched = batching(answer_batch)

    async def reconfigure(self, user_config: Any) -> None:
        """Load the model of a `user_config`, and then serve it. Ray Serve calls this; meanwhile the old one serves.

        Args:
            user_config: A handle, or a mapping with the keys of `ModelChoice`: handle, version, signature, pad_to,
                example.

        Raises:
            HubdistError: The model cannot be served; the replica keeps the old one until Serve replaces the replica.
        """
        choice = ModelChoice.of(user_config)
        async with self._loading:  # of two changes, the later one stays
            served = await asyncio.to_thread(ServedModel, choice)
            self._served = served
            self._failures = 0
        _LOG.info("hubdist: serving %s, %s", served.opened.handle, served.opened.digest)

    async def predict(self, inputs: Mapping[str, Any]) -> Answer:
        """Answer one request.

        Args:
            inputs: Name of an argument -> array or list, one entry for each row.

        Returns:
            `outputs`, name -> array, and `version`, the digest of the model that has answered.

        Raises:
            SignatureError: The inputs do not fit the signature.
        """
        if self._batched is None:
            (answer,) = await self._answer([inputs])
        else:
            answer = await self._batched(inputs)
        if isinstance(answer, SignatureError):
            raise answer
        return answer

    async def __call__(self, request: Request) -> Response:
        """Answer a request of HTTP, as the class describes."""
        return await respond(request, self.predict, lambda: self._current)

    async def check_health(self) -> None:
        """Tell Ray Serve whether this replica works.

        Raises:
            RuntimeError: The model has failed several times in a row.
        """
        if self._failures >= self._max_failures:
            raise RuntimeError(f"the model has failed {self._failures} times in a row")

    @property
    def _current(self) -> ServedModel:
        if self._served is None:
            raise ConfigError("no model is named", advice='Give the deployment user_config={"handle": "<handle>"}.')
        return self._served

    async def _answer(self, requests: list[Mapping[str, Any]]) -> list[Answer | SignatureError]:
        if self._served is None:
            async with self._loading:  # Serve's local testing mode asks before the first model is loaded
                pass
        served = self._current  # once: whatever is served when the answer is ready, this one has given it
        try:
            answers = await asyncio.to_thread(served.answer, requests)
        except served.opened.call.failures:
            self._failures += 1
            raise
        self._failures = 0
        return answers


async def respond(request: Request, predict: Any, current: Any) -> Response:
    """Answer a request of HTTP.

    Args:
        request: GET asks for the model's description, everything else for its answer to the inputs in the body.
        predict: An async function from inputs to an `Answer`.
        current: Gives the `ServedModel` that would answer now.
    """
    if request.method == "GET":
        opened = current().opened
        return JSONResponse(
            {
                "handle": opened.handle,
                "version": opened.digest,
                "signature": opened.call.signature,
                "inputs": {name: str(field) for name, field in opened.call.arguments.items()},
                "outputs": {name: str(field) for name, field in opened.call.outputs.items()},
            }
        )
    try:
        answer = await predict(inputs_of(await request.json()))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        return JSONResponse({"error": f"the body is no JSON: {error}"}, status_code=400)
    except SignatureError as error:
        return JSONResponse({"error": str(error)}, status_code=400)
    outputs = {name: to_json(values) for name, values in answer["outputs"].items()}
    return JSONResponse({"outputs": outputs, "version": answer["version"]})
