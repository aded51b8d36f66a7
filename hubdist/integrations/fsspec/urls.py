"""The paths and URLs of the file system `hubdist`: `hubdist://<handle>!/<path inside of the model>`.

The first `!/` ends the handle, and so does a `!` at the end of the text. What follows is a path of the model, as it is.
In the handle, `!:` stands for `::` and `!!` for `!`. A `::` may be written too, but fsspec takes it for its own sign
between chained URLs; a URL with `!:` can be chained. Without `!/` the whole text is a handle, and means the model's
root.
"""

from __future__ import annotations

import re

PROTOCOL = "hubdist"

_SIGN = re.compile(r"!(!|:|/|$)")
_MEANS = {"!": "!", ":": "::"}


def split_path(path: str) -> tuple[str, str]:
    """The handle, and the path inside of the model, "" for its root.

    Args:
        path: A path of the file system, or its URL.
    """
    path = path.removeprefix(f"{PROTOCOL}://")
    handle, at = "", 0
    for sign in _SIGN.finditer(path):
        handle += path[at : sign.start()]
        at = sign.end()
        if sign[1] not in _MEANS:
            return handle, path[at:].strip("/")
        handle += _MEANS[sign[1]]
    return handle + path[at:], ""


def join_path(handle: str, inner: str = "") -> str:
    """The one path of the file system that stands for a file or directory of a model, without `hubdist://`.

    Args:
        handle: The handle.
        inner: The path inside of the model; "" for its root.
    """
    root = handle.replace("!", "!!").replace("::", "!:") + "!"
    return f"{root}/{inner}" if inner else root


def file_url(handle: str, path: str = "") -> str:
    """The URL of a file or directory of a model, for `fsspec.open`, pandas and others.

        pandas.read_csv(file_url("zip://inner::https://host/model.zip", "assets/vocabulary.csv"))

    Args:
        handle: As for `hubdist.load`.
        path: The path inside of the model, `/` between names; "" for its root.
    """
    return f"{PROTOCOL}://{join_path(handle, path.strip('/'))}"
