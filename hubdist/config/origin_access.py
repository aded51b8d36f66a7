"""What servers of hubs and archives get to know of this node: the values that the environment has for the settings.

The settings name variables only, so every process and every record of a job may have them. The values go from the
driver's environment to the coordinator, and to nobody else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from hubdist.config.origin_headers import header_values, variables_of
from hubdist.config.schema import Config
from hubdist.model.access import OriginAccess

_TOKENS = (
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HOME"),
    *("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_CONFIG_DIR"),
)
"""Where huggingface_hub and kagglehub look for tokens."""

_NETRC = "NETRC"
_ON_DISK = ("HF_TOKEN_PATH", "HF_HOME", "KAGGLE_CONFIG_DIR")
_LOGIN_FILES = (".netrc", "_netrc")


def driver_values(
    config: Config, environment: Mapping[str, str] | None = None, *, same_disk: bool = True
) -> dict[str, str]:
    """The variables of this process that the coordinator needs: of `origin_headers`, for tokens, and for `.netrc`.

    Args:
        config: The settings.
        environment: Environment variables; None takes those of this process.
        same_disk: The coordinator runs on this machine, so that the file of logins is there too.
    """
    found = os.environ if environment is None else environment
    named = (*variables_of(config.origin_headers), *(name for name in _TOKENS if same_disk or name not in _ON_DISK))
    values = {name: found[name] for name in named if found.get(name)}
    path = _netrc(found) if config.netrc and same_disk else None
    return values if path is None else {**values, _NETRC: path}


def origin_access(
    config: Config, given: Mapping[str, str] | None = None, environment: Mapping[str, str] | None = None
) -> OriginAccess:
    """What servers of hubs and archives get to know.

    Args:
        config: The settings.
        given: What `driver_values` returned in the driver; it wins. None outside of the coordinator.
        environment: Environment variables; None takes those of this process.
    """
    found = {**(os.environ if environment is None else environment), **(given or {})}
    return OriginAccess(header_values(config.origin_headers, found), _netrc(found) if config.netrc else None)


def _netrc(environment: Mapping[str, str]) -> str | None:
    """The file of logins: the one that `NETRC` names, else the one in the home; None if there is none."""
    named = environment.get(_NETRC)
    if named:
        return str(Path(named).absolute())
    home = environment.get("HOME", "")
    found = (str(Path(home, name)) for name in _LOGIN_FILES if home.startswith("/"))
    return next((path for path in found if os.path.isfile(path)), None)  # noqa: PTH113 - no OSError


def lend_tokens(given: Mapping[str, str]) -> None:
    """Put the driver's tokens where the clients of hubs look for them: into the environment of this process.

    Args:
        given: What `driver_values` returned in the driver.
    """
    for name in _TOKENS:
        if name in given:
            os.environ[name] = given[name]
