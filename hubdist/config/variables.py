"""Variables of the environment that matter to hubdist, for people who look for a fault: names, and harmless values."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hubdist.config.sources import VARIABLE
from hubdist.model.redact import redact_url

_WANTED = re.compile(
    r"(HUBDIST|RAY|TFHUB|KAGGLE|GCSFS)_|(HTTPS?|ALL|NO)_PROXY$|(REQUESTS|CURL)_CA_BUNDLE$|SSL_CERT_(FILE|DIR)$"
    r"|GOOGLE_APPLICATION_CREDENTIALS$|STORAGE_EMULATOR_HOST$|XDG_CACHE_HOME$",
    re.IGNORECASE,
)
_SECRET = re.compile(r"TOKEN(?!_PATH)|KEY|SECRET|PASSW|CREDENTIAL|USERNAME", re.IGNORECASE)
_HARMLESS = re.compile(
    r"(true|false|auto|off|on|null|token|disabled|k8s|[0-9.]+ ?([kKMGT]i?)?(B|bit/s)?)", re.IGNORECASE
)
_PLACE = re.compile(r"(_PATH|_BUNDLE|_FILE|_DIR|_STORE|_HOME)$", re.IGNORECASE)
_RAY_HEADS = re.compile(r"(ray://)?[\w.\[\]:-]+:\d+|auto|local", re.IGNORECASE)
_TOKEN_FILE = "~/.ray/auth_token"  # noqa: S105 - where it is, not what it is


@dataclass(frozen=True, slots=True)
class RayAccess:
    """How processes started here find Ray and show that they may use it.

    Attributes:
        address: What `RAY_ADDRESS` says, without secrets; None if it is not set.
        mode: What `RAY_AUTH_MODE` says; "" if it is not set.
        token_from: Where the token comes from; None if there is none.
    """

    address: str | None
    mode: str
    token_from: str | None


def set_variables(environment: Mapping[str, str] | None = None) -> dict[str, str | None]:
    """Names of the variables that are set and may matter; a value only where it can hold no secret, else None.

    Args:
        environment: Environment variables; None reads those of this process.
    """
    found = dict(os.environ if environment is None else environment)
    return {name: _shown(name, found[name]) for name in sorted(found) if _WANTED.match(name) and name != VARIABLE}


def ray_access(environment: Mapping[str, str] | None = None) -> RayAccess:
    """How processes started here find Ray.

    Args:
        environment: Environment variables; None reads those of this process.
    """
    found = dict(os.environ if environment is None else environment)
    address = found.get("RAY_ADDRESS")
    token_from = next((name for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH") if found.get(name)), None)
    home = found.get("HOME")
    if token_from is None and home and os.path.isfile(Path(home, ".ray", "auth_token")):  # noqa: PTH113 - no OSError
        token_from = _TOKEN_FILE
    return RayAccess(redact_url(address) if address else None, found.get("RAY_AUTH_MODE", ""), token_from)


def _shown(name: str, value: str) -> str | None:
    if _SECRET.search(name):
        return None
    if name.upper() == "RAY_ADDRESS":
        return value if _RAY_HEADS.fullmatch(value) else None
    return value if _HARMLESS.fullmatch(value) or (_PLACE.search(name) and value.startswith("/")) else None
