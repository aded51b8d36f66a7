"""Take secrets out of URLs before they reach a text, a key or an error.

PURE, and works on any text: what the user wrote may be no valid URL, and is quoted in the error all the same.
"""

from __future__ import annotations

import re

_HIDDEN = "***"

# The authority of each URL of a chain, up to its last "@". It ends at "/", "?" or "#".
_USERINFO = re.compile(r"(?<=//)[^/?#]*@")
# `name:password@` where the slashes were forgotten.
_BARE_USERINFO = re.compile(r"[^\s/:@'\"]+:[^\s/:@'\"]+@")
# `https://name:password` with a "/", "?" or "#" in the password: what should be a port is none.
_NO_PORT = re.compile(r"(//[^/?#:\[\]@*]+):(?!\d{0,5}(?:[/?#'\"\s:]|$))[^/?#]*")
_KEY = re.compile(r"[A-Za-z0-9_.~\[\]%-]{1,64}")
_FORMAT = re.compile(r"(?:un)?compressed['\"]?")


def redact_url(url: str) -> str:
    """The URL without userinfo, query values and fragment; other text is returned as it is.

    `***` stands for what was taken out. The value of `tf-hub-format` stays: it is part of TF Hub's protocol. A query
    word without `=` goes as a whole, for it may be a token. Chains such as `zip://inner::https://...` are understood.
    Secrets in a path cannot be told from names and stay.

    Args:
        url: A URL, a chain of URLs, a path, or a text that holds one of these.
    """
    base, question, query = url.partition("?")
    base, fragment, _ = base.partition("#") if "//" in base else (base, "", "")
    base = _USERINFO.sub(f"{_HIDDEN}@", base)
    base = _NO_PORT.sub(rf"\1:{_HIDDEN}", base)
    base = _BARE_USERINFO.sub(f"{_HIDDEN}@", base)
    if fragment:
        return f"{base}#{_HIDDEN}"
    if not question:
        return base
    is_path = "//" not in base and "=" not in query
    return f"{base}?{query if is_path else _redact_query(query)}"


def _redact_query(query: str) -> str:
    words, fragment, _ = query.partition("#")
    shown = re.sub(r"[^&;]+", lambda word: _redact_word(word.group()), words)
    return f"{shown}#{_HIDDEN}" if fragment else shown


def _redact_word(word: str) -> str:
    key, _, value = word.partition("=")
    # A token in base64 may end in "=": without a value there is no name to show either.
    if not value.strip("=") or not _KEY.fullmatch(key):
        return _HIDDEN
    if key == "tf-hub-format" and _FORMAT.fullmatch(value):
        return word
    return f"{key}={_HIDDEN}"
