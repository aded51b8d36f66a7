"""What makes two loads equal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hubdist.config.model_settings import ReadMode, RouteName
from hubdist.errors import ConfigError
from hubdist.loading.importing import import_tensorflow
from hubdist.model.manifest import Digest

_OPTIONS = (
    "allow_partial_checkpoint",
    "experimental_io_device",
    "experimental_load_function_aliases",
    "experimental_skip_checkpoint",
    "experimental_variable_policy",
)
"""The fields of `tf.saved_model.LoadOptions`, tensorflow 2.21.0."""


@dataclass(frozen=True, slots=True)
class LoadKey:
    """What makes two loads equal.

    Attributes:
        handle: The handle without secrets; tells a person what it is, and a later job where to look.
        digest: The model.
        tags: The MetaGraph's tags; None leaves the choice to TensorFlow.
        options: Fields of `tf.saved_model.LoadOptions` as sorted pairs; empty for none.
        device: The TensorFlow device to load under, as `tf.DeviceSpec` prints it; None takes the current one.
        route: What the call or the configuration asked for this model, so that it goes along with it; None for the
            job's.
        read_mode: The same.
    """

    handle: str
    digest: Digest
    tags: tuple[str, ...] | None
    options: tuple[tuple[str, Any], ...]
    device: str | None = None
    route: RouteName | None = None
    read_mode: ReadMode | None = None

    @property
    def identity(self) -> tuple[Any, ...]:
        """Equal for loads that give the same model, by whatever handle."""
        return self.digest, self.tags, self.options, self.device


def load_key(
    handle: str,
    digest: Digest,
    tags: Sequence[str] | str | None,
    options: Any,
    device: str | None = None,
    *,
    route: RouteName | None = None,
    read_mode: ReadMode | None = None,
) -> LoadKey:
    """The key of a load, from the arguments that `hub.load` takes and hubdist's own; see `LoadKey`.

    Raises:
        ConfigError: The device cannot be understood.
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
            f"{device!r} is no TensorFlow device",
            advice="Write it as tf.DeviceSpec does, for example /job:worker/task:0 or /device:GPU:0.",
        )
    return name
