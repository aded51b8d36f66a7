"""The small expressions of `hubdist ls`: `size>1GB`, `used<30d`, `handle=*mnist*`, and how models are sorted."""

from __future__ import annotations

import fnmatch
import operator
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from hubdist.cli.amounts import parse_age, parse_size

if TYPE_CHECKING:
    from hubdist.care.listing import StoredModel

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    "!=": operator.ne,
}
_KEYS = "size, files, used, handle, digest, kept and in_use"
SORTS = ("used", "size", "handle")

Condition = Callable[["StoredModel", float], bool]
"""Whether a model, at a time in seconds since 1970, is wanted."""


def parse_filter(text: str) -> Condition:
    """What an expression such as `size>1GB` means. Several expressions must all hold.

    Args:
        text: `size`, `files` or `used` (the time since the last use), compared with `>`, `>=`, `<`, `<=`, `=` or `!=`;
            `handle` or `digest` with `=` or `!=` and a pattern; `kept` or `in_use` with `=` or `!=` and `true` or
            `false`.

    Raises:
        click.BadParameter: The expression cannot be understood.
    """
    found = re.fullmatch(r"\s*(\w+)\s*(>=|<=|!=|>|<|=)\s*(.+?)\s*", text)
    if found is None:
        raise click.BadParameter(f"{text!r} is not a filter; write size>1GB, used<30d or handle=*mnist*")
    key, sign, value = found.groups()
    if key in ("size", "files"):
        limit = parse_size(value) if key == "size" else _number(value)
        return lambda model, _: _COMPARE[sign](model.size if key == "size" else model.files, limit)
    if key == "used":
        age_s = parse_age(value)
        return lambda model, now: _COMPARE[sign](now - model.used_at, age_s)
    if sign not in ("=", "!="):
        raise click.BadParameter(f"{text!r}: {key} can be compared by = and != only")
    matches = _texts(key, value)
    return lambda model, _: matches(model) == (sign == "=")


def _number(text: str) -> int:
    if not text.isdecimal():
        raise click.BadParameter(f"{text!r} is not a number")
    return int(text)


def _texts(key: str, value: str) -> Callable[[StoredModel], bool]:
    if key == "handle":
        return lambda model: any(fnmatch.fnmatchcase(handle, value) for handle in model.handles)
    if key == "digest":
        return lambda model: fnmatch.fnmatchcase(str(model.digest), value)
    if key not in ("kept", "in_use"):
        raise click.BadParameter(f"there is no {key!r} to filter by; there are {_KEYS}")
    if value not in ("true", "false"):
        raise click.BadParameter(f"{key} is true or false, not {value!r}")
    return lambda model: (model.kept if key == "kept" else model.in_use) == (value == "true")


def sort_models(models: Sequence[tuple[str, StoredModel]], by: str) -> list[tuple[str, StoredModel]]:
    """Models in another order.

    Args:
        models: Name of the store, and model.
        by: `used`, `size` or `handle`, with `:asc` or `:desc` behind it; without, what was used last, what is largest
            and what comes first in the alphabet is at the top.

    Raises:
        click.BadParameter: There is no such order.
    """
    key, _, direction = by.partition(":")
    if key not in SORTS or direction not in ("", "asc", "desc"):
        raise click.BadParameter(f"{by!r} is no order; write {', '.join(SORTS)}, and :asc or :desc behind it")
    values: dict[str, Callable[[tuple[str, StoredModel]], float | str]] = {
        "used": lambda pair: pair[1].used_at,
        "size": lambda pair: pair[1].size,
        "handle": lambda pair: pair[1].handles[0] if pair[1].handles else "\U0010ffff",
    }
    descending = direction == "desc" if direction else key != "handle"
    return sorted(models, key=values[key], reverse=descending)
