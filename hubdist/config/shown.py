"""The settings as people and programs look at them: each value with its source, and the schema of the YAML."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import ConfigDict, create_model

from hubdist.config.redacted import redacted_values
from hubdist.config.reference import NOT_IN_YAML, SECTIONS, default_of
from hubdist.config.schema import Config
from hubdist.config.sources import merge_layers


@dataclass(frozen=True, slots=True)
class ShownSetting:
    """A setting and where its value comes from.

    Attributes:
        key: The setting.
        value: Its value as JSON can hold it, secrets removed.
        source: Where the value stands, such as `HUBDIST_STORE`; `default` if nobody has set it.
    """

    key: str
    value: Any
    source: str

    @property
    def text(self) -> str:
        """The value as people read it, in the way in which the reference writes defaults."""
        if self.source == "default":
            return default_of(self.key)
        if self.key.endswith("_bytes") and isinstance(self.value, int):
            return _size_text(self.value)
        return self.value if isinstance(self.value, str) else json.dumps(self.value, ensure_ascii=False)


def shown_settings(overrides: Mapping[str, Any], places: Mapping[str, str]) -> tuple[ShownSetting, ...]:
    """All settings that would hold for a job begun now, in the order of the reference.

    Args:
        overrides: Keys and values that win over YAML and environment.
        places: For each of these keys, where its value stands.

    Raises:
        ConfigError: A setting is wrong.
    """
    values, where = merge_layers(dict(os.environ), overrides)
    where |= places
    config = Config(_where=where, **values)
    values = redacted_values(config)
    keys = (key for section in SECTIONS.values() for key in section)
    return tuple(ShownSetting(key, values[key], where.get(key, "default")) for key in keys)


def settings_schema() -> dict[str, Any]:
    """The JSON schema of the YAML, for editors and other programs."""
    fields: dict[str, Any] = {
        name: (Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation, field)
        for name, field in Config.model_fields.items()
        if name not in NOT_IN_YAML
    }
    settings = create_model("hubdist", __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=True), **fields)
    schema: dict[str, Any] = settings.model_json_schema()
    # What the model's validators make of a text before its type is checked.
    models, link = schema["properties"]["models"], schema["properties"]["link"]
    models["items"] = {"anyOf": [{"type": "string"}, models["items"]]}
    link["anyOf"].append({"type": "string"})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _size_text(count: int) -> str:
    """A number of bytes as YAML may hold it, exactly."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("GB", 10**9), ("MB", 10**6)):
        if count and count % size == 0:
            return f"{count // size}{unit}"
    return str(count)
