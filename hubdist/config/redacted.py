"""The settings as others may see them: in a job's record, in a page about the job."""

from __future__ import annotations

from typing import Any

from hubdist.config.schema import Config
from hubdist.model.redact import redact_url


def redacted_values(config: Config) -> dict[str, Any]:
    """Every key and its value as JSON can hold it, without the secrets of URLs; of functions, their schemes."""
    values = config.model_dump(mode="json", exclude={"origins"})
    return {key: _redacted(value) for key, value in values.items()} | {"origins": sorted(config.origins)}


def given_keys(config: Config) -> tuple[str, ...]:
    """The keys whose values were given and are not the defaults.

    A job's settings come without models and with the origins filled in, so what was set in code counts only if it says
    something.
    """
    fields = type(config).model_fields
    return tuple(sorted(key for key in config.model_fields_set if getattr(config, key) != fields[key].default))


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redact_url(value)
    if isinstance(value, dict):
        return {key: _redacted(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_redacted(each) for each in value]
    return value
