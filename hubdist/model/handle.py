"""Handles: what users write to name a model. `parse_handle` gives equal handles equal texts and finds their kind.

The kind follows from the text alone; nothing is read. `hubdist.model.paths` decides what the ending of a name means,
for every kind. The kinds:

| kind    | example                                                   |
| ------- | --------------------------------------------------------- |
| HUB     | `https://tfhub.dev/google/universal-sentence-encoder/4`   |
| ARCHIVE | `https://host/model.tar.gz`, `gs://bucket/model.zip`      |
| FILE    | `https://host/model.onnx`: a model of one file            |
| TREE    | `gs://bucket/dir`, any other allowed fsspec URL; or a file|
| LOCAL   | `/models/mnist`, `~/model.tgz`: a path on the driver      |
| MEMBER  | `zip://inner/dir::https://host/model.zip`, `tar://...`    |
| KAGGLE  | `kaggle://owner/model/tensorFlow2/variation/1`, its URL   |
| HUGGING_FACE | `hf://org/model@revision`, also a directory or a file in it |
| SELECTION | `files://include=*.json::<any of these>`: some of its files |
| CUSTOM  | `myregistry://...`, with an origin that the user registers |
"""

from __future__ import annotations

import enum
import hashlib
import os
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from hubdist.errors import HandleError
from hubdist.model.hf_names import RepoName
from hubdist.model.hints import storage_directory
from hubdist.model.hub_urls import DEFAULT_PORTS, HttpUrl, normal_kaggle_name
from hubdist.model.local_names import model_directory, path_text
from hubdist.model.paths import ARCHIVE_SUFFIXES, Ending, ending_of
from hubdist.model.redact import redact_url
from hubdist.model.selection import SCHEME as SELECTION_SCHEME
from hubdist.model.selection import Selection

TREE_SCHEMES = frozenset({"gs", "gcs", "s3", "s3a", "az", "abfs", "abfss", "adl", "hdfs", "oci", "oss", "memory"})
"""Allowed fsspec protocols: object storage and the like, but no protocol that runs commands or chains caches."""

BUILT_IN_SCHEMES = TREE_SCHEMES | {"file", "files", "hf", "http", "https", "kaggle", "tar", "zip"}
"""Schemes that hubdist reads without an origin of the user."""

_SAME_SCHEME = {"gcs": "gs", "s3a": "s3"}
_LITE_FORMAT = "lite-format=tflite"
"""A query word that asks a hub for one TFLite file. Source: https://www.tensorflow.org/hub/hosting, URL conventions."""

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_MEMBER_SCHEMES = frozenset({"zip", "tar"})
_PASSWORD = re.compile(r"^([^/:?#]+://[^/?#:@]*):[^/?#]*@")
_IP_ADDRESS = re.compile(r"//[^/?#\[\]]*\[[0-9A-Fa-f:.]+\]")


def other_archive_error(redacted: str) -> HandleError:
    """The error for an archive whose format hubdist does not read.

    Args:
        redacted: The archive's handle without secrets.
    """
    return HandleError(
        f"{redacted!r} is an archive of a format that is not read",
        advice=f"Pack it as one of {', '.join(ARCHIVE_SUFFIXES)}, or unpack it and name the directory.",
    )


class Kind(enum.StrEnum):
    """How a handle is read, as the table above says."""

    HUB = "hub"
    ARCHIVE = "archive"
    FILE = "file"
    TREE = "tree"
    LOCAL = "local"
    MEMBER = "member"
    KAGGLE = "kaggle"
    HUGGING_FACE = "hugging face"
    SELECTION = "selection"
    CUSTOM = "custom"


@dataclass(frozen=True, slots=True)
class Handle:
    """A parsed, normalised handle.

    Attributes:
        text: The normalised handle. It may hold secrets, so only the origin gets it.
        kind: How the handle is read.
        base: Of a MEMBER, the handle of the archive; of a SELECTION, that of all files; else None.
        inner: Of a MEMBER, the directory or file inside the archive, "" for the whole archive; of a SELECTION, the
            patterns as `Selection.text` writes them.
        format: Of a MEMBER, `zip` or `tar`; of a SELECTION, `files`.
    """

    text: str
    kind: Kind
    base: Handle | None = None
    inner: str = ""
    format: str = ""

    def __repr__(self) -> str:
        return f"Handle({self.redacted!r}, {self.kind})"

    @property
    def redacted(self) -> str:
        """The handle without secrets, for texts and errors."""
        return redact_url(self.text)

    @property
    def root(self) -> Handle:
        """The handle of the place that is read: that of the archive of a member, that of a selection's files."""
        return self if self.base is None else self.base.root

    @property
    def selection(self) -> Selection:
        """Which files are wanted; every file but for a SELECTION."""
        return Selection.parse(self.inner) if self.kind is Kind.SELECTION else Selection()

    @property
    def is_drivers(self) -> bool:
        """True if the model lies on the driver's own disk: at a path, or in an archive at a path."""
        return self.root.kind is Kind.LOCAL

    @property
    def label(self) -> str:
        """The handle without secrets, with a part of its key if it has some, so that labels differ if handles do."""
        return self.text if self.redacted == self.text else f"{self.redacted}#{self.key[:12]}"

    @property
    def scheme(self) -> str:
        """`https`, `gs`, ...; empty for a local path."""
        scheme, found, _ = self.text.partition("://")
        return scheme if found else ""

    @property
    def key(self) -> str:
        """32 hex digits that name this handle in file names. The key is the same for every password in the handle."""
        if self.base is not None:
            identity = f"{self.format}://{self.inner}::{self.base.key}"
        else:
            identity = _PASSWORD.sub(r"\1@", self.text)
        return hashlib.sha256(identity.encode()).hexdigest()[:32]


def handle_text(handle: str | os.PathLike[str]) -> str:
    """A handle as text.

    Args:
        handle: A text, or a path-like object.

    Raises:
        HandleError: The handle is something else, or empty.
    """
    text = os.fsdecode(handle) if isinstance(handle, os.PathLike) else handle
    if not isinstance(text, str):  # in the words of tensorflow_hub
        raise HandleError(f"Expected a string, got {redact_url(repr(text))}", advice="A handle is a string or a path.")
    if not text.strip():
        raise HandleError(f"a handle is a non-empty string or a path, not {text!r}")
    return text


def parse_handle(
    text: str | os.PathLike[str], *, base_dir: Path | None = None, custom_schemes: Collection[str] = ()
) -> Handle:
    """Parse what the user wrote.

    Args:
        text: The handle, as text or as a path.
        base_dir: The directory that relative paths are relative to; None refuses relative paths.
        custom_schemes: Schemes of origins that the user registered; they win over the built-in ones.

    Raises:
        HandleError: The text is not a handle, or its scheme is not known or not allowed.
    """
    text = handle_text(text).strip()
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise HandleError(
            f"the handle {redact_url(text)!r} is not UTF-8", advice="Rename the file or directory."
        ) from None
    if any(ord(char) < 32 or ord(char) == 127 for char in text):
        raise HandleError(f"the handle {redact_url(text)!r} holds a control character")
    head, tail = _split_chain(text)
    if head.lower().startswith(f"{SELECTION_SCHEME}://") and SELECTION_SCHEME not in custom_schemes:
        return _parse_selection(head, tail, base_dir, custom_schemes)
    if tail is not None:
        return _parse_member(head, tail, text, base_dir, custom_schemes)
    scheme, found, rest = text.partition("://")
    if not found:
        return Handle(path_text(text, base_dir), Kind.LOCAL)
    if scheme.lower() in custom_schemes:
        return Handle(f"{scheme.lower()}://{rest}", Kind.CUSTOM)
    return _parse_url(scheme.lower(), rest, text, base_dir, custom_schemes)


def _split_chain(text: str) -> tuple[str, str | None]:
    """The text before and after the first `::` that is not part of an IPv6 address; None if there is no such `::`."""
    at = _IP_ADDRESS.sub(lambda address: "/" * len(address.group()), text).find("::")
    return (text, None) if at < 0 else (text[:at], text[at + 2 :])


def _parse_url(scheme: str, rest: str, text: str, base_dir: Path | None, custom_schemes: Collection[str]) -> Handle:
    if scheme == "file":
        return Handle(path_text("/" + rest.removeprefix("localhost").lstrip("/"), base_dir), Kind.LOCAL)
    if scheme == "kaggle":
        return _parse_kaggle(rest, text)
    if scheme == "hf":
        return _parse_hugging_face(text)
    if scheme in DEFAULT_PORTS:
        return _parse_http(text)
    if scheme in TREE_SCHEMES:
        return _parse_tree(_SAME_SCHEME.get(scheme, scheme), rest, text)
    if scheme in _MEMBER_SCHEMES:
        raise HandleError(
            f"{redact_url(text)!r} names no archive",
            advice=f"Write {scheme}://inner/directory::<URL or path of the archive>.",
        )
    known = ", ".join(sorted({*BUILT_IN_SCHEMES, *custom_schemes}))
    named = f"scheme {scheme!r}" if _SCHEME.fullmatch(scheme) else "scheme"
    raise HandleError(f"unknown {named} in {redact_url(text)!r}", advice=f"Known are: {known}.")


def _parse_member(head: str, tail: str, text: str, base_dir: Path | None, custom_schemes: Collection[str]) -> Handle:
    scheme, found, inner = head.partition("://")
    if not found or scheme not in _MEMBER_SCHEMES or _split_chain(tail)[1] is not None:
        shown = repr(redact_url(head)) if redact_url(text).startswith(head) else f"what begins {redact_url(text)!r}"
        raise HandleError(
            f"{shown} cannot be put in front of '::'",
            advice="Only one zip:// or tar:// may stand before the archive's handle.",
        )
    base = parse_handle(tail, base_dir=base_dir, custom_schemes=custom_schemes)
    if base.kind in (Kind.MEMBER, Kind.KAGGLE, Kind.CUSTOM, Kind.SELECTION):
        raise HandleError(f"{base.redacted!r} is not an archive that {scheme}:// can look into")
    inner = model_directory(inner.strip("/"))
    if any(name in ("", ".", "..") for name in inner.split("/")) and inner:
        raise HandleError(f"the directory {redact_url(inner)!r} inside the archive is not a plain path")
    return Handle(f"{scheme}://{inner}::{base.text}", Kind.MEMBER, base, inner, scheme)


def _parse_selection(head: str, tail: str | None, base_dir: Path | None, custom_schemes: Collection[str]) -> Handle:
    if tail is None:
        raise HandleError(
            f"{redact_url(head)!r} names no model whose files are chosen",
            advice=f"Write {SELECTION_SCHEME}://include=<pattern>::<handle>; '::' in a pattern is %3A%3A.",
        )
    selection = Selection.parse(head.partition("://")[2])
    base = parse_handle(tail, base_dir=base_dir, custom_schemes=custom_schemes)
    if base.kind is Kind.SELECTION:
        raise HandleError(f"{redact_url(head)!r} stands before another selection", advice="Choose files in one place.")
    text = f"{SELECTION_SCHEME}://{selection.text}::{base.text}"
    return Handle(text, Kind.SELECTION, base, selection.text, SELECTION_SCHEME)


def _parse_kaggle(name: str, text: str) -> Handle:
    return Handle(f"kaggle://{normal_kaggle_name(name, text)}", Kind.KAGGLE)


def _parse_http(text: str) -> Handle:
    url = HttpUrl(text)
    if url.kaggle_name is not None:
        return _parse_kaggle(url.kaggle_name, text)
    normal, ending = url.normal(), ending_of(url.path)
    if ending is Ending.SAVED_MODEL:
        raise HandleError(
            f"{redact_url(text)!r} is one file of a SavedModel; the files beside it cannot be listed over HTTP",
            advice="Write the URL of an archive, or the directory on object storage, such as"
            f" {storage_directory(url.host, url.path)}.",
        )
    if ending is Ending.OTHER_ARCHIVE:
        raise other_archive_error(redact_url(text))
    kind = {Ending.ARCHIVE: Kind.ARCHIVE, Ending.MODEL_FILE: Kind.FILE}.get(ending, Kind.HUB)
    if kind is Kind.HUB and _LITE_FORMAT in url.words:
        kind = Kind.FILE
    return Handle(normal, kind)


def _parse_hugging_face(text: str) -> Handle:
    name = RepoName.parse(text)
    name = replace(name, path=model_directory(name.path))
    ending = ending_of(name.path)
    if ending is Ending.OTHER_ARCHIVE:
        raise other_archive_error(name.text)
    return Handle(name.text, Kind.ARCHIVE if ending is Ending.ARCHIVE else Kind.HUGGING_FACE)


def _parse_tree(scheme: str, rest: str, text: str) -> Handle:
    rest = model_directory(rest.rstrip("/")).rstrip("/")
    if not rest.strip("/") or any(name == ".." for name in rest.split("/")):
        raise HandleError(f"{redact_url(text)!r} names no bucket and directory")
    ending = ending_of(rest)
    if ending is Ending.OTHER_ARCHIVE:
        raise other_archive_error(redact_url(text))
    return Handle(f"{scheme}://{rest}", Kind.ARCHIVE if ending is Ending.ARCHIVE else Kind.TREE)
