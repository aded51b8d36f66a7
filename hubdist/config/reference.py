"""Writes the reference of the settings: `configs/hubdist.yaml` and `docs/reference/settings.md`.

    python -m hubdist.config.reference yaml > hubdist.yaml

Both texts come from the descriptions in `hubdist.config.keys`.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from hubdist.config.schema import Config

SECTIONS = {
    "Where models are kept": ("store", "max_store_bytes", "low_store_percent", "scrub_rate"),
    "Which models": ("models",),
    "How a node gets a model": (
        "route",
        "read_mode",
        "shared_cache",
        "shared_cache_read_only",
        "swarm_reads",
        "probe_timeout_s",
        "offline",
        "tfhub_cache_dir",
        "origins",
    ),
    "What private origins get to know": ("origin_headers", "netrc"),
    "Which bytes are accepted": ("lock_file", "frozen", "locked"),
    "Loaded models in each process": ("fresh", "max_loaded_models", "max_loaded_bytes", "tf_resources", "imports"),
    "Time and retries": ("timeout_s", "connect_timeout_s", "stall_timeout_s", "chunk_timeout_s", "origin_retries"),
    "Load on the cluster": ("max_in_flight_bytes", "data_port", "data_ports", "link", "agent_idle_s"),
    "What is seen from outside": ("export_metrics",),
}
"""The keys in the order in which a reader meets them."""

NOT_IN_YAML = {"origins"}

_WIDTH = 120
_YAML_HEAD = """\
# All settings of hubdist with their defaults. `make configs` writes this file.
#
# Give a job its settings by any of these; a later one wins:
#   1. a file like this one: HUBDIST_CONFIG=/path/on/every/node/hubdist.yaml
#      (HUBDIST_CONFIG may also hold the YAML itself, see runtime-env.yaml)
#   2. one environment variable for one key: HUBDIST_MAX_STORE_BYTES=50GiB
#   3. arguments in the driver: hubdist.init(max_store_bytes="50GiB")
#
# The driver's settings hold for the whole job. An unknown key or a wrong value is an error. Sizes are bytes, or have a
# unit: 500MB, 20GiB. Times are seconds.
"""
_MARKDOWN_HEAD = """\
# Settings

<!-- `make configs` writes this page from hubdist/config/keys.py. -->

Give a job its settings by any of these; a later one wins:

1. YAML in `HUBDIST_CONFIG`: the name of a file that every node has, such as
   [hubdist.yaml](https://github.com/hubdist/hubdist/blob/main/configs/hubdist.yaml), or the YAML itself.
2. One environment variable for one key: `HUBDIST_MAX_STORE_BYTES=50GiB`.
3. Arguments in the driver: `hubdist.init(max_store_bytes="50GiB")`.

The driver's settings hold for the whole job. An unknown key or a wrong value is an error that says where it stands and
what is allowed. Sizes are bytes, or have a unit: `500MB`, `20GiB`. Times are seconds, at most 30 days.
"""


def settings_yaml() -> str:
    """All keys with their defaults and descriptions, as a commented YAML file."""
    parts = [_YAML_HEAD]
    for section, keys in SECTIONS.items():
        parts.append(f"# --- {section} ".ljust(_WIDTH, "-") + "\n")
        for key in keys:
            if key not in NOT_IN_YAML:
                field = Config.model_fields[key]
                comment = [*textwrap.wrap(str(field.description), _WIDTH - 2), *_example(field)]
                parts.append("".join(f"# {line}\n" for line in comment) + f"{key}: {default_of(key)}\n")
    return "\n".join(parts)


def settings_markdown() -> str:
    """A page with a table of all keys, and the description of each."""
    parts = [_MARKDOWN_HEAD, _table([key for keys in SECTIONS.values() for key in keys])]
    for section, keys in SECTIONS.items():
        parts.append(f"## {section}\n")
        for key in keys:
            field = Config.model_fields[key]
            facts = f"Type: {type_of(key)}. Default: `{default_of(key)}`. Environment: {variable_of(key)}."
            example = "\n".join(["```yaml", *_example(field), "```\n"]) if field.examples else None
            description = textwrap.fill(str(field.description), _WIDTH) + "\n"
            parts += [f"### `{key}`\n", facts + "\n", description, *([example] if example else [])]
    return "\n".join(parts)


def default_of(key: str) -> str:
    """The default of a key, as YAML would have it."""
    value = Config.model_fields[key].default
    if key.endswith("_bytes") and value is not None:
        return f"{value >> 20}MiB"
    if isinstance(value, tuple):
        return "[]"
    if isinstance(value, Mapping) and key not in NOT_IN_YAML:
        return "{}"
    if isinstance(value, float):
        return f"{value:g}"
    return yaml.safe_dump(value).partition("\n")[0] if key not in NOT_IN_YAML else "none"


def type_of(key: str) -> str:
    """What a value of a key is, in words."""
    annotation = Config.model_fields[key].annotation
    optional = type(None) in get_args(annotation)
    return _words(key, annotation) + (" or `null`" if optional else "")


def variable_of(key: str) -> str:
    """The environment variable of a key, as Markdown."""
    return "none" if key in NOT_IN_YAML else f"`HUBDIST_{key.upper()}`"


def _words(key: str, annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if key.endswith(("_bytes", "_s")):
        return "size" if key.endswith("_bytes") else "seconds"
    if get_origin(annotation) is tuple:
        return "list"
    named = {bool: "`true` or `false`", int: "number"}
    return named.get(annotation, "mapping" if get_origin(annotation) is Mapping else "text")


def _table(keys: Sequence[str]) -> str:
    rows = ["| key | default | in short |", "| --- | --- | --- |"]
    for key in keys:
        # The first sentence: up to a full stop or colon before a space.
        short = re.split(r"(?<=[\w`)])[.:;](?:\s|$)", str(Config.model_fields[key].description))[0]
        rows.append(f"| [`{key}`](#{key}) | `{default_of(key)}` | {short} |")
    return "\n".join(rows) + "\n"


def _example(field: FieldInfo) -> Iterator[str]:
    for example in field.examples or ():
        yield from f"{example}".splitlines()


if __name__ == "__main__":
    sys.stdout.write(settings_markdown() if sys.argv[1:] == ["markdown"] else settings_yaml())
