"""Where settings come from before `hubdist.init` has its say: YAML, environment, TensorFlow Hub's flags.

What the layers hold is checked by `config.Config`. The environment is passed in.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import yaml

from hubdist.config.inherited import VARIABLE, read_inherited
from hubdist.errors import ConfigError
from hubdist.model.paths import expand_home, local_directory
from hubdist.model.redact import redact_url

Layer = tuple[str, dict[str, Any]]
"""Where settings stand, for errors; and keys and values."""


def read_layers(environment: Mapping[str, str]) -> list[Layer]:
    """The layers below the arguments of `init`; a later one wins.

    The last one holds what the process that started this one was given by its own `init`.

    Raises:
        ConfigError: One cannot be read; what it holds is not checked.
    """
    own = [_yaml_layer(environment), *_environment_layers(environment)]
    return [*own, ("the settings of the process that started this one", read_inherited(environment))]


def _yaml_layer(environment: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    named = environment.get("HUBDIST_CONFIG", "")
    inline = "the YAML in HUBDIST_CONFIG"
    if not named.strip() or "\n" in named or ": " in named or named.rstrip().endswith((":", "}")):
        return inline, parse_yaml(named, inline)
    place = redact_url(named)  # YAML without a space after its colon is taken for a name
    try:
        return place, parse_yaml(expand_home(named, "HUBDIST_CONFIG").read_text(encoding="utf-8"), place)
    except (OSError, UnicodeDecodeError) as error:
        reason = _reason(error)
    raise ConfigError(  # outside of `except`: the other error holds the name as it is
        f"HUBDIST_CONFIG names {place!r}, which cannot be read: {reason}",
        advice="Let it name a YAML file that this node has, or hold the YAML itself.",
    )


def _reason(error: OSError | UnicodeDecodeError) -> str:
    """Why a file cannot be read, without what stands in it or is taken for its name."""
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else "it is not UTF-8"


def parse_yaml(text: str, place: str) -> dict[str, Any]:
    """The keys and values of a configuration's YAML.

    Args:
        text: The YAML.
        place: Where it stands, for errors.

    Raises:
        ConfigError: It is no mapping of keys.
    """
    try:
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:  # its own text would quote what stands there, secrets too
        mark = error.problem_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise ConfigError(f"{place} is no YAML: {error.problem}{where}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{place} is no YAML: {type(error).__name__}") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{place} is no mapping of keys to values")
    if "origins" in values:
        raise ConfigError(f"'origins' in {place}: functions cannot come from YAML", advice="Pass them to init.")
    return values


def _environment_layers(environment: Mapping[str, str]) -> list[tuple[str, dict[str, Any]]]:
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


def _cache_dir(value: str, _place: str) -> dict[str, Any]:
    """A local directory of TensorFlow Hub is read; a remote one becomes the shared cache."""
    return {"tfhub_cache_dir" if local_directory(value) is not None else "shared_cache": value}


def _load_format(value: str, place: str) -> dict[str, Any]:
    """Source: tensorflow_hub 0.16.1, `registry.py`; AUTO and COMPRESSED are the same there for handles of hubs."""
    if value.upper() not in ("AUTO", "COMPRESSED", "UNCOMPRESSED"):
        raise ConfigError(f"{place}={value}: allowed are AUTO, COMPRESSED, UNCOMPRESSED")
    return {"route": "direct"} if value.upper() == "UNCOMPRESSED" else {}


def _flag(name: str) -> str | None:
    """A flag that the program has defined (tensorflow_hub does), parsed, and been given; absl is not imported here."""
    flags = getattr(sys.modules.get("absl.flags"), "FLAGS", None)
    if flags is None or not flags.is_parsed() or name not in flags or not flags[name].present:
        return None
    return str(flags[name].value)


def _environment_value(key: str, value: str, name: str) -> Any:
    if value.strip() == "null":
        return None
    return parse_yaml(f"{key}: {value}", name)[key] if key == "models" else value
