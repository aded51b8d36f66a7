"""One frozen `Config`: the settings of a job, and what follows from them for a node or a model.

Settings that contradict each other, or have no effect together, are refused, so that nobody relies on them.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from hubdist.config.keys import Keys
from hubdist.config.model_settings import ListedModel, ModelSettings, ReadMode, RouteName, listed_handle
from hubdist.config.node_settings import NodeSettings
from hubdist.config.sources import VARIABLE, merge_layers, parse_yaml
from hubdist.delivery.routes import Route
from hubdist.errors import ConfigError
from hubdist.model.handle import parse_handle
from hubdist.model.manifest import Digest
from hubdist.model.paths import expand_home
from hubdist.model.redact import redact_url
from hubdist.system.deadline import Deadlines

_TASK_KEEPS_BYTES = 1 << 30
_BY_HAND = "the arguments of Config"


class Config(Keys):
    """The settings of a job; nothing changes them once they are made.

    The keys are described in `docs/reference/settings.md` and `configs/hubdist.yaml`, and, for programs, in
    `Config.model_fields[key].description`. Sizes may be written as `20GiB`. Unknown keys, values of the wrong type and
    settings that contradict each other raise a `ConfigError`, which names where they stand.

    Later sources win: the defaults; the YAML that `HUBDIST_CONFIG` names or holds; the environment (`HUBDIST_<KEY>`,
    and TensorFlow Hub's own `TFHUB_CACHE_DIR` and `TFHUB_MODEL_LOAD_FORMAT`, which win over its absl flags of the same
    names, where the program has parsed some); the arguments of `hubdist.init`. `Config(...)` itself reads none of
    these.
    """

    def __init__(self, _where: Mapping[str, str] | None = None, **values: Any) -> None:
        failure = None
        try:
            super().__init__(**values)
        except ValidationError as error:
            failure = _explained(error, _where or {})
        if failure is not None:
            raise failure  # outside of `except`: the other error holds what was given, secrets too
        found = find_contradiction(self)
        if found is not None:
            key, why = found
            where = (_where or {}).get(key, _BY_HAND)
            raise ConfigError(f"{key!r} in {where} contradicts the other settings: {why}")

    @classmethod
    def load(
        cls,
        overrides: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        *,
        inherit: bool = True,
        places: Mapping[str, str] | None = None,
    ) -> Self:
        """Read the settings from YAML, environment and arguments.

        Args:
            overrides: Keys and values that win over everything.
            environment: Environment variables; None reads those of this process.
            inherit: Take what the process that started this one handed down. False where Ray started it: the job's
                settings hold there.
            places: Where the overrides stand, by key; None for the arguments of `init`.

        Raises:
            ConfigError: Something cannot be read, is unknown, of the wrong type or out of range; the message names
                where it stands, the key and what is allowed.
        """
        environment = dict(os.environ if environment is None else environment)
        if not inherit:
            environment.pop(VARIABLE, None)
        values, where = merge_layers(environment, overrides or {})
        where |= places or {}
        return cls(_where=where, **values)

    @classmethod
    def from_yaml(cls, text: str, where: str = "the YAML") -> Self:
        """Read settings from YAML text alone; the environment is not read.

        Args:
            text: The YAML.
            where: What errors call the text.

        Raises:
            ConfigError: As for `load`.
        """
        values = parse_yaml(text, where)
        return cls(_where=dict.fromkeys(values, where), **values)

    def replace(self, overrides: Mapping[str, Any]) -> Self:
        """The same settings with other values for some keys.

        Raises:
            ConfigError: A key is unknown, a value is wrong, or the settings contradict each other.
        """
        where = dict.fromkeys(overrides, "an argument of init")
        return type(self)(_where=where, **(self.explicit_values() | dict(overrides)))

    def explicit_values(self) -> dict[str, Any]:
        """The keys and values that were given; the other keys have their defaults."""
        return {name: getattr(self, name) for name in self.model_fields_set}

    def model_settings(self, schemes: Collection[str] = ()) -> dict[str, ModelSettings]:
        """What is set for single models, by `Handle.key`, which holds no secret of the handle.

        Args:
            schemes: Schemes of own origins that are not in these settings.
        """
        custom = {*self.origins, *schemes}
        return {
            parse_handle(model.handle, custom_schemes=custom).key: ModelSettings(
                None if model.digest is None else Digest.parse(model.digest), model.route, model.read_mode
            )
            for model in self.models
        }

    def wanted_route(self, model: ModelSettings, asked: RouteName | None) -> Route | None:
        """The route to try first; None lets each node take the best.

        Args:
            model: What is set for the model alone; it wins over the job's route.
            asked: What the call asks for; it wins over both.
        """
        route = asked or model.route or self.route
        return None if route == "auto" else Route(route)

    def wanted_read_mode(self, model: ModelSettings, asked: ReadMode | None) -> ReadMode:
        """What TensorFlow opens.

        Args:
            model: What is set for the model alone; it wins over the job's read mode.
            asked: What the call asks for; it wins over both.
        """
        return asked or model.read_mode or self.read_mode

    def kept_bytes(self, *, in_task: bool) -> int:
        """Bytes of loaded models that a process may keep while it loads another one.

        Args:
            in_task: The process runs Ray tasks, whose variables end with each task.
        """
        if self.max_loaded_bytes is not None:
            return int(self.max_loaded_bytes)
        return _TASK_KEEPS_BYTES if in_task else 0

    @property
    def deadlines(self) -> Deadlines:
        """The limits for reads of origins and storage."""
        return Deadlines(
            connect_s=self.connect_timeout_s,
            stall_s=self.stall_timeout_s,
            total_s=self.timeout_s,
            retries=self.origin_retries,
        )

    @property
    def names_store(self) -> bool:
        """True if `store` was given; else each process goes by its environment."""
        return "store" in self.model_fields_set

    def store_root(self, node_id: str) -> Path:
        """The directory of the store on a node, by the environment of this process.

        Args:
            node_id: Ray's id of the node, for the placeholder `{node_id}`.

        Raises:
            StoreError: The path begins with `~`, and this process's user has no home.
        """
        return self.node_settings.store_root(node_id)

    @property
    def node_settings(self) -> NodeSettings:
        """The settings that node agents get; plain values, so that to unpickle them loads no pydantic."""
        return NodeSettings(
            store=self.store,
            names_store=self.names_store,
            max_store_bytes=None if self.max_store_bytes is None else int(self.max_store_bytes),
            low_store_percent=self.low_store_percent,
            scrub_rate=self.scrub_rate,
            max_in_flight_bytes=int(self.max_in_flight_bytes),
            shared_cache=self.shared_cache,
            data_port=self.data_port,
            data_ports=self.data_ports,
            timeout_s=self.timeout_s,
            chunk_timeout_s=self.chunk_timeout_s,
            probe_timeout_s=self.probe_timeout_s,
            deadlines=self.deadlines,
            export_metrics=self.export_metrics,
        )


def _explained(error: ValidationError, where: Mapping[str, str]) -> ConfigError:
    """Say where the first wrong value stands, its key, and what is allowed."""
    first = error.errors(include_url=False, include_context=False)[0]
    key = ".".join(redact_url(str(part)) for part in first["loc"]) or "?"
    stands_in = where.get(str(first["loc"][0]) if first["loc"] else "", _BY_HAND)
    if first["type"] == "extra_forbidden":
        known = list((Config if len(first["loc"]) == 1 else ListedModel).model_fields)
        close = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        meant = f"Did you mean {close[0]!r}? " if close else ""
        return ConfigError(f"unknown key {key!r} in {stands_in}", advice=f"{meant}Known keys: {', '.join(known)}.")
    if first["loc"] and first["loc"][0] == "origin_headers":  # a secret may stand where a name must be
        return ConfigError(f"bad value for 'origin_headers' in {stands_in}: {first['msg']}")
    shown = redact_url(repr(first["input"]))
    return ConfigError(f"bad value {shown} for {key!r} in {stands_in}: {first['msg']}")


def find_contradiction(settings: Keys) -> tuple[str, str] | None:
    """The first key that cannot be meant as it is, and why, as a clause; None if all agree."""
    return next(itertools.chain(_contradictions(settings), _contradictions_of_locked(settings)), None)


def _contradictions(settings: Keys) -> Iterator[tuple[str, str]]:
    handles = [listed_handle(model.handle) for model in settings.models]
    keys: set[str] = set()
    for handle in handles:
        if handle.key in keys:
            yield "models", f"{handle.redacted} is listed twice; say all of a model in one place"
        keys.add(handle.key)
    if settings.shared_cache is None:
        if settings.shared_cache_read_only:
            yield "shared_cache_read_only", "there is no shared_cache"
        if settings.route == "shared":
            yield "route", "shared has no effect without a shared_cache"
        for model, handle in zip(settings.models, handles, strict=True):
            if model.route == "shared":
                yield "models", f"the route shared of {handle.redacted} has no effect without a shared_cache"
    elif _nested(settings.store, settings.shared_cache):
        yield "shared_cache", "it and the store must not be one directory, nor one in the other"
    if settings.max_loaded_models == 0 and settings.max_loaded_bytes:
        yield "max_loaded_bytes", "max_loaded_models is 0, so no model is kept"


def _contradictions_of_locked(settings: Keys) -> Iterator[tuple[str, str]]:
    if not settings.locked:
        return
    if settings.lock_file is None:
        yield "locked", "there is no lock_file"
    if settings.frozen:
        yield "frozen", "locked asks whether the lock file is out of date, and frozen does not"
    if settings.offline:
        yield "offline", "locked asks the origins; frozen takes what is pinned without a question"


def _nested(store: str, shared_cache: str) -> bool:
    """True if two directories are one, or one is in the other.

    Only the names are compared: a mount may hang, so neither directory is looked at.
    """
    if "://" in shared_cache:
        return False
    with contextlib.suppress(ConfigError):  # there is no home here, perhaps on another node
        store = str(expand_home(store, "store"))
    # A placeholder is a name that no directory of the user's has.
    one, other = (Path(os.path.normpath(path)) for path in (store.format(node_id="\0"), shared_cache))
    return one.is_relative_to(other) or other.is_relative_to(one)
