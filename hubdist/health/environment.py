"""What a bug report must say of the machine, the packages and the settings. Nothing heavy is imported; no secrets."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

import hubdist
from hubdist.config.schema import Config
from hubdist.config.variables import ray_access, set_variables
from hubdist.errors import StoreError
from hubdist.health.machine import read_limits, read_versions
from hubdist.health.versions import TENSORFLOW
from hubdist.model.redact import redact_url
from hubdist.remote.packages import PACKAGES
from hubdist.system.disk import free_bytes
from hubdist.system.portable import usable_cpus

_PACKAGES = (
    *("ray", TENSORFLOW, "tensorflow-hub", "tf_keras", "keras", "numpy", "fsspec", "cloudpickle", "pydantic"),
    *("requests", "urllib3", "aiohttp", "click", "rich", "kagglehub"),
)


def describe_environment(config: Config) -> dict[str, Any]:
    """Facts for a bug report, of types that JSON can hold.

    Args:
        config: The settings that hold in this process.
    """
    packages = (*_PACKAGES, *dict.fromkeys(PACKAGES.values()))
    access = ray_access()
    return {
        "hubdist": {"version": hubdist.__version__, "path": str(Path(hubdist.__file__).parent)},
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "system": {
            "os": _os_name(),
            "kernel": platform.release(),
            "machine": platform.machine(),
            "libc": " ".join(platform.libc_ver()).strip() or "unknown",
            "cpus": os.cpu_count(),
            "usable_cpus": usable_cpus(),
        },
        "limits": read_limits(),
        "store": describe_store(config),
        "ray": {"address": access.address, "auth_mode": access.mode or None, "token_from": access.token_from},
        "packages": {name: version for name, version in read_versions(packages).items() if version is not None},
        "variables": set_variables(),
        "settings": changed_settings(config),
    }


def describe_store(config: Config) -> dict[str, Any]:
    """Where the store of this process is, on which kind of file system, and how many bytes are free there."""
    try:
        root = config.store_root(platform.node() or "local")
    except StoreError as error:
        return {"path": None, "problem": error.what}
    return {
        "path": str(root),
        "file_system": file_system_of(root),
        "free": free_bytes(root),
    }


def file_system_of(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The kind of file system at a path that need not exist; "unknown" if nobody can tell.

    Args:
        path: The path.
        mounts: The system's table of mounts.
    """
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "unknown"
    whole = os.path.realpath(path)
    found = [line.split()[1:3] for line in lines if len(line.split()) > 2]
    # The last mount at the longest path wins, as for the system.
    at = [(len(point), number, kind) for number, (point, kind) in enumerate(found) if _is_below(whole, point)]
    return max(at)[2] if at else "unknown"


def changed_settings(config: Config) -> dict[str, Any]:
    """The settings that are not the defaults, without secrets; of functions only the schemes."""
    values = config.model_dump(mode="json", include=config.model_fields_set - {"origins"})
    changed = {key: _redacted(value) for key, value in values.items() if value != _default(key)}
    return changed | ({"origins": sorted(config.origins)} if config.origins else {})


def _default(key: str) -> Any:
    value = Config.model_fields[key].default
    return list(value) if isinstance(value, tuple) else value


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redact_url(value)
    if isinstance(value, list):
        return [_redacted(each) for each in value]
    if isinstance(value, dict):
        return {key: _redacted(each) for key, each in value.items() if each is not None}
    return value


def _is_below(path: str, point: str) -> bool:
    return point in ("/", path) or path.startswith(f"{point}/")


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()
