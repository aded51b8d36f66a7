"""Turns what the library returns into what JSON can hold, for `--format json`."""

from __future__ import annotations

import dataclasses
import enum
import os
from collections.abc import Mapping
from typing import Any

from hubdist.errors import HubdistError


def to_json(value: Any) -> Any:
    """What JSON can hold of a value: fields of dataclasses by name, errors by class, text and advice.

    Args:
        value: A frozen value of the library, or a collection of such.
    """
    if isinstance(value, HubdistError):
        return {
            "error": type(value).__name__,
            "what": value.what,
            "handle": value.handle,
            "node": value.node,
            "advice": value.advice,
        }
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_json(each) for each in value]
    if isinstance(value, enum.Enum):
        return value.value
    return os.fspath(value) if isinstance(value, os.PathLike) else value
