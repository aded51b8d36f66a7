"""One frozen `Config`, made once from YAML, environment and arguments; the only reader of the environment.

Precedence, growing: defaults; the YAML that `HUBDIST_CONFIG` names or holds; the environment (`HUBDIST_<KEY>`, and
TensorFlow Hub's own `TFHUB_CACHE_DIR` and `TFHUB_MODEL_LOAD_FORMAT`, which win over its absl flags of the same names,
where the program has parsed some); the arguments of `hubdist.init`.
"""

from __future__ import annotations

import hashlib
import os
import re
import string
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, ValidationError, field_validator

from hubdist.config.conflicts import find_contradiction, listed_handle
from hubdist.config.frozen_dict import FrozenDict
from hubdist.config.inherited import VARIABLE, write_inherited
from hubdist.config.sources import parse_yaml, read_layers
from hubdist.delivery.routes import Route
from hubdist.errors import ConfigError, HubdistError, StoreError
from hubdist.model.handle import Kind, parse_handle
from hubdist.model.manifest import Digest
from hubdist.model.paths import expand_home, local_directory
from hubdist.model.redact import redact_url
from hubdist.model.source import Source
from hubdist.system.deadline import Deadlines
from hubdist.system.disk import working_directory
from hubdist.system.ownership import place_for_store

_MAX_S = 30 * 24 * 3600.0
"""Longest time that can be set, 30 days; there is no waiting for ever."""

_TASK_KEEPS_BYTES = 1 << 30

_OF_JOB = {
    "shared_cache",
    "shared_cache_read_only",
    "fanout",
    "lock_file",
    "tfhub_cache_dir",
    "chunk_timeout_s",
    "probe_timeout_s",
    "agent_idle_s",
}
"""Keys that the job's coordinator and agents alone use; a single task or actor cannot change them."""

RouteName = Literal["auto", "direct", "shared", "driver"]
ReadMode = Literal["stage", "memory", "in_place"]
_TF_HOST = "tf-host is taken by itself: pass device= to hubdist.load, or load under a tf.distribute strategy"


def _check_route(value: object) -> object:
    if value == "tf-host":
        raise ValueError(_TF_HOST)
    return value


_RouteSetting = Annotated[RouteName, BeforeValidator(_check_route)]


def _listed_model(value: object) -> object:
    return {"handle": value} if isinstance(value, str) else value


class Model(BaseModel):
    """A model that the configuration names.

    Attributes:
        handle: Its handle.
        digest: `sha256:<hex>` of its manifest; any other bytes under this handle are refused. None takes what comes.
        route: As the job's `route`, for this handle; None takes the job's.
        read_mode: As the job's `read_mode`, for this handle; None takes the job's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    handle: str
    digest: str | None = None
    route: _RouteSetting | None = None
    read_mode: ReadMode | None = None

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """What `repr` and `str` show: no secrets of the handle."""
        return _shown_fields(super().__repr_args__())

    @field_validator("digest")
    @classmethod
    def _check_digest(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                Digest.parse(value)
            except HubdistError as error:
                raise ValueError(redact_url(str(error))) from None
        return value


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What the configuration says of one model: the only digest that is accepted, its route and read mode."""

    digest: Digest | None = None
    route: RouteName | None = None
    read_mode: ReadMode | None = None


class Config(BaseModel):
    """The settings of a job. Unknown keys are refused; sizes may be written as `20GiB`.

    Attributes:
        store: Root of each node's store; if others own it or may write to it, a private directory in it is. Without
            it, `$XDG_CACHE_HOME/hubdist` where that is set. `~` and the variable are expanded on each node;
            `{node_id}` stands for Ray's id of the node, so that nodes that see the same directory have a store each.
        max_bytes: Most bytes of snapshots in a node's store; the least recently used ones make room. None: no limit.
        models: Models that the coordinator resolves and delivers to all nodes as soon as it starts, each listed once.
        route: Which way a node tries first. `shared`: from the shared cache; `direct`: from where the handle points;
            `driver`: from the driver's node, which always works and is the last of each order. `auto`: by evidence.
        read_mode: What TensorFlow opens. `stage`: the directory in the node's store; `memory`: a copy in TensorFlow's
            `ram://`, nothing on disk; `in_place`: the `gs://` or mounted directory itself, as long as it holds
            the very files that were read and digested; else as `stage`.
        shared_cache: Directory on object storage, or on a mount that all nodes have, for snapshots that every node
            can read. The coordinator fills it.
        shared_cache_read_only: Use what is in `shared_cache` and never write to it.
        fanout: How nodes read a shared cache or a directory: `direct`, each node everything; `swarm`, each a share
            that it hands on to the others, so that it is read once per cluster.
        probe_timeout_s: Longest time in seconds to find out whether a node can read a place.
        offline: Never ask a network; use what the store, TF Hub's cache and the driver's disk have.
        lock_file: A file, `hubdist.lock`, that remembers the digest of every handle on first use; later jobs refuse
            other bytes. Read and written on the driver's node; it may be a link, and several jobs may share it.
        frozen: Refuse handles that neither `lock_file` nor `models` pins.
        fresh: Load again although the process holds the loaded model.
        max_loaded: Most loaded models that a process keeps for `load` to return again.
        max_loaded_bytes: Most bytes of such models that stay in memory while another one is loaded, although nobody
            holds them; the last one loaded stays until then. None: 1 GiB in processes that run Ray tasks, whose
            variables end with each task; nothing in drivers and actors, which hold themselves what they need.
        imports: Modules to import in each process before it loads its first model, such as `tensorflow_text`, whose
            operations a model uses.
        tfhub_cache_dir: A TensorFlow Hub cache on the driver's machine that is looked into before the network.
        timeout_s: Longest time in seconds for one `load`, `resolve` or `prefetch`.
        connect_timeout_s: Longest time in seconds to connect to an origin.
        stall_timeout_s: Longest time in seconds without a byte from an origin.
        chunk_timeout_s: Longest time in seconds for one chunk from a node; then it is tried again.
        retries: How often a failed read of an origin is tried again without progress.
        in_flight_bytes: Most bytes of chunks in flight to one node, and from one, of all models together; what a node
            itself copies from storage may take as much again.
        agent_idle_s: Seconds after which a node agent without work ends, so that its node can scale down.
        origins: Scheme -> function that makes a `Source` from a handle (a string); for handles of your own kind.
            Not from YAML.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, hide_input_in_errors=True)

    store: str = "~/.cache/hubdist"
    max_bytes: Annotated[ByteSize, Field(gt=0)] | None = None
    models: tuple[Annotated[Model, BeforeValidator(_listed_model)], ...] = ()
    route: _RouteSetting = "auto"
    read_mode: ReadMode = "stage"
    shared_cache: str | None = None
    shared_cache_read_only: bool = False
    fanout: Literal["direct", "swarm"] = "direct"
    probe_timeout_s: float = Field(default=10.0, gt=0, le=_MAX_S)
    offline: bool = False
    lock_file: str | None = None
    frozen: bool = False
    fresh: bool = False
    max_loaded: int = Field(default=8, ge=0)
    max_loaded_bytes: Annotated[ByteSize, Field(ge=0)] | None = None
    imports: tuple[str, ...] = ()
    tfhub_cache_dir: str | None = None
    timeout_s: float = Field(default=3600.0, gt=0, le=_MAX_S)
    connect_timeout_s: float = Field(default=10.0, gt=0, le=_MAX_S)
    stall_timeout_s: float = Field(default=30.0, gt=0, le=_MAX_S)
    chunk_timeout_s: float = Field(default=120.0, gt=0, le=_MAX_S)
    retries: int = Field(default=5, ge=0)
    in_flight_bytes: Annotated[ByteSize, Field(ge=4 << 20, le=256 << 20)] = ByteSize(64 << 20)
    agent_idle_s: float = Field(default=10.0, gt=0, le=_MAX_S)
    origins: Mapping[str, Callable[[str], Source]] = Field(default=FrozenDict({}), repr=False)

    def __init__(self, _places: Mapping[str, str] | None = None, **values: Any) -> None:
        failure = None
        try:
            super().__init__(**values)
        except ValidationError as error:
            failure = _explained(error, _places or {})
        if failure is not None:
            raise failure  # outside of `except`: the other error holds what was given, secrets too
        found = find_contradiction(self)
        if found is not None:
            key, why = found
            place = (_places or {}).get(key, "the arguments of Config")
            raise ConfigError(f"{key!r} in {place} contradicts the other settings: {why}")

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """What `repr` and `str` show: no secrets of URLs."""
        return _shown_fields(super().__repr_args__())

    @field_validator("store")
    @classmethod
    def _check_store(cls, value: str) -> str:
        try:
            placeholders = {tuple(part) for _, *part in string.Formatter().parse(value) if part[0] is not None}
        except ValueError:
            placeholders = {()}
        if placeholders - {("node_id", "", None)}:
            raise ValueError("the only placeholder is {node_id}")
        if not value.format(node_id="node").startswith(("/", "~")):  # `~` may be another place on another node
            raise ValueError("must be an absolute path, or begin with ~")
        return value

    @field_validator("tfhub_cache_dir")
    @classmethod
    def _check_tfhub_cache_dir(cls, value: str | None) -> str | None:
        folder = None if value is None else local_directory(value)
        if folder is not None and not folder.strip():
            raise ValueError("must be the path of a directory on the driver's disk")
        if value is not None and folder is None:
            raise ValueError(f"{redact_url(value)} is not a directory of this machine; set shared_cache to it")
        return folder

    @field_validator("lock_file")
    @classmethod
    def _check_lock_file(cls, value: str | None) -> str | None:
        if value is not None and (not value.strip() or "://" in value or value.endswith("/")):
            raise ValueError("must be the path of a file on the driver's disk")
        return value

    @field_validator("shared_cache")
    @classmethod
    def _check_shared_cache(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            handle = parse_handle(value)
        except HubdistError as error:
            raise ValueError(str(error)) from None
        if handle.kind not in (Kind.TREE, Kind.LOCAL):
            raise ValueError("must be a directory on object storage such as gs://bucket/directory, or an absolute path")
        return handle.text

    @field_validator("imports")
    @classmethod
    def _check_imports(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not all(part.isidentifier() for part in name.split(".")):
                raise ValueError(f"{name!r} is not the name of a module")
        return value

    @field_validator("models")
    @classmethod
    def _check_models(cls, value: tuple[Model, ...]) -> tuple[Model, ...]:
        for model in value:
            try:
                listed_handle(model.handle)
            except HubdistError as error:
                raise ValueError(str(error)) from None
        return value

    @field_validator("origins")
    @classmethod
    def _check_origins(cls, value: Mapping[str, Callable[[str], Source]]) -> Mapping[str, Callable[[str], Source]]:
        for scheme in value:
            if not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
                raise ValueError(f"the scheme {scheme!r} is not of lower-case letters, digits, '+', '.' and '-'")
        return FrozenDict(value)

    @classmethod
    def load(
        cls,
        overrides: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        *,
        inherit: bool = True,
    ) -> Self:
        """Put the layers together.

        Args:
            overrides: Keys and values that win over everything.
            environment: Instead of the process's environment variables.
            inherit: Take what the process that started this one handed down; not where Ray did, for the job's
                settings hold there.

        Raises:
            ConfigError: Something cannot be read, is unknown, of the wrong type or out of range; the message names
                where it stands, the key and what is allowed.
        """
        environment = dict(os.environ if environment is None else environment)
        if not inherit:
            environment.pop(VARIABLE, None)
        values: dict[str, Any] = {}
        places: dict[str, str] = {}
        for place, layer in (*read_layers(environment), ("an argument of init", dict(overrides or {}))):
            values.update(layer)
            places.update(dict.fromkeys(layer, place))
        return cls(_places=places, **values)

    @classmethod
    def from_yaml(cls, text: str, place: str = "the YAML") -> Self:
        """Read a configuration from YAML text alone.

        Raises:
            ConfigError: As for `load`; `place` names where the text stands.
        """
        values = parse_yaml(text, place)
        return cls(_places=dict.fromkeys(values, place), **values)

    def changed(self, overrides: Mapping[str, Any]) -> Self:
        """The same settings but for these keys.

        Raises:
            ConfigError: As for `load`.
        """
        places = dict.fromkeys(overrides, "an argument of init")
        return type(self)(_places=places, **(self.explicit_values() | dict(overrides)))

    @staticmethod
    def check_call(asked: Mapping[str, Any]) -> None:
        """Check the route and the read mode of one call.

        Raises:
            ConfigError: It is none; what is allowed is named.
        """
        failure = None
        try:
            Model(handle="/", **asked)
        except ValidationError as error:
            failure = _explained(error, dict.fromkeys(asked, "this call"))
        if failure is not None:
            raise failure

    def rooted(self, folder: Path | None) -> Self:
        """The same settings, with relative paths of the driver's disk made absolute.

        Args:
            folder: What they are relative to; None leaves them.
        """
        paths = {"lock_file": self.lock_file, "tfhub_cache_dir": self.tfhub_cache_dir}
        relative = {key: path for key, path in paths.items() if path is not None and not path.startswith(("/", "~"))}
        if folder is None or not relative:
            return self
        return self.changed({key: str(folder / path) for key, path in relative.items()})

    def explicit_values(self) -> dict[str, Any]:
        """The keys and values that were given when this was made; the others have their defaults."""
        return {name: getattr(self, name) for name in self.model_fields_set}

    def hand_down(self, node_id: str) -> None:
        """Let processes that this one starts have the same settings, but for `origins`, which only Ray can send.

        Args:
            node_id: What `{node_id}` stands for in this process, and so in them.
        """
        whole = self.rooted(working_directory())  # they may be started in another directory
        values = whole.model_dump(mode="json", include=self.model_fields_set - {"origins"}, exclude_none=True)
        write_inherited(os.environ, values | {"store": self.literal_store(node_id)})

    @staticmethod
    def stop_handing_down() -> None:
        """Let processes that this one starts from now on find their own settings."""
        os.environ.pop(VARIABLE, None)

    def without_secrets(self) -> Self:
        """What all processes of the job get: not the user's functions, nor handles, which may hold secrets."""
        return self.model_copy(update={"origins": FrozenDict({}), "models": ()})

    def changed_in_process(
        self, overrides: Mapping[str, Any], schemes: Collection[str], base_dir: Path | None = None
    ) -> Self:
        """The settings of a job, changed by `init` in one of its tasks or actors.

        Args:
            overrides: Keys and values.
            schemes: Those of the job's own origins.
            base_dir: The driver's directory, which relative paths of the job's settings are relative to.

        Raises:
            ConfigError: A key has no effect there, or as for `load`.
        """
        changed = self.changed({key: value for key, value in overrides.items() if key != "origins"}).rooted(base_dir)
        idle = {key for key in overrides if key in _OF_JOB and getattr(changed, key) != getattr(self, key)}
        if set(overrides.get("origins", ())) - set(schemes):
            idle.add("origins")
        if changed.max_bytes != self.max_bytes and changed.store == self.store:
            idle.add("max_bytes")  # of a store that is not this process's own
        if idle:
            raise ConfigError(
                f"{', '.join(sorted(idle))}: no effect in a task or actor, where the job's coordinator and agents read"
                " and deliver",
                advice="Set it where the job begins: by hubdist.init in the driver, or by HUBDIST_CONFIG for the job.",
            )
        return changed

    def model_settings(self, schemes: Collection[str] = ()) -> dict[str, ModelSettings]:
        """`Handle.key` -> what is set for this model; keys give no secret of a handle away.

        Args:
            schemes: Of own origins that are not in these settings.
        """
        custom = {*self.origins, *schemes}
        return {
            parse_handle(model.handle, custom_schemes=custom).key: ModelSettings(
                None if model.digest is None else Digest.parse(model.digest), model.route, model.read_mode
            )
            for model in self.models
        }

    def wanted_route(self, model: ModelSettings, asked: RouteName | None) -> Route | None:
        """The route to try first: of the call, else of the model, else of the job; None for the best."""
        route = asked or model.route or self.route
        return None if route == "auto" else Route(route)

    def wanted_read_mode(self, model: ModelSettings, asked: ReadMode | None) -> ReadMode:
        """What to open: of the call, else of the model, else of the job."""
        return asked or model.read_mode or self.read_mode

    def kept_bytes(self, *, in_task: bool) -> int:
        """Most bytes of loaded models that a process keeps while another one is loaded; see `max_loaded_bytes`."""
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
            retries=self.retries,
        )

    @property
    def fingerprint(self) -> str:
        """Equal for equal settings; functions count by their scheme."""
        text = self.model_dump_json(exclude={"origins"}) + " ".join(sorted(self.origins))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def names_store(self) -> bool:
        """True if `store` is set; else each process goes by its environment."""
        return "store" in self.model_fields_set

    def with_store_of(self, other: Config) -> Self:
        """The same settings with the store of others, which may name none."""
        values = {key: value for key, value in self.explicit_values().items() if key != "store"}
        if other.names_store:
            values["store"] = other.store
        return type(self)(**values)

    def literal_store(self, node_id: str) -> str:
        """A value of `store` that means the same directory in any environment; raises as `store_root` does."""
        return str(self.store_root(node_id)).replace("{", "{{").replace("}", "}}")

    def store_root(self, node_id: str) -> Path:
        """The directory that is configured for the store on the node with this id.

        Where none is, it is in the `XDG_CACHE_HOME` of this process: each node has its own.

        Raises:
            StoreError: It begins with `~`, and this process's user has no home.
        """
        cache = os.environ.get("XDG_CACHE_HOME", "")
        if not self.names_store and cache.startswith("/"):
            return Path(cache) / "hubdist"
        try:
            return expand_home(self.store.format(node_id=node_id), "store (HUBDIST_STORE)")
        except ConfigError as error:
            advice = f"Set store (HUBDIST_STORE) to {place_for_store()}."
            raise StoreError(error.what, path=self.store, advice=advice) from None


def _shown_fields(fields: Iterable[tuple[str | None, Any]]) -> Iterator[tuple[str | None, Any]]:
    return ((name, redact_url(value) if isinstance(value, str) else value) for name, value in fields)


def _explained(error: ValidationError, places: Mapping[str, str]) -> ConfigError:
    """Where the first wrong value stands, its key, and what is allowed."""
    first = error.errors(include_url=False, include_context=False)[0]
    key = ".".join(redact_url(str(part)) for part in first["loc"]) or "?"
    place = places.get(str(first["loc"][0]) if first["loc"] else "", "the arguments of Config")
    if first["type"] == "extra_forbidden":
        known = Config if len(first["loc"]) == 1 else Model
        return ConfigError(f"unknown key {key!r} in {place}", advice=f"Known keys: {', '.join(known.model_fields)}.")
    shown = redact_url(repr(first["input"]))
    return ConfigError(f"bad value {shown} for {key!r} in {place}: {first['msg']}")
