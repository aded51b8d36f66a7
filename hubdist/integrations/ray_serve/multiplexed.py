"""The deployment that serves many models, as many at a time as fit: `serve.multiplexed` with models by handle.

Ray Serve holds a lock of the replica while a model is loaded. The model's files come to the node before the lock is
taken, so it is held for the opening alone, and requests for models that are there do not wait for a download.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hubdist.client.current import current_process
from hubdist.errors import ConfigError, SignatureError
from hubdist.integrations.ray_serve.model_server import respond
from hubdist.integrations.ray_serve.served_model import Answer, ModelChoice, ServedModel
from hubdist.resolver.values import CallOptions


@dataclass(slots=True, eq=False)
class _Slot:
    """What Ray Serve keeps for a model's name: the choice, which a new `user_config` may change, and its model."""

    choice: ModelChoice
    served: ServedModel


class MultiplexedModelServer:
    """A class for `serve.deployment` that answers by the model whose name a request carries.

    The name is the header `serve_multiplexed_model_id`, or `handle.options(multiplexed_model_id=...)`. Only names that
    `user_config` lists are served. Requests and answers are those of `ModelServer`. `limited_to` makes the class for a
    number of models.
    """

    def __init__(self) -> None:
        self._choices: dict[str, ModelChoice] = {}
        self._brought: set[str] = set()
        """Handles whose files this replica has brought to its node."""

    async def reconfigure(self, user_config: Any) -> None:
        """Take the list of models. A model whose entry has changed is loaded anew at its next request.

        Args:
            user_config: `models`: name -> handle, or a mapping with the keys of `ModelChoice`.

        Raises:
            ConfigError: The list is missing, or an entry is wrong.
        """
        self._choices = choices_of(user_config)

    async def predict(self, inputs: Mapping[str, Any]) -> Answer:
        """Answer one request by the model that it names.

        Args:
            inputs: As for `ModelServer.predict`.

        Raises:
            SignatureError: The inputs do not fit the signature, or there is no model of this name.
        """
        served = await self._find(serve.get_multiplexed_model_id())
        (answer,) = await asyncio.to_thread(served.answer, [inputs])
        if isinstance(answer, SignatureError):
            raise answer
        return answer

    async def __call__(self, request: Request) -> Response:
        """Answer a request of HTTP; GET describes the model that the header names."""
        try:
            served = await self._find(serve.get_multiplexed_model_id())
        except SignatureError as error:
            return JSONResponse({"error": str(error)}, status_code=404)
        return await respond(request, self.predict, lambda: served)

    async def slot(self, name: str) -> _Slot:
        """Open the model of a name, whose files are on this node; Ray Serve keeps what this returns."""
        choice = self._choices[name]
        return _Slot(choice, await asyncio.to_thread(ServedModel, choice))

    async def _find(self, name: str) -> ServedModel:
        choice = self._choices.get(name)
        if choice is None:
            names = ", ".join(map(repr, self._choices))
            raise SignatureError(
                f"there is no model {name!r}; there are {names}",
                advice="Name one of them in the header `serve_multiplexed_model_id`.",
            )
        if choice.handle not in self._brought:
            await asyncio.to_thread(_bring, choice.handle)
            self._brought.add(choice.handle)
        slot = await self.slot(name)
        if slot.choice != choice:  # since Serve has it, the list has changed
            slot.served = await asyncio.to_thread(ServedModel, choice)
            slot.choice = choice
        return slot.served


def limited_to(max_models: int) -> type[MultiplexedModelServer]:
    """The class whose replicas keep a number of models; the one that was used least recently goes.

    Args:
        max_models: The number of models of a replica.
    """

    async def slot(self: MultiplexedModelServer, name: str) -> _Slot:
        return await MultiplexedModelServer.slot(self, name)

    limited = serve.multiplexed(slot, max_num_models_per_replica=max_models)
    return type("LimitedModelServer", (MultiplexedModelServer,), {"slot": limited})


def choices_of(user_config: Any) -> dict[str, ModelChoice]:
    """Name -> which model, of the `user_config` of a `MultiplexedModelServer`.

    Raises:
        ConfigError: The list is missing, or an entry is wrong.
    """
    models = user_config.get("models") if isinstance(user_config, Mapping) else None
    if not isinstance(models, Mapping) or not models:
        raise ConfigError("no models are listed", advice='Give user_config={"models": {"<name>": "<handle>"}}.')
    return {str(name): ModelChoice.of(each) for name, each in models.items()}


def _bring(handle: str) -> None:
    """Bring a model's files to this node, if they are not there."""
    process = current_process()
    process.backend.locate(process.pin_of(handle, CallOptions()))
