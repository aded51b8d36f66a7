"""Takes secrets out of URLs, before the URLs reach a text, a key or an error.

This works on any text: errors quote what the user wrote even if it is not a valid URL. A password may hold characters
that its writer forgot to escape. So where a text can be read in two ways, the reading that hides more counts.
"""

from __future__ import annotations

import re

HIDDEN = "***"
"""Stands in place of a secret."""

_MEMBER = re.compile(r"['\"]?(?:zip|tar|files)://[^@:]*::")
_URL = re.compile(r"(?:^|::|[\s'\"(\[{<=,])(?:([A-Za-z][A-Za-z0-9+.-]*):)?//")
_SLASH_FORGOTTEN = re.compile(r"\s*['\"]?https?:/")
# `name:password@` where the slashes were forgotten.
_BARE_USERINFO = re.compile(r"[^\s/:@'\"]*:.*@", re.DOTALL)
# Without an "@", digits must follow the colon; anything else is a password whose rest was cut off.
_NO_PORT = re.compile(r"^([^/?#:\[\]@*]+):(?!\d{0,5}(?:[/?#'\"\s:]|$))[^/?#]*")
_OWN_MACHINE = re.compile(r"(?:localhost|\d{1,3}(?:\.\d{1,3}){3}|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")
_CONTAINER = re.compile(r"[\w$.-]+@[^@:]*(?::\d{1,5})?")
_KEY = re.compile(r"[A-Za-z0-9_.~\[\]%-]{1,64}")
_FORMAT = re.compile(r"(?:un)?compressed['\"]?")

_WITH_CONTAINERS = frozenset({"az", "abfs", "abfss", "adl", "oci", "hdfs"})
"""Schemes where the name before an "@" is a container, a bucket or a user, and no secret."""

_BUCKETS = frozenset({"gs", "gcs", "s3", "s3a", "hf", "memory", "oss"}) | _WITH_CONTAINERS
"""Schemes whose URLs begin with a name that need not have a dot, and whose paths may hold an "@"."""


def redact_url(url: str) -> str:
    """The URL without userinfo, query values and fragment; other text is returned as it is.

    `***` stands in place of each of them; userinfo goes up to the last "@" that may end a password. The value of
    `tf-hub-format` stays, since it is part of TF Hub's protocol. A query word without `=` may be a token, and goes as a
    whole. Chains such as `zip://inner::https://...` are understood. Secrets in a path look like names, and stay.

    Args:
        url: A URL, a chain of URLs, a path, or a text that holds one of these.
    """
    member = _MEMBER.match(url)
    if member is not None:
        return member.group() + redact_url(url[member.end() :])
    found = _URL.search(url)
    if found is None or ("@" in url and ":" in url[: found.start()]):  # a password may hold what looks like a URL
        return _redact_bare(url)
    before, rest, scheme = url[: found.end()], url[found.end() :], (found[1] or "").lower()
    end = min((at for at in (rest.find("?"), rest.find("#")) if at >= 0), default=len(rest))
    base, tail = rest[:end], rest[end:]
    authority = base.partition("/")[0]
    if "@" in tail and not _is_plain(authority, scheme):
        return f"{before}{HIDDEN}"  # the "@" may end a password that holds the "?" or "#"
    if "@" in base and not _is_place(base, authority, scheme):
        return f"{before}{HIDDEN}@{base.rpartition('@')[2]}{_redact_tail(tail)}"
    further = _URL.search(base)
    if further is not None:
        return before + base[: further.start()] + redact_url(base[further.start() :] + tail)
    if "@" not in base:
        base = _NO_PORT.sub(rf"\1:{HIDDEN}", base)
    return before + base + _redact_tail(tail)


def _redact_bare(text: str) -> str:
    """Redact a path, or a URL without its slashes."""
    forgotten = _SLASH_FORGOTTEN.match(text)
    begin = forgotten.end() if forgotten is not None else 0
    userinfo = _BARE_USERINFO.search(text, begin)
    if userinfo is not None:
        if set("?#") & set(userinfo.group()):  # the "@" may be one of a query
            return f"{text[: userinfo.start()]}{HIDDEN}"
        base = text[userinfo.end() :]
        end = min((at for at in (base.find("?"), base.find("#")) if at >= 0), default=len(base))
        base, tail = base[:end], base[end:]
        return f"{text[: userinfo.start()]}{HIDDEN}@{base}{_redact_tail(tail)}"
    base, question, query = text.partition("?")
    return f"{base}?{_redact_query(query)}" if question and "=" in query else text


def _is_plain(authority: str, scheme: str) -> bool:
    """True if a URL's authority is a host, and not the beginning of userinfo."""
    if _OWN_MACHINE.fullmatch(authority):
        return True
    return "@" not in authority and ":" not in authority and ("." in authority or scheme in _BUCKETS)


def _is_place(base: str, authority: str, scheme: str) -> bool:
    """True if the "@" in a URL belongs to its path, or stands behind the name of a container or a repository."""
    if scheme == "hf" and ":" not in base:
        return True
    if scheme in _WITH_CONTAINERS and _CONTAINER.fullmatch(authority):
        return ":" not in authority or base.count("@") == 1
    return _is_plain(authority, scheme)


def _redact_tail(tail: str) -> str:
    if not tail:
        return ""
    if tail.startswith("#"):
        return f"#{HIDDEN}"
    return f"?{HIDDEN}" if "@" in tail else f"?{_redact_query(tail[1:])}"


def _redact_query(query: str) -> str:
    words, fragment, _ = query.partition("#")
    shown = re.sub(r"[^&;]+", lambda word: _redact_word(word.group()), words)
    return f"{shown}#{HIDDEN}" if fragment else shown


def _redact_word(word: str) -> str:
    key, _, value = word.partition("=")
    # A token in base64 may end in "=": without a value there is no name to show either.
    if not value.strip("=") or not _KEY.fullmatch(key):
        return HIDDEN
    if key == "tf-hub-format" and _FORMAT.fullmatch(value):
        return word
    return f"{key}={HIDDEN}"
