"""Which directory a handle stands for that nodes can read as it is, without a copy by the driver.

Source: TensorFlow Hub's hosting protocol, https://www.tensorflow.org/hub/hosting: a hub that has a model uncompressed
answers `<handle>?tf-hub-format=uncompressed` with status 303 and a `gs://` directory as the body.
"""

from __future__ import annotations

from pathlib import Path

from hubdist.config.schema import Config
from hubdist.errors import HandleError, HubdistError, ModelNotFoundError, OriginError
from hubdist.model.handle import Handle, Kind, parse_handle
from hubdist.model.redact import redact_url
from hubdist.model.suffixes import Ending, ending_of
from hubdist.origins.archive_origin import http_rules
from hubdist.origins.http.stream import fetch_text
from hubdist.origins.local import is_directory
from hubdist.origins.objects import is_object
from hubdist.system.deadline import Deadline
from hubdist.system.foreign import call_foreign

_ONLY_ARCHIVES = "the origin serves archives only"
_ONE_FILE = "the handle names one file, which only the driver reads"


def direct_url(handle: Handle, config: Config, *, ask_hub: bool) -> str | None:
    """The directory that a handle names: on object storage, or a path that may be a mount of all nodes.

    Args:
        handle: Any handle.
        config: Deadlines and retries for the question to a hub.
        ask_hub: Ask a hub for its uncompressed copy; without it a handle of a hub names no directory.

    Returns:
        The directory, or None if the handle names none and nothing was asked, or nothing is at the driver's path.

    Raises:
        HubdistError: The handle names an archive or a file, or the hub has no uncompressed copy; only with `ask_hub`.
    """
    return call_foreign(lambda: _direct_url(handle, config, ask_hub=ask_hub), handle.redacted)


def _direct_url(handle: Handle, config: Config, *, ask_hub: bool) -> str | None:
    is_file = handle.kind is Kind.FILE
    if handle.kind is Kind.TREE:
        # Only a name that looks like a file's is worth a question; nodes find no directory at any other file.
        is_file = ending_of(handle.text) is Ending.MODEL_FILE and is_object(handle, config)
        if not is_file:
            return handle.text
    if handle.kind is Kind.LOCAL:
        try:
            is_file = not is_directory(Path(handle.text))
        except ModelNotFoundError:  # a path that only nodes have is none of the driver's
            return None
        if not is_file:
            return handle.text
    if not ask_hub:
        return None
    if handle.kind is not Kind.HUB:
        raise OriginError(_ONE_FILE if is_file else _ONLY_ARCHIVES, handle=handle.redacted)
    return _ask_hub(handle, config)


def _ask_hub(handle: Handle, config: Config) -> str:
    url = handle.text + ("&" if "?" in handle.text else "?") + "tf-hub-format=uncompressed"
    status, body = fetch_text(url, http_rules(config, Deadline(config.timeout_s)))
    if status != 303:
        raise OriginError(f"{_ONLY_ARCHIVES}: it answers {status}, not 303, to uncompressed", handle=handle.redacted)
    try:
        found = parse_handle(body.strip())
        if found.kind is not Kind.TREE:
            raise HandleError("it is no directory on object storage")
    except HubdistError as error:
        raise OriginError(
            f"the hub answers {redact_url(body.strip()[:200])!r} where the uncompressed model should be: {error.what}",
            handle=handle.redacted,
        ) from None
    return found.text
