"""A mapping that nobody can change: for values that are shared, and handed out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

_K = TypeVar("_K")
_V = TypeVar("_V")


class FrozenDict(Mapping[_K, _V]):
    """A copy of a mapping, which stays as it is. Pickles and copies, as `types.MappingProxyType` does not.

    Args:
        items: What is in it.
    """

    __slots__ = ("_items",)
    _items: dict[_K, _V]

    def __init__(self, items: Mapping[_K, _V]) -> None:
        object.__setattr__(self, "_items", dict(items))

    def __getitem__(self, key: _K) -> _V:
        """As of any mapping."""
        return self._items[key]

    def __iter__(self) -> Iterator[_K]:
        """As of any mapping."""
        return iter(self._items)

    def __len__(self) -> int:
        """As of any mapping."""
        return len(self._items)

    def __repr__(self) -> str:
        """As of a `dict`."""
        return repr(self._items)

    def __setattr__(self, name: str, value: object) -> None:
        """Refused."""
        raise AttributeError("it cannot be changed")

    def __reduce__(self) -> tuple[type[FrozenDict[_K, _V]], tuple[dict[_K, _V]]]:
        """Pickle by what is in it."""
        return type(self), (dict(self._items),)

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenDict[_K, _V]:
        """What is in it may be functions, which are not copied either."""
        return self
