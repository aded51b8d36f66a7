"""What the settings say of single models, the words for routes and read modes, and a mapping that nobody can change."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from hubdist.errors import ConfigError, HubdistError
from hubdist.model.handle import BUILT_IN_SCHEMES, Handle, parse_handle
from hubdist.model.manifest import Digest
from hubdist.model.redact import redact_url
from hubdist.model.selection import selected

_K = TypeVar("_K")
_V = TypeVar("_V")
RouteName = Literal["auto", "direct", "shared", "driver"]
ReadMode = Literal["store", "memory", "in_place"]
_TF_HOST = "tf-host is taken by itself: pass device= to hubdist.load, or load under a tf.distribute strategy"


class FrozenDict(Mapping[_K, _V]):
    """A copy of a mapping that cannot be changed. It pickles and copies, as `types.MappingProxyType` does not.

    Args:
        items: The mapping to copy.
    """

    __slots__ = ("_items",)
    _items: dict[_K, _V]

    def __init__(self, items: Mapping[_K, _V]) -> None:
        object.__setattr__(self, "_items", dict(items))

    def __getitem__(self, key: _K) -> _V:
        """The value of a key."""
        return self._items[key]

    def __iter__(self) -> Iterator[_K]:
        """The keys."""
        return iter(self._items)

    def __len__(self) -> int:
        """The number of keys."""
        return len(self._items)

    def __repr__(self) -> str:
        """The text of a `dict`."""
        return repr(self._items)

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse to set anything."""
        raise AttributeError("a FrozenDict cannot be changed")

    def __reduce__(self) -> tuple[type[FrozenDict[_K, _V]], tuple[dict[_K, _V]]]:
        """Pickle by the items."""
        return type(self), (dict(self._items),)

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenDict[_K, _V]:
        """Return the same object: values may be functions, and `copy` does not copy functions either."""
        return self


def _check_route(value: object) -> object:
    if value == "tf-host":
        raise ValueError(_TF_HOST)
    return value


RouteSetting = Annotated[RouteName, BeforeValidator(_check_route)]


def check_call(route: str | None, read_mode: str | None) -> None:
    """Check what one call asks for.

    Args:
        route: The route, or None if the call names none.
        read_mode: The read mode, or None if the call names none.

    Raises:
        ConfigError: One of them does not exist; the message names those that do.
    """
    for key, value, known in (("route", route, get_args(RouteName)), ("read_mode", read_mode, get_args(ReadMode))):
        if value is not None and value not in known:
            why = _TF_HOST if value == "tf-host" else f"allowed are {', '.join(known)}"
            raise ConfigError(f"bad value {redact_url(repr(value))} for {key!r} in this call: {why}")


class ListedModel(BaseModel):
    """One entry of the key `models`; a handle alone stands for an entry with that handle only."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    handle: str = Field(description="The model's handle.")
    digest: str | None = Field(
        default=None, description="`sha256:<hex>` of the model; hubdist refuses other bytes. null: any bytes."
    )
    route: RouteSetting | None = Field(default=None, description="Replaces the key `route` for this model.")
    read_mode: ReadMode | None = Field(default=None, description="Replaces the key `read_mode` for this model.")

    include: tuple[str, ...] | None = Field(
        default=None, description="Patterns of the files that are wanted. They become part of `handle`."
    )
    exclude: tuple[str, ...] | None = Field(
        default=None, description="Patterns of files that are not wanted. They become part of `handle`."
    )

    @model_validator(mode="before")
    @classmethod
    def _choose_files(cls, given: Any) -> Any:
        """Write what is chosen into the handle, so that everybody who has the handle has the choice."""
        if not isinstance(given, Mapping) or not ("include" in given or "exclude" in given):
            return given
        left = {key: value for key, value in given.items() if key not in ("include", "exclude")}
        if isinstance(left.get("handle"), str):
            try:
                left["handle"] = selected(left["handle"], given.get("include"), given.get("exclude"))
            except (HubdistError, TypeError) as error:
                raise ValueError(redact_url(str(error))) from None
        return left

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """What `repr` and `str` show: the fields, with secrets of the handle removed."""
        return redacted_fields(super().__repr_args__())

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
    """What the settings say of one model.

    Attributes:
        digest: The only digest that is accepted; None accepts any.
        route: The route to try first; None takes the job's.
        read_mode: What TensorFlow opens; None takes the job's.
    """

    digest: Digest | None = None
    route: RouteName | None = None
    read_mode: ReadMode | None = None


def listed_handle(text: str, custom_schemes: Collection[str] = ()) -> Handle:
    """Parse the handle of a listed model. Unknown schemes pass: their origins may be registered in another process.

    Args:
        text: The handle, as the user wrote it.
        custom_schemes: Schemes that the user's own origins take, built-in ones among them.

    Raises:
        HandleError: The text is not a handle.
    """
    scheme = text.rpartition("::")[2].partition("://")[0].lower()
    return parse_handle(text, custom_schemes=({scheme} - BUILT_IN_SCHEMES) | set(custom_schemes))


def redacted_fields(fields: Iterable[tuple[str | None, Any]]) -> Iterator[tuple[str | None, Any]]:
    """Names and values of a pydantic model's fields, with secrets removed from URLs."""
    return ((name, redact_url(value) if isinstance(value, str) else value) for name, value in fields)
