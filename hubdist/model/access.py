"""How this node shows servers of models who it is: headers for each host, and the file of logins.

PURE. The values are secrets: no text, `repr` or pickle of the job's settings holds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class HeaderValue:
    """The value of a header, which comes from a variable of the environment.

    Attributes:
        variable: The variable's name, for people.
        text: The whole value of the header; None if the variable is not set.
    """

    variable: str
    text: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class OriginAccess:
    """What servers of hubs and archives get to know.

    Attributes:
        headers: Server, as `server_of` writes it -> header -> value.
        netrc: The file of logins, as curl and git have it; None if none is read.
    """

    headers: Mapping[str, Mapping[str, HeaderValue]] = field(default_factory=dict)
    netrc: str | None = None


def server_of(url: str) -> str:
    """Scheme, host and port of an http or https URL, in one spelling: what may see a credential for this URL."""
    scheme, host, port = server_parts(urlsplit(url))
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def server_parts(parts: SplitResult) -> tuple[str, str, int | None]:
    """Scheme, host and port of a URL that was split, so that equal servers have equal parts."""
    return parts.scheme, (parts.hostname or "").rstrip("."), parts.port or _PORTS.get(parts.scheme)
