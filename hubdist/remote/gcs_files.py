"""gcsfs file systems that fail at once: without gcsfs's own retries, with this node's credentials or without any."""

from __future__ import annotations

import functools
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import fsspec
import gcsfs
import gcsfs.credentials
import gcsfs.retry

from hubdist.errors import AccessDeniedError
from hubdist.remote.google_login import GoogleLogin
from hubdist.remote.identity import ANONYMOUSLY, google_words
from hubdist.system.mends import CREDENTIALS
from hubdist.system.quiet import quiet

_login = GoogleLogin()


def open_gcs(redacted: str, settings: dict[str, Any], login: GoogleLogin | None = None) -> Any:
    """A gcsfs file system that only the caller uses.

    Without credentials on this node, it reads as anybody may, which is right for public buckets.

    Args:
        redacted: The URL that it is for, without secrets, for errors.
        settings: Arguments of gcsfs; what the user configured for fsspec comes on top.
        login: The credentials of this node; None takes those that this process shares.

    Raises:
        AccessDeniedError: There are no credentials, and Google's server cannot be reached without.
        Exception: Whatever else gcsfs and google-auth raise.
    """
    login = login or _login
    with quiet():
        if any("token" in fsspec.config.conf.get(name, {}) for name in ("gs", "gcs")):
            return _tried_once(fsspec.filesystem("gs", skip_instance_cache=True, **settings))
        token = "cache" if gcsfs.credentials.GoogleCredentials.tokens else "anon"
        files = fsspec.filesystem("gs", skip_instance_cache=True, token=token, **settings)
        found, project = login.find(on_google=files.on_google)
        if found is not None:
            settings = {"project": project, **settings} if project else settings
            files = fsspec.filesystem("gs", skip_instance_cache=True, token=found, **settings)
            files.credentials.maybe_refresh = lambda *_, **__: login.renew(found)
        elif is_anonymous(files) and files.on_google and not files.session_kwargs:
            _check_reach(files, redacted, login)
        return _tried_once(files)


def is_anonymous(files: Any) -> bool:
    """True if a gcsfs file system sends no credentials."""
    return files.credentials.credentials is None


def login_words() -> str:
    """Who this process is to Google, as far as it has found out."""
    return google_words(_login.known)


def _check_reach(files: Any, redacted: str, login: GoogleLogin) -> None:
    host = urlsplit(files._location).hostname
    failure = login.reach(host, urlsplit(files._location).port or 443)
    if failure is not None:
        reason = failure.what.partition(": ")[2] or "it gives no answer"
        raise AccessDeniedError(
            f"{redacted} may not be read: there are no Google credentials on this node, and {host} cannot be asked"
            f" without ({reason})",
            advice=f"{CREDENTIALS['gs']} If the bucket is public, mend the way from this node to {host}.",
        ).asked(ANONYMOUSLY)


def _tried_once(files: Any) -> Any:
    """Take gcsfs's retries away: it makes six for each try of hubdist's, also of what cannot pass, and logs each."""
    once = getattr(type(files)._request, "__wrapped__", None)
    if once is not None:
        files._request = functools.partial(once, files)
    if hasattr(files, "_get_bucket_type"):
        files._get_bucket_type = functools.partial(_bucket_type, files, {})
    return files


async def _bucket_type(files: Any, known: dict[str, Any], bucket: str) -> Any:
    """The type of a bucket, asked once over HTTP.

    gcsfs asks over gRPC, before each operation again if it learns nothing, and each time for up to a minute.

    Source: https://cloud.google.com/storage/docs/json_api/v1/buckets/getStorageLayout
    """
    from gcsfs.extended_gcsfs import BucketType

    if bucket not in known:
        known[bucket] = BucketType.UNKNOWN
        if not is_anonymous(files):
            try:
                layout = await files._call("GET", "b/{}/storageLayout", bucket, json_out=True)
            except aiohttp.ClientError:
                del known[bucket]
                raise
            except (OSError, ValueError, gcsfs.retry.HttpError):  # who may read objects may not always see the layout
                layout = {}
            if layout.get("locationType") == "zone":
                known[bucket] = BucketType.ZONAL_HIERARCHICAL
            elif layout:
                has_folders = (layout.get("hierarchicalNamespace") or {}).get("enabled")
                known[bucket] = BucketType.HIERARCHICAL if has_folders else BucketType.NON_HIERARCHICAL
    return known[bucket]
