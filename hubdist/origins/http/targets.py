"""Where an HTTP read may go: which URLs, which redirects, which addresses.

PURE. A handle may come from an untrusted place, and an origin may answer with any redirect. Neither may make this
machine ask its cloud for credentials, or send the user's credentials to a stranger.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, unquote, urldefrag, urljoin, urlsplit, urlunsplit

from hubdist.errors import HandleError, HubdistError, OriginError
from hubdist.model.redact import redact_url

_PORTS = {"http": 80, "https": 443}
_METADATA_HOSTS = frozenset({"metadata.google.internal", "metadata.goog"})
# Link-local addresses, and those where clouds serve credentials: EC2 and GCE over IPv6, Alibaba, Oracle, Azure.
_FORBIDDEN_NETWORKS = tuple(
    ipaddress.ip_network(text)
    for text in (
        "169.254.0.0/16",
        "fe80::/10",
        "fd00:ec2::254/128",
        "fd20:ce::254/128",
        "100.100.100.200/32",
        "192.0.0.192/32",
        "168.63.129.16/32",
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def check_url(url: str) -> str:
    """Return `url` if it is an http or https URL with a host that may be asked.

    Raises:
        HandleError: The URL is invalid, of another scheme, or names a link-local or metadata address.
    """
    redacted = redact_url(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise HandleError(f"{redacted!r} is not a valid URL") from None
    # Parsers of URLs disagree on where a host ends at a backslash or a control character, so both are refused.
    if parts.scheme not in _PORTS or not parts.hostname or port == 0 or "\\" in parts.netloc or not url.isprintable():
        raise HandleError(f"{redacted!r} is not an http or https URL")
    if is_forbidden_host(parts.hostname):
        raise HandleError(f"{redacted} is a link-local or metadata address, which hubdist never asks")
    return url


def redirect_target(base: str, location: str) -> str:
    """The URL that a redirect leads to, without userinfo and fragment.

    Args:
        base: URL of the answer that redirects.
        location: Its Location header.

    Raises:
        OriginError: It leads from https to http, or `check_url` refuses the target.
    """
    redacted = redact_url(base)
    refusal: HubdistError
    try:
        # Credentials come from the caller only. Drop those that an origin puts into a Location.
        target = split_userinfo(urldefrag(urljoin(base, location)).url)[0]
        check_url(target)
    except HandleError as error:
        refusal = OriginError(f"{redacted} redirects where hubdist does not follow: {error.what}")
    except ValueError:
        refusal = OriginError(f"{redacted} redirects to an invalid URL")
    else:
        if urlsplit(base).scheme == "https" and urlsplit(target).scheme == "http":
            raise OriginError(f"{redacted} redirects from https to http, to {redact_url(target)}")
        return target
    raise refusal


def same_origin(one: str, other: str) -> bool:
    """True if scheme, host and port agree, so that credentials for one URL may go to the other.

    Args:
        one: An http or https URL.
        other: Another one.
    """
    return _origin(urlsplit(one)) == _origin(urlsplit(other))


def split_userinfo(url: str) -> tuple[str, tuple[str, str] | None]:
    """The URL without userinfo, and the decoded name and password if it had one."""
    parts = urlsplit(url)
    userinfo, found, host = parts.netloc.rpartition("@")
    if not found:
        return url, None
    name, _, password = userinfo.partition(":")
    return urlunsplit(parts._replace(netloc=host)), (unquote(name), unquote(password))


def is_forbidden_host(host: str) -> bool:
    """True for a name or literal address that serves a cloud's metadata, and for link-local addresses."""
    name = host.rstrip(".").lower()
    return name in _METADATA_HOSTS or is_forbidden_address(name)


def is_forbidden_address(text: str) -> bool:
    """True for a link-local or metadata address, also inside an IPv6 form; False if `text` is not an address."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address.sixtofour or _nat64(address) or address
    return any(address in network for network in _FORBIDDEN_NETWORKS if network.version == address.version)


def _nat64(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None


def _origin(parts: SplitResult) -> tuple[str, str, int | None]:
    return parts.scheme, (parts.hostname or "").rstrip("."), parts.port or _PORTS.get(parts.scheme)
