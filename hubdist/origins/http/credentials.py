"""What one request over HTTP shows of who asks: headers and a login for its own server, and words for errors.

A header goes to the server that it is set for, and a login to the server that the handle names. So neither follows a
redirect to another host or port, or from https to http.
"""

from __future__ import annotations

import ipaddress
import netrc
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from hubdist.errors import AccessDeniedError
from hubdist.model.access import HeaderValue, OriginAccess, server_of, server_parts
from hubdist.model.redact import redact_url
from hubdist.system.foreign import words_of

ANONYMOUSLY = "anonymously"
_TOKEN = re.compile(r"(?=.*\d)[A-Za-z0-9_-]{20,}|gh[a-z]_.*|.{65,}", re.DOTALL)
"""A login that is a token itself, as some servers want it."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one request shows.

    Attributes:
        words: Who asks, for people: `anonymously`, `with the login bob of /home/bob/.netrc`.
        headers: Headers for this request only.
        login: Name and password for basic authentication; None for none.
    """

    words: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    login: tuple[str, str] | None = field(default=None, repr=False)


class HttpCredentials:
    """Chooses what each request of one read shows. For one thread at a time.

    Args:
        url: The URL that the read begins with, without userinfo.
        userinfo: Name and password of that URL; None if it has none.
        access: The headers and logins of this node.
    """

    def __init__(self, url: str, userinfo: tuple[str, str] | None, access: OriginAccess) -> None:
        self._server = server_of(url)
        self._userinfo = userinfo
        self._access = access

    def choose(self, url: str) -> Credentials:
        """What a request for `url` shows.

        Raises:
            AccessDeniedError: A header is set for the server, and the variable with its value is not.
        """
        named = self._access.headers.get(server_of(url), {})
        headers = {name: _text(value, name, url) for name, value in named.items()}
        own = server_of(url) == self._server
        if own and self._userinfo is not None:
            return Credentials("with the login in the URL", headers, self._userinfo)
        if headers:
            each = [f"{name} of variable {value.variable}" for name, value in named.items()]
            words = f"with the header{'s' if len(each) > 1 else ''} {', '.join(each)}"
            if own and "authorization" not in {name.lower() for name in headers}:
                more = self._from_netrc(url)
                return Credentials(f"{words} and {more.words}" if more.login else words, headers, more.login)
            return Credentials(words, headers)
        found = self._from_netrc(url) if own else Credentials(ANONYMOUSLY)
        if found.words == ANONYMOUSLY and _has_query(url):
            return Credentials("by what the URL's query says alone")
        return found

    def _from_netrc(self, url: str) -> Credentials:
        path, parts = self._access.netrc, urlsplit(url)
        if path is None:
            return Credentials(ANONYMOUSLY)
        try:
            hosts = netrc.netrc(path).hosts
        except FileNotFoundError:
            return Credentials(ANONYMOUSLY)
        except (OSError, UnicodeDecodeError, netrc.NetrcParseError) as error:
            why = words_of(error) if isinstance(error, OSError) else type(error).__name__
            return Credentials(f"{ANONYMOUSLY}, because {path} cannot be read ({why})")
        scheme, host, port = server_parts(parts)
        entry = hosts.get(f"{host}:{port}") or hosts.get(host)
        if entry is None:
            return Credentials(ANONYMOUSLY)
        if scheme != "https" and not _is_this_machine(host):
            return Credentials(f"{ANONYMOUSLY}, because the login of {path} goes over https only")
        name, _, password = entry
        shown = "a login" if _TOKEN.fullmatch(name) else f"the login {name}"
        return Credentials(f"with {shown} of {path}", login=(name, password))


def identity_at(url: str, access: OriginAccess) -> str:
    """Who a read of a URL asks as, in words, before anything is asked.

    Args:
        url: An http or https URL, perhaps with userinfo.
        access: The headers and logins of this node.
    """
    if "@" in urlsplit(url).netloc:
        return "with the login in the URL"
    try:
        return HttpCredentials(url, None, access).choose(url).words
    except AccessDeniedError as error:
        return f"not at all: {error.what}"


def _text(value: HeaderValue, name: str, url: str) -> str:
    if value.text is None:
        raise AccessDeniedError(
            f"{redact_url(url)} cannot be asked: the variable {value.variable}, which origin_headers names for the"
            f" header {name}, is not set",
            advice=f"Set {value.variable} in the environment of the driver, or of the coordinator's node.",
        )
    return value.text


def _has_query(url: str) -> bool:
    """True for a query that may hold a signature; the hubs' own protocol does not."""
    return any(key != "tf-hub-format" for key, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True))


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
