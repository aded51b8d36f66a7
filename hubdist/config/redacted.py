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
    """The keys whose values were given; the others have their defaults."""
    return tuple(sorted(config.model_fields_set))


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redact_url(value)
    if isinstance(value, dict):
        return {key: _redacted(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_redacted(each) for each in value]
    return value
