"""Parse and normalise handles, so that equal handles are one.

A handle is what the user writes. `parse_handle` decides its kind from the text alone; nothing is read. What a name's
ending means is decided by `hubdist.model.suffixes`, for every kind and everywhere. The kinds:

| kind    | example                                                   |
| ------- | --------------------------------------------------------- |
| HUB     | `https://tfhub.dev/google/universal-sentence-encoder/4`   |
| ARCHIVE | `https://host/model.tar.gz`, `gs://bucket/model.zip`      |
| FILE    | `https://host/model.onnx`: a model of one file            |
| TREE    | `gs://bucket/dir`, any other allowed fsspec URL; or a file|
| LOCAL   | `/models/mnist`, `~/model.tgz`: a path on the driver      |
| MEMBER  | `zip://inner/dir::https://host/model.zip`, `tar://...`    |
| KAGGLE  | `kaggle://owner/model/tensorFlow2/variation/1`, its URL   |
| CUSTOM  | `myregistry://...`, with an origin that the user registers |
"""

from __future__ import annotations

import enum
import hashlib
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from hubdist.errors import HandleError
from hubdist.model.hints import storage_directory, suggestion
from hubdist.model.redact import redact_url
from hubdist.model.suffixes import ARCHIVE_SUFFIXES, Ending, ending_of

TREE_SCHEMES = frozenset({"gs", "gcs", "s3", "s3a", "az", "abfs", "abfss", "adl", "hf", "hdfs", "oci", "oss", "memory"})
"""fsspec protocols that are allowed: object storage and its like, nothing that runs commands or chains caches."""

BUILT_IN_SCHEMES = TREE_SCHEMES | {"file", "http", "https", "kaggle", "tar", "zip"}
"""Schemes that need no origin of the user's."""

_SAME_SCHEME = {"gcs": "gs", "s3a": "s3"}
_KAGGLE_HOSTS = frozenset({"kaggle.com", "www.kaggle.com"})
_KAGGLE_TABS = frozenset({"code", "data", "discussion", "discussions", "suggestions", "versions"})
"""Parts of a model's page at www.kaggle.com, the last word of the URL there."""

_LITE_FORMAT = "lite-format=tflite"
"""In a query it asks a hub for one TFLite file. Source: https://www.tensorflow.org/hub/hosting, URL conventions."""

_PLAIN_NAME = re.compile(r"\w[\w.-]*")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_MEMBER_SCHEMES = frozenset({"zip", "tar"})
_DEFAULT_PORTS = {"http": 80, "https": 443}
_PASSWORD = re.compile(r"^([^/:?#]+://[^/?#:@]*):[^/?#]*@")
_IP_ADDRESS = re.compile(r"//[^/?#\[\]]*\[[0-9A-Fa-f:.]+\]")


def other_archive_error(redacted: str) -> HandleError:
    """The error for an archive of a format that is not read.

    Args:
        redacted: Its handle without secrets.
    """
    return HandleError(
        f"{redacted!r} is an archive of a format that is not read",
        advice=f"Pack it as one of {', '.join(ARCHIVE_SUFFIXES)}, or unpack it and name the directory.",
    )


class Kind(enum.StrEnum):
    """How a handle is read; see the module's table."""

    HUB = "hub"
    ARCHIVE = "archive"
    FILE = "file"
    TREE = "tree"
    LOCAL = "local"
    MEMBER = "member"
    KAGGLE = "kaggle"
    CUSTOM = "custom"


@dataclass(frozen=True, slots=True)
class Handle:
    """A parsed, normalised handle.

    Attributes:
        text: The normalised handle; may hold secrets, so it goes to the origin only.
        kind: How it is read.
        base: For MEMBER, the handle of the archive; else None.
        inner: For MEMBER, the directory or file inside the archive, "" for all of it.
        format: For MEMBER, `zip` or `tar`.
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
    def is_drivers(self) -> bool:
        """True for what lies on the driver's own disk: a path, and what is in an archive at one."""
        return (self.base or self).kind is Kind.LOCAL

    @property
    def label(self) -> str:
        """The handle without secrets, and what tells it from others that differ only in those."""
        return self.text if self.redacted == self.text else f"{self.redacted}#{self.key[:12]}"

    @property
    def scheme(self) -> str:
        """`https`, `gs`, ...; empty for a local path."""
        scheme, found, _ = self.text.partition("://")
        return scheme if found else ""

    @property
    def key(self) -> str:
        """32 hex digits that stand for this handle in file names; a password in the handle is not part of it."""
        if self.base is not None:
            identity = f"{self.format}://{self.inner}::{self.base.key}"
        else:
            identity = _PASSWORD.sub(r"\1@", self.text)
        return hashlib.sha256(identity.encode()).hexdigest()[:32]


def handle_text(handle: str | os.PathLike[str]) -> str:
    """A handle as text, which a path-like object is turned into.

    Raises:
        HandleError: It is neither.
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
        base_dir: What relative local paths are relative to; None refuses them.
        custom_schemes: Schemes of origins that the user registered; they win over the built-in ones.

    Raises:
        HandleError: The text is no handle, or names a scheme that is not known or not allowed.
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
    if tail is not None:
        return _parse_member(head, tail, text, base_dir, custom_schemes)
    scheme, found, rest = text.partition("://")
    if not found:
        return _parse_path(text, base_dir)
    if scheme.lower() in custom_schemes:
        return Handle(f"{scheme.lower()}://{rest}", Kind.CUSTOM)
    return _parse_url(scheme.lower(), rest, text, base_dir, custom_schemes)


def _split_chain(text: str) -> tuple[str, str | None]:
    """What stands before and after the first `::` that is not part of an IPv6 address; None if there is none."""
    at = _IP_ADDRESS.sub(lambda address: "/" * len(address.group()), text).find("::")
    return (text, None) if at < 0 else (text[:at], text[at + 2 :])


def _parse_url(scheme: str, rest: str, text: str, base_dir: Path | None, custom_schemes: Collection[str]) -> Handle:
    if scheme == "file":
        return _parse_path("/" + rest.removeprefix("localhost").lstrip("/"), base_dir)
    if scheme == "kaggle":
        return _parse_kaggle(rest, text)
    if scheme in _DEFAULT_PORTS:
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
    if base.kind not in (Kind.ARCHIVE, Kind.FILE, Kind.LOCAL, Kind.HUB, Kind.TREE):
        raise HandleError(f"{base.redacted!r} is no archive that {scheme}:// can look into")
    inner = _model_directory(inner.strip("/"))
    if any(name in ("", ".", "..") for name in inner.split("/")) and inner:
        raise HandleError(f"the directory {redact_url(inner)!r} inside the archive is not a plain path")
    return Handle(f"{scheme}://{inner}::{base.text}", Kind.MEMBER, base, inner, scheme)


def _parse_path(text: str, base_dir: Path | None) -> Handle:
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise HandleError(f"no home directory is known for {redact_url(text)!r}") from None
    if not path.is_absolute():
        if base_dir is None:
            meant = suggestion(text)
            raise HandleError(
                f"the path {redact_url(text)!r} is relative",
                advice="Outside the driver write an absolute path: this process runs in another directory."
                + (f" If it is not meant as a path, write {meant}." if meant else ""),
            )
        path = base_dir / path
    # `..` stays: behind a link it is the parent of where the link leads, which only the system can tell.
    names = [name for name in str(path).split("/") if name not in ("", ".")]
    return Handle(f"/{_model_directory('/'.join(names))}", Kind.LOCAL)


def _model_directory(path: str) -> str:
    """The directory that is meant by a path to the file in it that every SavedModel has."""
    while ending_of(path) is Ending.SAVED_MODEL:  # a normalised handle has none left, for it is parsed again
        path = path.rstrip("/").rpartition("/")[0]
    return path


def _parse_kaggle(rest: str, text: str) -> Handle:
    parts = _kaggle_parts(re.split(r"[?#]", rest, maxsplit=1)[0].strip("/").split("/"))
    if len(parts) not in (4, 5) or not all(_PLAIN_NAME.fullmatch(part) for part in parts):
        raise HandleError(
            f"{redact_url(text)!r} is not a Kaggle model",
            advice="Write kaggle://<owner>/<model>/<framework>/<variation>[/<version>], or the URL of the page where a"
            " framework and a variation have been chosen.",
        )
    if len(parts) == 5:
        if not re.fullmatch(r"0*[1-9][0-9]{0,17}", parts[4]):
            raise HandleError(f"the last name in {redact_url(text)!r} is not a version number")
        parts[4] = parts[4].lstrip("0")
    return Handle("kaggle://" + "/".join(parts), Kind.KAGGLE)


def _kaggle_parts(parts: list[str]) -> list[str]:
    """Owner, model, framework, variation and, if there is one, version; of any form that Kaggle's pages have had.

    Source: kagglehub 1.0.2, `handle.py`, `parse_model_handle`; the spelling of the framework is left to it.
    """
    if len(parts) > 4 and parts[-1].lower() in _KAGGLE_TABS:
        parts = parts[:-1]
    if len(parts) in (6, 7, 8) and (parts[2].lower(), parts[4].lower()) == ("frameworks", "variations"):
        parts = [*parts[:2], parts[3], *parts[5:]]
    if len(parts) == 6 and parts[4].lower() == "versions":
        del parts[4]
    return parts


def _split_http(text: str) -> tuple[SplitResult, int | None]:
    """The parts of a URL, and its port."""
    what = "is no URL"
    try:
        url = urlsplit(text)
        what = "has no valid port"
        # With an "@" further on, what looks like a port may begin a password.
        if url.port is not None or not url.netloc.endswith(":") or "@" not in text:
            return url, url.port
    except ValueError:
        pass
    raise HandleError(f"{redact_url(text)!r} {what}")  # outside of `except`: the other error quotes a password


def _parse_http(text: str) -> Handle:
    url, port = _split_http(text)
    host = (url.hostname or "").rstrip(".")
    if not host:
        raise HandleError(f"{redact_url(text)!r} names no host")
    path = url.path.rstrip("/")
    if host in _KAGGLE_HOSTS and path.startswith("/models/"):
        return _parse_kaggle(path.removeprefix("/models/"), text)
    authority = f"[{host}]" if ":" in host else host
    if port is not None and (port != _DEFAULT_PORTS[url.scheme] or "@" in url.path):  # see `_split_http`
        authority += f":{port}"
    userinfo = url.netloc.rpartition("@")[0]
    if userinfo:
        authority = f"{userinfo}@{authority}"
    # What is kept stays as written: signatures cover its very bytes.
    words = url.query.split("&")
    query = "&".join(word for word in words if word.partition("=")[0] != "tf-hub-format")
    if (userinfo or port is not None) and (url.query + url.fragment).count("@") > query.count("@"):
        raise HandleError(
            f"{redact_url(text)!r} may hold a password with a '?' or '#' in it",
            advice="Write %3F for '?' and %23 for '#'.",
        )
    ending = ending_of(path)
    if ending is Ending.SAVED_MODEL:
        raise HandleError(
            f"{redact_url(text)!r} is one file of a SavedModel; what lies beside it cannot be listed over HTTP",
            advice="Write the URL of an archive, or the directory on object storage, such as"
            f" {storage_directory(host, path)}.",
        )
    if ending is Ending.OTHER_ARCHIVE:
        raise other_archive_error(redact_url(text))
    kind = {Ending.ARCHIVE: Kind.ARCHIVE, Ending.MODEL_FILE: Kind.FILE}.get(ending, Kind.HUB)
    if kind is Kind.HUB and _LITE_FORMAT in words:
        kind = Kind.FILE
    return Handle(f"{url.scheme}://{authority}{path}" + (f"?{query}" if query else ""), kind)


def _parse_tree(scheme: str, rest: str, text: str) -> Handle:
    rest = _model_directory(rest.rstrip("/")).rstrip("/")
    if not rest.strip("/") or any(name == ".." for name in rest.split("/")):
        raise HandleError(f"{redact_url(text)!r} names no bucket and directory")
    ending = ending_of(rest)
    if ending is Ending.OTHER_ARCHIVE:
        raise other_archive_error(redact_url(text))
    return Handle(f"{scheme}://{rest}", Kind.ARCHIVE if ending is Ending.ARCHIVE else Kind.TREE)


def inner_handle(handle: str, directory: str) -> str | None:
    """The handle of a directory inside what a handle names; None if handles cannot say it.

    Args:
        handle: The text of a normalised handle.
        directory: The directory, relative to what the handle names.
    """
    head, chain, base = handle.partition("::")
    if chain:
        return f"{head}{'' if head.endswith('/') else '/'}{directory}::{base}"
    scheme, _, _ = handle.partition("://")
    path = handle.partition("?")[0] if scheme in _DEFAULT_PORTS else handle
    if ending_of(path) is Ending.ARCHIVE:
        return f"{'zip' if path.lower().endswith('.zip') else 'tar'}://{directory}::{handle}"
    return f"{handle}/{directory}" if scheme in TREE_SCHEMES or handle.startswith("/") else None
