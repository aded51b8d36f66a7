"""The setting `origin_headers`: headers for single servers, whose values name variables of the environment.

A value in the text of a configuration is refused, and never quoted, because configurations are shown, kept and sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from urllib.parse import SplitResult, urlsplit

from hubdist.config.model_settings import FrozenDict
from hubdist.model.access import HeaderValue, server_of

OriginHeaders = Mapping[str, Mapping[str, str]]
"""Server -> header -> how the value is made."""

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
_VALUE = re.compile(r"(?:(Basic|Bearer|Token|token|ApiKey|Key) )?env:([A-Za-z_][A-Za-z0-9_]{0,127})")
"""Not `${NAME}`: Ray puts values in place of that where a runtime_env holds the settings."""

_OWN = frozenset(
    {
        *("accept-encoding", "connection", "content-length", "host", "if-match", "if-range", "range", "te"),
        *("trailer", "transfer-encoding", "upgrade"),
    }
)
"""Headers that hubdist sets itself, or that say how the bytes travel."""


def check_origin_headers(value: OriginHeaders) -> OriginHeaders:
    """Servers in one spelling, with headers whose values name variables of the environment.

    Raises:
        ValueError: A server, a header or a value is not as it must be; the text quotes no value.
    """
    headers: dict[str, Mapping[str, str]] = {}
    for host, named in value.items():
        server = _server(host)
        if server in headers:
            raise ValueError(f"{server} is there twice")
        for name, text in named.items():
            if not _NAME.fullmatch(name) or name.lower() in _OWN:
                raise ValueError(f"a header for {server} has a name that is not allowed")
            if not _VALUE.fullmatch(text):
                raise ValueError(
                    f"the value of {name} for {server} stands in the text itself, where others may read it: write"
                    " `env:NAME` or `Bearer env:NAME`, and put the value into the driver's environment, as NAME"
                )
        headers[server] = FrozenDict(named)
    return FrozenDict(headers)


def plain_headers(headers: OriginHeaders) -> dict[str, dict[str, str]]:
    """The setting as JSON can hold it."""
    return {server: dict(named) for server, named in headers.items()}


def variables_of(headers: OriginHeaders) -> Iterator[str]:
    """The variables that the values name."""
    for named in headers.values():
        for text in named.values():
            yield _parts(text)[1]


def header_values(headers: OriginHeaders, environment: Mapping[str, str]) -> dict[str, dict[str, HeaderValue]]:
    """The headers with their values.

    Args:
        headers: The setting.
        environment: Variables and their values.
    """
    return {
        server: {name: _value(text, environment) for name, text in named.items()} for server, named in headers.items()
    }


def _value(text: str, environment: Mapping[str, str]) -> HeaderValue:
    word, variable = _parts(text)
    secret = environment.get(variable, "").strip()  # files that become variables often end in a line break
    return HeaderValue(variable, f"{word} {secret}".strip() if secret else None)


def _parts(text: str) -> tuple[str, str]:
    found = _VALUE.fullmatch(text)
    assert found is not None
    return found[1] or "", found[2]


def _server(host: str) -> str:
    parts = urlsplit(host if "://" in host else f"https://{host}")
    if not _is_server(parts):
        raise ValueError("a server must be written as hub.example.com, hub.example.com:8443 or http://hub.local:8080")
    return server_of(parts.geturl())


def _is_server(parts: SplitResult) -> bool:
    try:
        port = parts.port
    except ValueError:
        return False
    plain = not (parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc)
    return plain and parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0
