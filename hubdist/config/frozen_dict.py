"""A mapping that nobody can change: for values that are shared, and handed out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

_K = TypeVar("_K")
_V = TypeVar("_V")


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
