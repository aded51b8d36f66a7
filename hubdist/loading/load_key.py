"""The arguments of a load in one comparable value, which travels in pickles of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hubdist.errors import ConfigError
from hubdist.loading.tf_runtime import import_tensorflow
from hubdist.model.manifest import Digest

_OPTIONS = (
    "allow_partial_checkpoint",
    "experimental_io_device",
    "experimental_load_function_aliases",
    "experimental_skip_checkpoint",
    "experimental_variable_policy",
)
"""The fields of `tf.saved_model.LoadOptions`. Source: tensorflow 2.21.0."""


@dataclass(frozen=True, slots=True)
class LoadKey:
    """What was loaded, and how.

    Attributes:
        handle: The handle without secrets. It names the model in messages, and a later job resolves it again.
        digest: The digest of the model's files.
        tags: The tags of the MetaGraph, sorted; None leaves the choice to TensorFlow.
        options: Fields of `tf.saved_model.LoadOptions` as sorted pairs; empty for none.
        device: The TensorFlow device to load under, as `tf.DeviceSpec` prints it; None takes the current one.
        route: The route that the call or the model's configuration asked for, so that a pickle of the model takes
            along how to bring its files; None for the job's setting.
        read_mode: The read mode that the call or the model's configuration asked for; None for the job's setting.
    """

    handle: str
    digest: Digest
    tags: tuple[str, ...] | None
    options: tuple[tuple[str, Any], ...]
    device: str | None = None
    route: str | None = None
    read_mode: str | None = None

    @property
    def identity(self) -> tuple[Any, ...]:
        """Equal for two loads that give the same model, whatever handles, routes and read modes they were given."""
        return self.digest, self.tags, self.options, self.device


def load_key(
    handle: str,
    digest: Digest,
    tags: Sequence[str] | str | None,
    options: Any,
    device: str | None = None,
    *,
    route: str | None = None,
    read_mode: str | None = None,
) -> LoadKey:
    """Make the key of a load from the arguments of `hubdist.load`.

    Args:
        handle: The handle without secrets.
        digest: The digest that the handle stands for.
        tags: One tag, several, or None, as `hub.load` takes them.
        options: A `tf.saved_model.LoadOptions`, or None.
        device: A TensorFlow device in any spelling, or None.
        route: As in `LoadKey`.
        read_mode: As in `LoadKey`.

    Raises:
        ConfigError: The device is not one that TensorFlow understands, or TensorFlow cannot be imported.
    """
    if isinstance(tags, str):
        tags = (tags,)
    device = None if device is None else _device_name(device)
    frozen_tags = None if tags is None else tuple(sorted(tags))
    return LoadKey(handle, digest, frozen_tags, _freeze(options), device, route, read_mode)


def _freeze(options: Any) -> tuple[tuple[str, Any], ...]:
    if options is None:
        return ()
    values = {name: getattr(options, name, None) for name in _OPTIONS}
    plain = {name: getattr(value, "value", value) for name, value in values.items()}  # a policy is an enum
    return tuple(sorted((name, value) for name, value in plain.items() if value))


def _device_name(device: str) -> str:
    tensorflow = import_tensorflow()
    try:
        name = str(tensorflow.DeviceSpec.from_string(device).to_string())
    except (AttributeError, TypeError, ValueError):
        name = ""
    if not name:
        raise ConfigError(
            f"{device!r} is not a TensorFlow device",
            advice="Write it as tf.DeviceSpec does, for example /job:worker/task:0 or /device:GPU:0.",
        )
    return name
