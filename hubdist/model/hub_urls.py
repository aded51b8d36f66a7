"""The normal forms of http(s) URLs and of Kaggle's names, for `handle`: equal models must have equal texts."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

from hubdist.errors import HandleError
from hubdist.model.redact import redact_url

DEFAULT_PORTS = {"http": 80, "https": 443}

_KAGGLE_HOSTS = frozenset({"kaggle.com", "www.kaggle.com"})
_KAGGLE_TABS = frozenset({"code", "data", "discussion", "discussions", "suggestions", "versions"})
"""Parts of a model's page at www.kaggle.com; a URL that is copied from the page may end in one of them."""

_PLAIN_NAME = re.compile(r"\w[\w.-]*")


class HttpUrl:
    """The parts of a URL that a handle's text and kind follow from.

    Args:
        text: What the user wrote.

    Attributes:
        host: The host, without a port.
        path: The path, without a slash at its end.

    Raises:
        HandleError: The text is not a URL, or it has no host or an invalid port.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._url, self._port = _split(text)
        self.host = (self._url.hostname or "").rstrip(".")
        if not self.host:
            raise HandleError(f"{redact_url(text)!r} names no host")
        self.path = self._url.path.rstrip("/")

    @property
    def words(self) -> list[str]:
        """The words of the query, such as `key=value`."""
        return self._url.query.split("&")

    @property
    def kaggle_name(self) -> str | None:
        """The model's name if the URL is that of its page at Kaggle, else None."""
        if self.host not in _KAGGLE_HOSTS or not self.path.startswith("/models/"):
            return None
        return self.path.removeprefix("/models/")

    def normal(self) -> str:
        """The URL without default port, fragment and what only asks a hub for a format.

        Raises:
            HandleError: The URL may hold a password with a `?` or `#` in it, which would end up in the query.
        """
        url = self._url
        authority = f"[{self.host}]" if ":" in self.host else self.host
        # With an "@" in the path, what looks like a default port may be the beginning of a password.
        if self._port is not None and (self._port != DEFAULT_PORTS[url.scheme] or "@" in url.path):
            authority += f":{self._port}"
        userinfo = url.netloc.rpartition("@")[0]
        if userinfo:
            authority = f"{userinfo}@{authority}"
        # The words that stay are not encoded anew: a signature covers them as they were written.
        query = "&".join(word for word in self.words if word.partition("=")[0] != "tf-hub-format")
        if (userinfo or self._port is not None) and (url.query + url.fragment).count("@") > query.count("@"):
            raise HandleError(
                f"{redact_url(self._text)!r} may hold a password with a '?' or '#' in it",
                advice="Write %3F for '?' and %23 for '#'.",
            )
        return f"{url.scheme}://{authority}{self.path}" + (f"?{query}" if query else "")


def normal_kaggle_name(name: str, text: str) -> str:
    """A Kaggle model's name as `owner/model/framework/variation`, with `/version` if the name has a version.

    Args:
        name: The name in any form that Kaggle's pages have had.
        text: What the user wrote, for errors.

    Raises:
        HandleError: The name is not one of a model with framework and variation.
    """
    parts = _kaggle_parts(re.split(r"[?#]", name, maxsplit=1)[0].strip("/").split("/"))
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
    return "/".join(parts)


def _kaggle_parts(parts: list[str]) -> list[str]:
    """Owner, model, framework, variation and, if there is one, version.

    Source: kagglehub 1.0.2, `handle.py`, `parse_model_handle`; the framework keeps its spelling.
    """
    if len(parts) > 4 and parts[-1].lower() in _KAGGLE_TABS:
        parts = parts[:-1]
    if len(parts) in (6, 7, 8) and (parts[2].lower(), parts[4].lower()) == ("frameworks", "variations"):
        parts = [*parts[:2], parts[3], *parts[5:]]
    if len(parts) == 6 and parts[4].lower() == "versions":
        del parts[4]
    return parts


def _split(text: str) -> tuple[SplitResult, int | None]:
    """The parts of a URL, and its port."""
    what = "is not a URL"
    try:
        url = urlsplit(text)
        what = "has no valid port"
        # If there is an "@" further on, what looks like a port may be the beginning of a password.
        if url.port is not None or not url.netloc.endswith(":") or "@" not in text:
            return url, url.port
    except ValueError:
        pass
    raise HandleError(f"{redact_url(text)!r} {what}")  # outside of `except`: the other error quotes a password
