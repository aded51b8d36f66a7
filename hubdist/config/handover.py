"""Settings for other processes: a job's processes on other nodes, and processes that this one starts.

Functions of the user and handles, which may hold secrets, stay in the process that has them. Paths that are relative,
or that follow this process's environment, are made absolute before they leave.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from hubdist.config.model_settings import FrozenDict
from hubdist.config.schema import Config
from hubdist.config.sources import VARIABLE, write_inherited
from hubdist.errors import ConfigError
from hubdist.system.disk import working_directory

_OF_JOB = {
    "shared_cache",
    "shared_cache_read_only",
    "swarm_reads",
    "lock_file",
    "locked",
    "netrc",
    "origin_headers",
    "tfhub_cache_dir",
    "chunk_timeout_s",
    "probe_timeout_s",
    "agent_idle_s",
    "scrub_rate",
}
"""Keys that the job's coordinator and agents alone use; a single task or actor cannot change them."""


def without_secrets(config: Config) -> Config:
    """What all processes of the job get: not the user's functions, nor handles, which may hold secrets."""
    return config.model_copy(update={"origins": FrozenDict({}), "models": ()})


def fingerprint(config: Config) -> str:
    """A text that is equal for equal settings; functions count by their scheme."""
    text = config.model_dump_json(exclude={"origins"}) + " ".join(sorted(config.origins))
    return hashlib.sha256(text.encode()).hexdigest()


def rooted(config: Config, folder: Path | None) -> Config:
    """The same settings, with relative paths of the driver's disk made absolute.

    Args:
        config: The settings.
        folder: The directory that the paths are relative to; None leaves them.
    """
    paths = {"lock_file": config.lock_file, "tfhub_cache_dir": config.tfhub_cache_dir}
    relative = {key: path for key, path in paths.items() if path is not None and not path.startswith(("/", "~"))}
    if folder is None or not relative:
        return config
    return config.replace({key: str(folder / path) for key, path in relative.items()})


def literal_store(config: Config, node_id: str) -> str:
    """A value of `store` that means the same directory in any environment.

    Args:
        config: The settings.
        node_id: What `{node_id}` stands for.

    Raises:
        StoreError: The path begins with `~`, and this process's user has no home.
    """
    return str(config.store_root(node_id)).replace("{", "{{").replace("}", "}}")


def with_store_of(config: Config, other: Config) -> Config:
    """The same settings with the store of others.

    Args:
        config: The settings.
        other: The settings that name the store; if they name none, the result names none.
    """
    values = {key: value for key, value in config.explicit_values().items() if key != "store"}
    if other.names_store:
        values["store"] = other.store
    return Config(**values)


def replace_in_process(
    config: Config, overrides: Mapping[str, Any], schemes: Collection[str], base_dir: Path | None = None
) -> Config:
    """The settings of a job with the changes that `init` was given in one of its tasks or actors.

    Args:
        config: The settings of the job.
        overrides: Keys and values.
        schemes: Schemes of the job's own origins.
        base_dir: The driver's directory, which relative paths of the job's settings are relative to.

    Raises:
        ConfigError: A key has no effect in a task or actor, is unknown, or has a wrong value.
    """
    changed = rooted(config.replace({key: value for key, value in overrides.items() if key != "origins"}), base_dir)
    idle = {key for key in overrides if key in _OF_JOB and getattr(changed, key) != getattr(config, key)}
    if set(overrides.get("origins", ())) - set(schemes):
        idle.add("origins")
    if changed.store == config.store:  # the agent on this node, and not this process, keeps the job's store small
        marks = ("max_store_bytes", "low_store_percent")
        idle |= {key for key in marks if getattr(changed, key) != getattr(config, key)}
    if idle:
        raise ConfigError(
            f"{', '.join(sorted(idle))}: no effect in a task or actor, where the job's coordinator and agents read"
            " and deliver",
            advice="Set it where the job begins: by hubdist.init in the driver, or by HUBDIST_CONFIG for the job.",
        )
    return changed


def plain_values(config: Config) -> dict[str, Any]:
    """The keys that were given, for a process that may have another version of hubdist; no functions and no handles."""
    return config.model_dump(mode="json", include=config.model_fields_set - {"origins", "models"})


def hand_down(config: Config, node_id: str) -> None:
    """Let processes that this one starts have the same settings, but for `origins`, which only Ray can send.

    Args:
        config: The settings.
        node_id: What `{node_id}` stands for in this process, and so in the processes that it starts.
    """
    whole = rooted(config, working_directory())  # they may be started in another directory
    values = whole.model_dump(mode="json", include=config.model_fields_set - {"origins"}, exclude_none=True)
    write_inherited(os.environ, values | {"store": literal_store(config, node_id)})


def stop_handing_down() -> None:
    """Let processes that this one starts from now on find their own settings."""
    os.environ.pop(VARIABLE, None)
