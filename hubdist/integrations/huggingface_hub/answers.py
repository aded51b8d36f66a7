"""What `snapshot_download` and `hf_hub_download` answer while hubdist is installed.

Whatever hubdist does not do, or cannot do, is left to huggingface_hub's own function, with the arguments as they came.
So its exceptions are its own: where hubdist does not get the files, the function asks the hub and says why.
"""

from __future__ import annotations

import glob
import logging
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hubdist.client.current import current_process
from hubdist.errors import HandleError, HubdistError, NotPinnedError, ResolveError, TransferError
from hubdist.integrations.huggingface_hub.cache_links import RepoCache
from hubdist.model.handle import parse_handle
from hubdist.model.hf_names import RepoName
from hubdist.model.selection import selected
from hubdist.origins.huggingface.hub import LIBRARY
from hubdist.resolver.values import CallOptions, LoaderPin
from hubdist.system.log_once import LogOnce

_LOG = logging.getLogger(__name__)
_once = LogOnce(_LOG)

_COMMIT = re.compile(r"[0-9a-f]{40}")
_NO_MATTER = {"library_name", "library_version", "user_agent", "etag_timeout", "max_workers", "tqdm_class"}
_USED = {"repo_type", "revision", "cache_dir", "local_dir", "allow_patterns", "ignore_patterns", "subfolder"}
_KINDS = ("model", "dataset", "space")


class _Passing(str):
    """The name of a library in a call that is huggingface_hub's own to the end: its parts are not answered either."""

    __slots__ = ()


def snapshot_download(original: Callable[..., Any], repo_id: str, **options: Any) -> Any:
    """The directory in huggingface_hub's cache with the files of a commit.

    Args:
        original: huggingface_hub's own function.
        repo_id: The repository.
        **options: As for huggingface_hub.
    """
    chosen = options.get("allow_patterns"), options.get("ignore_patterns")
    return _answered(original, (repo_id,), options, chosen, "")


def hf_hub_download(original: Callable[..., Any], repo_id: str, filename: str, **options: Any) -> Any:
    """The file in huggingface_hub's cache.

    Args:
        original: huggingface_hub's own function.
        repo_id: The repository.
        filename: The file's path in the repository, below `subfolder` if that is given.
        **options: As for huggingface_hub.
    """
    path = f"{options['subfolder']}/{filename}" if options.get("subfolder") else filename
    return _answered(original, (repo_id, filename), options, (glob.escape(path), None), path)


def _answered(
    original: Callable[..., Any],
    named: tuple[str, ...],
    options: dict[str, Any],
    chosen: tuple[str | Iterable[str] | None, str | Iterable[str] | None],
    path: str,
) -> Any:
    """What hubdist answers, or huggingface_hub's function if hubdist has no answer.

    Args:
        original: huggingface_hub's own function.
        named: Its arguments without names: the repository, and perhaps the file.
        options: All others.
        chosen: Patterns of the files that are wanted, and of those that are not.
        path: What to return of the snapshot's directory; "" for all of it.
    """
    library = options.get("library_name")
    if library == LIBRARY or isinstance(library, _Passing):
        return original(*named, **options)
    why = _not_for_hubdist(options)
    if why is not None:
        _once.log(why, "hubdist: huggingface_hub downloads for itself where %s", why, level=logging.INFO)
        return original(*named, **options)
    try:
        folder = _bring(named[0], options, chosen)
    except (ResolveError, TransferError, HandleError) as error:
        if isinstance(error, NotPinnedError):
            raise  # a pin that could be passed by would be none
        _note(error)
    else:
        if options.get("local_dir") is None:
            return str(folder / path)  # else huggingface_hub copies from its cache
    return original(*named, **{**options, "library_name": _Passing(library or "")})


def _note(error: HubdistError) -> None:
    # A file that is not there is asked for all the time: transformers tries optional ones.
    level = logging.WARNING if isinstance(error, TransferError) else logging.DEBUG
    _once.log(error.what, "hubdist: huggingface_hub downloads for itself: %s", error.what, level=level)


def _not_for_hubdist(options: dict[str, Any]) -> str | None:
    """Why a call is left to huggingface_hub; None if hubdist can answer it."""
    from huggingface_hub import constants, get_token

    unknown = {name for name, value in options.items() if value} - _NO_MATTER - _USED - {"token", "endpoint"}
    if unknown:
        return f"{' and '.join(sorted(unknown))} is asked for"
    if options.get("repo_type") not in (None, *_KINDS):
        return f"repo_type is {options['repo_type']}"
    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    token = options.get("token")
    if token is False or (isinstance(token, str) and token != get_token()):
        return "no token may be sent, or another one than that of this process's environment"
    return None if options.get("endpoint") in (None, constants.ENDPOINT) else "another endpoint is asked for"


def _bring(repo_id: str, options: dict[str, Any], chosen: tuple[Any, Any]) -> Path:
    """Bring files into this node's store, and link them into huggingface_hub's cache.

    Returns:
        The directory of the commit in the cache; the directory in the store where the cache cannot be written.
    """
    from huggingface_hub import constants

    revision = options.get("revision") or constants.DEFAULT_REVISION
    revision = str(getattr(revision, "resolved", revision))
    kind = options.get("repo_type") or "model"
    handle = selected(RepoName(kind, repo_id, revision).text, *chosen)
    process = current_process()
    pin = process.pin_of(handle, CallOptions(None, "store"))
    directory = process.give_directory(pin)
    cache_dir = Path(options.get("cache_dir") or constants.HF_HUB_CACHE).expanduser().resolve()
    cache = RepoCache(cache_dir, kind, repo_id, process.hold)
    with process.snapshot_of(pin) as snapshot:
        try:
            folder = cache.link(snapshot, _commit(pin, revision))
            cache.note_revision(revision, folder.name)
        except OSError as error:
            text = "hubdist: huggingface_hub's cache %s cannot be written (%s); paths lead into the store"
            _once.log(str(cache_dir), text, cache_dir, type(error).__name__)
            return directory
    return folder


def _commit(pin: LoaderPin, revision: str) -> str:
    """The commit that a pin stands for; made up of the digest where only the digest is known.

    Args:
        pin: The pin.
        revision: The revision that was asked for.
    """
    if pin.commit is not None:
        return RepoName.parse(parse_handle(pin.commit).root.text).revision
    return revision if _COMMIT.fullmatch(revision) else pin.digest.value[:40]


ANSWERS: dict[str, Callable[..., Any]] = {
    "snapshot_download": snapshot_download,
    "hf_hub_download": hf_hub_download,
}
"""The name of a function of huggingface_hub -> what is called in its place, with that function and its arguments."""
