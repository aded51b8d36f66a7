"""What handles and settings name: can this node's processes read it, with this node's credentials and network?

The driver's node must read every origin. Other nodes read directories on storage, mounts and the shared cache, if they
can; if not, bytes come from the driver's node.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hubdist.config.origin_access import origin_access
from hubdist.config.schema import Config
from hubdist.errors import HandleError, HubdistError, ModelNotFoundError, TransferError, TransferTimeoutError
from hubdist.health.clocks import duration_words
from hubdist.health.finding import Finding, Level, Plain
from hubdist.model.access import OriginAccess
from hubdist.model.handle import Handle, Kind, parse_handle
from hubdist.model.hf_names import RepoName
from hubdist.model.paths import Ending, ending_of
from hubdist.model.redact import redact_url
from hubdist.origins.directory import is_object, open_object
from hubdist.origins.http.stream import HttpStream
from hubdist.origins.huggingface import check_hugging_face
from hubdist.origins.kaggle import check_kaggle
from hubdist.origins.local import is_directory, open_local
from hubdist.remote.snapshot_copy import probe
from hubdist.system.deadline import Deadline, Deadlines
from hubdist.system.threads import run_within

SHARED_CACHE = "shared-cache"
ORIGIN = "origin"
_AT_ONCE = 8
_REACH = "Can this node reach the host? Look at DNS, firewalls, HTTPS_PROXY and NO_PROXY there."

_LATE = (
    "Has this node credentials, and can it reach the host? Without credentials, clients of storage wait long."
    " Look also at DNS, firewalls, HTTPS_PROXY and NO_PROXY."
)


@dataclass(frozen=True, slots=True)
class Place:
    """Something that nodes may have to read.

    Attributes:
        check: `origin` or `shared-cache`.
        text: The handle, normalised; it may hold secrets.
        driver_only: Only the driver's node reads it.
    """

    check: str
    text: str
    driver_only: bool


def places_of(
    handles: Sequence[str], shared_cache: str | None, base_dir: Path | None, schemes: Collection[str]
) -> tuple[list[Place], list[Finding]]:
    """What handles and the shared cache name; and findings for handles that cannot be understood.

    Args:
        handles: As users write them.
        shared_cache: The setting of that name.
        base_dir: What relative paths are relative to.
        schemes: Schemes of own origins, which need a program that registers them, and are left out.
    """
    places: dict[str, Place] = {}
    findings = []
    for text in handles:
        try:
            handle = parse_handle(text, base_dir=base_dir, custom_schemes=schemes)
        except HandleError as error:
            findings.append(Finding(ORIGIN, Level.FAIL, "", error.what, error.advice))
            continue
        if handle.kind is not Kind.CUSTOM:
            places[handle.text] = Place(ORIGIN, handle.text, handle.kind not in (Kind.TREE, Kind.LOCAL))
    if shared_cache is not None:
        places[shared_cache] = Place(SHARED_CACHE, shared_cache, driver_only=False)
    return list(places.values()), findings


def examine_places(
    settings: Mapping[str, Any],
    wanted: Sequence[tuple[str, str]],
    timeout_s: float,
    values: Mapping[str, str] | None = None,
) -> list[Plain]:
    """Read a little of each place, with the rights of this process.

    Args:
        settings: Keys of the configuration.
        wanted: The check and the text of each place.
        timeout_s: Longest time in seconds for each.
        values: The driver's variables for origins; None for none.

    Returns:
        A finding for each place, in the same order; what fails is a failure.
    """
    config = Config(**settings)
    deadlines, access = config.deadlines, origin_access(config, values)
    quick = replace(
        deadlines, retries=0, total_s=timeout_s, stall_s=timeout_s, connect_s=min(deadlines.connect_s, timeout_s)
    )
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda place: _examine(place[0], place[1], quick, access), wanted))


def judge_other_node(plain: Plain) -> Plain:
    """What a finding means on a node that is not the driver's: it only loses a route."""
    check, level, found, _ = plain
    if level == Level.OK.value:
        return plain
    route = "shared" if check == SHARED_CACHE else "direct"
    mend = f"Nothing, if bytes may come from other nodes. For the route {route}, give this node the right and the way."
    return check, Level.WARN.value, f"{found}; this node cannot take the route {route}", mend


def _examine(check: str, text: str, quick: Deadlines, access: OriginAccess) -> Plain:
    redacted, begun = redact_url(text), time.monotonic()
    try:
        read = functools.partial(_read, text, quick, access, is_cache=check == SHARED_CACHE)
        run_within(read, "hubdist-doctor", quick.total_s)
    except ModelNotFoundError as error:
        if check == SHARED_CACHE:
            return _judge_empty_cache(redacted, parse_handle(text))
        return check, Level.FAIL.value, error.what, error.advice or _mend(error)
    except HubdistError as error:
        return check, Level.FAIL.value, error.what, error.advice or _mend(error)
    except TimeoutError:
        return check, Level.FAIL.value, f"{redacted} could not be read within {quick.total_s:g} s", _LATE
    return check, Level.OK.value, f"{redacted} can be read ({duration_words(time.monotonic() - begun)})", None


def _judge_empty_cache(redacted: str, handle: Handle) -> Plain:
    """A shared cache may still be empty. A mount that is missing must not be taken for that."""
    if handle.kind is Kind.LOCAL and not os.path.isdir(handle.text):  # noqa: PTH112 - no OSError
        mend = "Mount it on this node, or make the directory where it is missing."
        return SHARED_CACHE, Level.FAIL.value, f"there is no directory {redacted}", mend
    return SHARED_CACHE, Level.OK.value, f"{redacted} can be reached, and holds nothing yet", None


def _mend(error: HubdistError) -> str:
    if isinstance(error, ModelNotFoundError):
        return "Is the handle spelled right? On object storage, nobody is also told this who may not list the bucket."
    if isinstance(error, TransferTimeoutError):
        return _LATE
    return _REACH if isinstance(error, TransferError) else "`hubdist resolve --help` shows how handles are written."


def _read(text: str, quick: Deadlines, access: OriginAccess, *, is_cache: bool) -> None:
    handle = parse_handle(text)
    base, deadline = handle.root, Deadline(quick.total_s)
    if is_cache:
        probe(text, quick, timeout_s=quick.total_s)
    elif base.scheme in ("http", "https"):
        HttpStream(_url(handle), quick, deadline=deadline, access=access).close()
    elif base.scheme == "hf":
        check_hugging_face(RepoName.parse(base.text), quick, deadline)
    elif base.kind is Kind.KAGGLE:
        check_kaggle(quick, deadline)
    elif base.kind is Kind.LOCAL and not is_directory(Path(base.text)):
        with open_local(Path(base.text)) as file:
            file.read(1)
    elif base.kind is Kind.ARCHIVE or (ending_of(base.text) is Ending.MODEL_FILE and is_object(base, quick)):
        with open_object(base, quick, deadline, max_bytes=None) as stream:
            stream.read(1)
    else:
        probe(base.text, quick, timeout_s=quick.total_s)


def _url(handle: Handle) -> str:
    """What a hub is asked for. Source: https://www.tensorflow.org/hub/hosting."""
    text = handle.root.text
    whole = handle.base if handle.kind is Kind.SELECTION else handle
    if whole is None or whole.kind is not Kind.HUB:
        return text
    return f"{text}{'&' if '?' in text else '?'}tf-hub-format=compressed"
