"""The checks of single settings, beyond their types; a `ValueError` says what is allowed."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping

from hubdist.config.model_settings import FrozenDict, ListedModel, listed_handle
from hubdist.errors import HubdistError
from hubdist.model.handle import Kind, parse_handle
from hubdist.model.paths import local_directory
from hubdist.model.redact import redact_url
from hubdist.model.source import Source


def check_store(value: str) -> str:
    """An absolute path or one below `~`, with no placeholder but `{node_id}`."""
    try:
        placeholders = {tuple(part) for _, *part in string.Formatter().parse(value) if part[0] is not None}
    except ValueError:
        placeholders = {()}
    if placeholders - {("node_id", "", None)}:
        raise ValueError("the only placeholder is {node_id}")
    if not value.format(node_id="node").startswith(("/", "~")):  # `~` may be another place on another node
        raise ValueError("must be an absolute path, or begin with ~")
    return value


def check_tfhub_cache_dir(value: str | None) -> str | None:
    """A local directory; a `file://` URL becomes its path."""
    folder = None if value is None else local_directory(value)
    if folder is not None and not folder.strip():
        raise ValueError("must be the path of a directory on the driver's disk")
    if value is not None and folder is None:
        raise ValueError(f"{redact_url(value)} is not a directory of this machine; set shared_cache to it")
    return folder


def check_lock_file(value: str | None) -> str | None:
    """The path of a file, neither a URL nor a directory."""
    if value is not None and (not value.strip() or "://" in value or value.endswith("/")):
        raise ValueError("must be the path of a file on the driver's disk")
    return value


def check_shared_cache(value: str | None) -> str | None:
    """A directory on object storage or an absolute path, in its normal spelling."""
    if value is None:
        return None
    try:
        handle = parse_handle(value)
    except HubdistError as error:
        raise ValueError(str(error)) from None
    if handle.kind not in (Kind.TREE, Kind.LOCAL):
        raise ValueError("must be a directory on object storage such as gs://bucket/directory, or an absolute path")
    return handle.text


def check_imports(value: tuple[str, ...]) -> tuple[str, ...]:
    """Names of modules, with dots."""
    for name in value:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"{name!r} is not the name of a module")
    return value


def check_models(value: tuple[ListedModel, ...]) -> tuple[ListedModel, ...]:
    """Models whose handles can be parsed."""
    for model in value:
        try:
            listed_handle(model.handle)
        except HubdistError as error:
            raise ValueError(str(error)) from None
    return value


def check_origins(value: Mapping[str, Callable[[str], Source]]) -> Mapping[str, Callable[[str], Source]]:
    """Functions by scheme, in a mapping that nobody can change."""
    for scheme in value:
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
            raise ValueError(f"the scheme {scheme!r} must consist of lower-case letters, digits, '+', '.' and '-'")
    return FrozenDict(value)


def check_data_ports(value: str | None) -> str | None:
    """A range of ports."""
    if value is not None:
        found = re.fullmatch(r"(\d{1,5})-(\d{1,5})", value)
        if found is None or not 1024 <= int(found[1]) <= int(found[2]) <= 65535:
            raise ValueError("must be a range of ports from 1024 to 65535, such as 19800-19999")
    return value


def wrap_handle(value: object) -> object:
    """An entry of `models` that is a handle alone, as a mapping."""
    return {"handle": value} if isinstance(value, str) else value
