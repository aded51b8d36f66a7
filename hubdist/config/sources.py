"""Where settings come from: YAML, environment, TensorFlow Hub's flags, arguments; and how they are put together.

`hubdist.config.schema` checks what the layers hold. The environment is passed in.

One variable of the environment is written as well: by it, a process hands its settings to the processes that it starts,
with multiprocessing, joblib, subprocess and the like. It holds JSON and the id of the process that wrote it: that
process itself does not read it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import yaml

from hubdist.errors import ConfigError
from hubdist.model.paths import expand_home, local_directory
from hubdist.model.redact import redact_url

_Layer = tuple[str, dict[str, Any]]
"""Where settings stand, for errors; and keys and values."""

VARIABLE = "HUBDIST_INHERITED"
"""Not a setting; only `hubdist.config.handover.hand_down` writes it."""


_IN_YAML = ("models", "imports", "origin_headers")
"""Keys whose values in the environment are YAML, because they are no plain texts."""


def merge_layers(environment: Mapping[str, str], overrides: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Put all layers together; a later layer wins key by key.

    Args:
        environment: Environment variables; one of them may hold what the process that started this one handed down.
        overrides: The arguments of `init`, the last layer.

    Returns:
        Keys and values, which are not checked; and for each key where its value stands.

    Raises:
        ConfigError: A layer cannot be read.
    """
    layers = [
        _yaml_layer(environment),
        *_environment_layers(environment),
        ("the settings of the process that started this one", read_inherited(environment)),
        ("an argument of init", dict(overrides)),
    ]
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    for where, layer in layers:
        values.update(layer)
        places.update(dict.fromkeys(layer, where))
    return values, places


def _yaml_layer(environment: Mapping[str, str]) -> _Layer:
    named = environment.get("HUBDIST_CONFIG", "")
    inline = "the YAML in HUBDIST_CONFIG"
    if not named.strip() or "\n" in named or ": " in named or named.rstrip().endswith((":", "}")):
        return inline, parse_yaml(named, inline)
    where = redact_url(named)  # YAML without a space after its colon is taken for a name
    try:
        return where, parse_yaml(expand_home(named, "HUBDIST_CONFIG").read_text(encoding="utf-8"), where)
    except (OSError, UnicodeDecodeError) as error:
        reason = _reason(error)
    raise ConfigError(  # outside of `except`: the other error holds the name as it is
        f"HUBDIST_CONFIG names {where!r}, which cannot be read: {reason}",
        advice="Let it name a YAML file that this node has, or hold the YAML itself.",
    )


def _reason(error: OSError | UnicodeDecodeError) -> str:
    """Why a file cannot be read, without the file's text or name, which may hold secrets."""
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else "it is not UTF-8"


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """The keys and values of a configuration's YAML.

    Args:
        text: The YAML.
        where: Where it stands, for errors.

    Raises:
        ConfigError: The text is not YAML, or not a mapping of keys to values that YAML can hold.
    """
    try:
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:  # its own text would quote what stands there, secrets too
        mark = error.problem_mark
        line = f" in line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise ConfigError(f"{where} is not YAML: {error.problem}{line}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{where} is not YAML: {type(error).__name__}") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{where} is not a mapping of keys to values")
    if "origins" in values:
        raise ConfigError(f"'origins' in {where}: functions cannot come from YAML", advice="Pass them to init.")
    return values


def _environment_layers(environment: Mapping[str, str]) -> list[_Layer]:
    layers = []
    for name, read in (("TFHUB_CACHE_DIR", _cache_dir), ("TFHUB_MODEL_LOAD_FORMAT", _load_format)):
        flag = f"--{name.lower()}"
        value = _flag(name.lower())
        if value is not None:
            layers.append((flag, read(value, flag)))
        if environment.get(name):
            layers.append((name, read(environment[name], name)))
    for name, value in environment.items():
        if name.startswith("HUBDIST_") and name not in ("HUBDIST_CONFIG", VARIABLE) and value.strip():
            key = name.removeprefix("HUBDIST_").lower()
            layers.append((name, {key: _environment_value(key, value, name)}))
    return layers


def _cache_dir(value: str, _where: str) -> dict[str, Any]:
    """TensorFlow Hub's cache: hubdist reads a local one, and takes a remote one for its shared cache."""
    return {"tfhub_cache_dir" if local_directory(value) is not None else "shared_cache": value}


def _load_format(value: str, where: str) -> dict[str, Any]:
    """TensorFlow Hub's load format, as a route.

    Source: tensorflow_hub 0.16.1, `registry.py`; AUTO and COMPRESSED are the same there for handles of hubs.
    """
    if value.upper() not in ("AUTO", "COMPRESSED", "UNCOMPRESSED"):
        raise ConfigError(f"{where}={value}: allowed are AUTO, COMPRESSED, UNCOMPRESSED")
    return {"route": "direct"} if value.upper() == "UNCOMPRESSED" else {}


def _flag(name: str) -> str | None:
    """The value of an absl flag that tensorflow_hub defines, if the program has parsed it and was given it.

    absl is not imported for this: a program that has not imported it has no flags.
    """
    flags = getattr(sys.modules.get("absl.flags"), "FLAGS", None)
    if flags is None or not flags.is_parsed() or name not in flags or not flags[name].present:
        return None
    return str(flags[name].value)


def _environment_value(key: str, value: str, name: str) -> Any:
    if value.strip() == "null":
        return None
    return parse_yaml(f"{key}: {value}", name)[key] if key in _IN_YAML else value


def write_inherited(environment: MutableMapping[str, str], values: Mapping[str, Any]) -> None:
    """Put settings where processes that this one starts find them.

    Args:
        environment: The process's environment variables.
        values: Keys and values that JSON can hold.
    """
    environment[VARIABLE] = json.dumps({"process": os.getpid(), "settings": dict(values)})


def read_inherited(environment: Mapping[str, str]) -> dict[str, Any]:
    """The settings of the process that started this one; none if no such process has any."""
    try:
        written = json.loads(environment.get(VARIABLE, "{}"))
        return {} if written.get("process") == os.getpid() else dict(written.get("settings", {}))
    except (ValueError, AttributeError, TypeError):
        return {}
