"""Open the fsspec file system that a handle names, with account, host and user from the URL, for `FsspecClient`."""

from __future__ import annotations

from typing import Any

import aiohttp
import fsspec

from hubdist.errors import HandleError, HubdistError
from hubdist.model.handle import Handle
from hubdist.remote.packages import PACKAGES
from hubdist.system.deadline import Deadlines
from hubdist.system.quiet import quiet


def open_files(handle: Handle, deadlines: Deadlines) -> tuple[Any, str]:
    """The file system of a TREE or ARCHIVE handle, and the path in it.

    Account, host and user in the URL choose the file system. Only the caller uses the file system, because gcsfs does
    not survive a fork.

    Args:
        handle: A TREE or ARCHIVE handle.
        deadlines: Longest times to connect and without a byte; gs:// and s3:// only.

    Raises:
        HandleError: The package for the scheme is not installed here, or settings of this node do not fit the handle.
        AccessDeniedError: There are no credentials for gs:// on this node, and its server cannot be reached without.
        Exception: Whatever else the package raises.
    """
    scheme = handle.scheme
    settings: dict[str, Any] = {"use_listings_cache": False}
    if scheme == "gs":
        settings["requests_timeout"] = aiohttp.ClientTimeout(
            sock_connect=deadlines.connect_s, sock_read=deadlines.stall_s
        )
    try:
        kind = fsspec.get_filesystem_class(scheme)
        named = kind._get_kwargs_from_urls(handle.text)
        if scheme == "gs":
            with quiet():
                from hubdist.remote.gcs_files import open_gcs
            files = open_gcs(handle.redacted, {**settings, **named})
        elif scheme == "s3":
            files = _open_s3({**settings, **named}, deadlines)
        else:
            files = fsspec.filesystem(scheme, skip_instance_cache=True, **settings, **named)
        _check_account(files, named, handle)
        return files, str(files._strip_protocol(handle.text))
    except ImportError:
        package = PACKAGES.get(scheme, scheme)
        what, advice = f"needs the package {package}, which is not installed here", f"Run: pip install {package}"
    except HubdistError:
        raise
    except ValueError as error:
        what = f"cannot be opened with the settings of this node ({type(error).__name__} of its package)"
        advice = "Set account, endpoint and credentials as the package for this storage wants them."
    raise HandleError(f"{scheme}:// {what}", advice=advice, handle=handle.redacted)


def _open_s3(settings: dict[str, Any], deadlines: Deadlines) -> Any:
    """An s3fs file system without botocore's retries, which repeat what cannot pass; s3fs repeats parts of uploads."""
    configured: dict[str, Any] = {"connect_timeout": deadlines.connect_s, "read_timeout": deadlines.stall_s}
    configured |= fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
    configured["retries"] = {"max_attempts": 0}
    return fsspec.filesystem("s3", skip_instance_cache=True, config_kwargs=configured, **settings)


def _check_account(files: Any, named: dict[str, Any], handle: Handle) -> None:
    """Refuse a file system of another account than the URL names.

    Raises:
        HandleError: A setting chose another account, such as AZURE_STORAGE_CONNECTION_STRING, which wins in adlfs.
    """
    account = named.get("account_name")
    opened = getattr(getattr(files, "service_client", None), "account_name", None)
    if account is not None and opened not in (None, account):
        raise HandleError(
            f"the handle names the account {account}, but the settings of this node choose the account {opened}",
            advice="Unset AZURE_STORAGE_CONNECTION_STRING, or set it to that account's.",
            handle=handle.redacted,
        )
