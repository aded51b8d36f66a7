"""Builders of applications, for `serve.run` and for configuration files: `import_path` with `args`.

A builder brings the models to all nodes first. So a handle that is wrong fails the deployment before any replica hears
of it, and what served before goes on.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ray import serve

from hubdist.client.api import prefetch
from hubdist.errors import ConfigError
from hubdist.integrations.ray_serve.model_server import ModelServer
from hubdist.integrations.ray_serve.multiplexed import choices_of, limited_to
from hubdist.integrations.ray_serve.served_model import ModelChoice

_MODEL_KEYS = tuple(ModelChoice.__dataclass_fields__)
_DEFAULT_ONGOING = 5
"""How many requests Ray Serve sends to a replica at once, if nobody says otherwise."""


def app(args: Mapping[str, Any]) -> serve.Application:
    """An application that serves one model; its deployment is `ModelServer`.

    Args:
        args: `handle`, and if wanted `version`, `signature`, `pad_to` and `example`, which become the deployment's
            `user_config`; `max_batch_size`, `batch_wait_timeout_s` and `max_failures` of `ModelServer`; and `options`,
            a mapping with options of the deployment, such as `num_replicas`.

    Raises:
        ConfigError: A key is unknown, or the handle is missing.
        HubdistError: The model cannot be resolved or brought to the nodes.
    """
    keys = dict(args)
    options = keys.pop("options", None) or {}
    model = {key: keys.pop(key) for key in _MODEL_KEYS if key in keys}
    choice = ModelChoice.of(model)
    try:
        inspect.signature(ModelServer).bind(**keys)
    except TypeError as error:
        raise ConfigError(f"the arguments of the application are wrong: {error}", advice="Correct the key.") from None
    prefetch(choice.handle, watch=lambda _: None)
    ongoing = max(_DEFAULT_ONGOING, 2 * int(keys.get("max_batch_size", 1)))
    wanted = {"user_config": model, "max_ongoing_requests": ongoing, **_surge(), **options}
    return _deployment(ModelServer, "ModelServer", wanted).bind(**keys)


def multiplexed_app(args: Mapping[str, Any]) -> serve.Application:
    """An application that serves many models, each replica a few of them; its deployment is `MultiplexedModelServer`.

    Args:
        args: `models`, name -> handle or mapping with `handle`, `version`, `signature`, `pad_to` and `example`;
            `max_models`, the number of models that a replica keeps, 3 if it is not given; and `options`, a mapping with
            options of the deployment, such as `num_replicas`.

    Raises:
        ConfigError: A key is unknown, or no model is listed.
        HubdistError: A model cannot be resolved or brought to the nodes.
    """
    keys = dict(args)
    options = keys.pop("options", None) or {}
    max_models = int(keys.pop("max_models", 3))
    choices = choices_of(keys)
    unknown = sorted(set(keys) - {"models"})
    if unknown:
        raise ConfigError(f"the application has no argument {unknown[0]!r}", advice="Correct the key.")
    prefetch([choice.handle for choice in choices.values()], watch=lambda _: None)
    wanted = {"user_config": keys, **_surge(), **options}
    return _deployment(limited_to(max_models), "MultiplexedModelServer", wanted).bind()


def _deployment(served: type, name: str, options: Mapping[str, Any]) -> serve.Deployment:
    deployment: Any = serve.deployment(served)
    made: serve.Deployment = deployment.options(name=name, **options)
    return made


def _surge() -> dict[str, int]:
    """Options that keep old replicas until new ones are ready, where this version of Ray can."""
    can = "max_surge_percent" in inspect.signature(serve.deployment).parameters
    return {"max_surge_percent": 100} if can else {}
