"""The functions that users call; `hubdist` exports them.

Each works in drivers, tasks and actors of Ray, and without Ray. The first call sets the process up.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hubdist.client.current import current_process, end_process, start_process
from hubdist.client.failures import raise_failures
from hubdist.config.schema import Config
from hubdist.loading import load_key
from hubdist.model.handle import handle_text
from hubdist.model.redact import redact_url
from hubdist.model.selection import selected
from hubdist.report.arrivals import Watch
from hubdist.report.delivery import Report
from hubdist.report.plan import Refreshed, Status
from hubdist.resolver.values import CallOptions
from hubdist.system.tracing import span


def init(config: Config | Mapping[str, Any] | None = None, **overrides: Any) -> None:
    """Set hubdist up. Optional: without it the first call does so, from `HUBDIST_CONFIG` and the environment.

    In the driver this starts the job's coordinator, whose settings hold for all processes of the job; the models that
    the settings list begin to travel to all nodes. In a task or actor it changes settings for that process alone.
    Processes that this one starts by multiprocessing, joblib or otherwise get the same settings, but for `origins`.

        hubdist.init(shared_cache="gs://my-bucket/hubdist", max_store_bytes="50GiB")

    Args:
        config: A whole `Config`, or a mapping of its keys that wins over YAML and environment.
        **overrides: Single keys of `Config`; they win over everything.

    Raises:
        ConfigError: A key or value is wrong, or the job already runs with other settings.
        UnsafeStoreError: Another user could change the store.
    """
    start_process(config, overrides)


def load(
    handle: str | os.PathLike[str],
    tags: str | Sequence[str] | None = None,
    options: Any = None,
    *,
    own: bool = False,
    fresh: bool | None = None,
    device: str | None = None,
    route: str | None = None,
    read_mode: str | None = None,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
) -> Any:
    """Load a model, as `tensorflow_hub.load` does, from this node's store.

        model = hubdist.load("https://tfhub.dev/google/universal-sentence-encoder/4")

    The first load of the job resolves the handle; the first on a node brings the files there; the first in a process
    loads them. Later loads return the same object as long as it is as it was published; once somebody has changed it,
    they load anew. So code that changes a model takes one of its own, with `own=True`.

    The object can be pickled and copied: what arrives is an object of its own, at the same digest, with whatever was
    changed, and opens at its first use. In async code use `load_async`.

    Args:
        handle: A URL of tfhub.dev, Kaggle or another hub, of an archive, of a directory on object storage; a path on
            the driver's machine; `zip://inner/dir::<archive>`.
        tags: Tags of the MetaGraph to load, as for `tf.saved_model.load`.
        options: A `tf.saved_model.LoadOptions`.
        own: True gives an object that nobody else will get, for training.
        fresh: True loads the same bytes anew although this process has the model unchanged; None takes the
            setting's value. For new bytes call `refresh`.
        device: A device of a remote TensorFlow worker that this program is connected to, such as
            `/job:worker/task:0`: the model is loaded there, and that machine needs neither Ray nor the files. Under
            a strategy with such devices this is so by itself.
        route: For this call, which way to try first: `auto`, `shared`, `direct` or `driver`, as the setting of the
            same name. The first call of the job decides who reads the origin.
        read_mode: For this call, what TensorFlow opens: `store`, `memory` or `in_place`, as the setting of the same
            name.
        include: As for `resolve`.
        exclude: As for `resolve`.

    Returns:
        What `tf.saved_model.load` returns for the model.

    Raises:
        HandleError: The handle cannot be understood. It is a `ValueError`, too.
        ModelNotFoundError: The origin has nothing there. It is a `FileNotFoundError`, too.
        AccessDeniedError: The origin wants credentials. It is a `PermissionError`, too.
        NotAModelError: The files are not a SavedModel.
        TransferError: The origin or the nodes failed although retries were made; it may work later.
        IntegrityError: The bytes are not those that were promised or pinned.
        StoreError: This node's disk refuses or is full. It is an `OSError`, too.
        HubdistError: The base of all these; `hubdist.errors` shows the whole tree.
    """
    handle = selected(handle, include, exclude)
    process = current_process()
    call = CallOptions.checked(route, read_mode)
    with span("hubdist.load", handle=redact_url(handle_text(handle))) as seen:
        pin = process.pin_of(handle, call)
        seen.set(digest=str(pin.digest), bytes=pin.total_bytes)
        key = load_key(
            pin.handle,
            pin.digest,
            tags,
            options,
            device,
            route=call.route or pin.settings.route,
            read_mode=call.read_mode or pin.settings.read_mode,
        )
        if own:
            return process.open(pin, key, call)
        return process.load(pin, key, call, fresh=process.config.fresh if fresh is None else fresh)


async def load_async(
    handle: str | os.PathLike[str],
    tags: str | Sequence[str] | None = None,
    options: Any = None,
    *,
    own: bool = False,
    fresh: bool | None = None,
    device: str | None = None,
    route: str | None = None,
    read_mode: str | None = None,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
) -> Any:
    """`load` for async actors and other event loops: runs in a thread and does not block the loop.

    Args:
        handle: As for `load`.
        tags: As for `load`.
        options: As for `load`.
        own: As for `load`.
        fresh: As for `load`.
        device: As for `load`.
        route: As for `load`.
        read_mode: As for `load`.
        include: As for `resolve`.
        exclude: As for `resolve`.

    Returns:
        What `load` returns.
    """
    handle = selected(handle, include, exclude)
    return await asyncio.to_thread(
        load, handle, tags, options, own=own, fresh=fresh, device=device, route=route, read_mode=read_mode
    )


def resolve(
    handle: str | os.PathLike[str],
    *,
    route: str | None = None,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
) -> str:
    """The directory on this node with a model's files, complete and read-only; brought here if it is missing.

        vocabulary = pathlib.Path(hubdist.resolve(handle), "assets", "vocabulary.txt")
        without_weights = hubdist.resolve(handle, exclude="*.safetensors")

    Works for any files, also those that are not a SavedModel. Every call checks names and sizes anew. The directory
    stays for as long as this process lives, also after `shutdown`. In async code use `resolve_async`.

    Args:
        handle: As for `load`.
        route: As for `load`.
        include: Patterns of the files that are wanted: `fnmatch` on whole paths below the model's root, so `*` crosses
            slashes; `onnx/` stands for `onnx/*`; None for all. A choice of files is a model with a digest of its own.
        exclude: Patterns of files that are not wanted, whatever `include` says.

    Raises:
        ModelNotFoundError: No file is chosen.
        HubdistError: As for `load`.
    """
    handle = selected(handle, include, exclude)
    process = current_process()
    call = CallOptions.checked(route, "store")
    return str(process.give_directory(process.pin_of(handle, call)))


async def resolve_async(
    handle: str | os.PathLike[str],
    *,
    route: str | None = None,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
) -> str:
    """`resolve` for async actors and other event loops: runs in a thread and does not block the loop.

    Args:
        handle: As for `load`.
        route: As for `load`.
        include: As for `resolve`.
        exclude: As for `resolve`.
    """
    return await asyncio.to_thread(resolve, selected(handle, include, exclude), route=route)


def prefetch(
    handles: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    nodes: Iterable[str] | None = None,
    *,
    watch: Watch | None = None,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
) -> Report:
    """Bring models to nodes before they are needed, with a progress bar.

        print(hubdist.prefetch([handle, other]))

    Args:
        handles: One handle or several.
        nodes: Ids, names or addresses of nodes; None means all that are alive now.
        watch: Is called about twice a second with what is arriving on each node; None draws progress bars.
        include: As for `resolve`, for each of the handles.
        exclude: As for `resolve`, for each of the handles.

    Returns:
        What was resolved, and how each node got it.

    Raises:
        DeliveryError: Some nodes or handles failed; the other nodes have the other models.
        HubdistError: One handle alone could not be resolved, as for `load`; all nodes have the others.
    """
    several = [handles] if isinstance(handles, (str, os.PathLike)) else list(handles)
    texts = [handle_text(selected(handle, include, exclude)) for handle in several]
    with span("hubdist.prefetch", handles=len(texts)) as seen:
        report = current_process().backend.prefetch(texts, None if nodes is None else list(nodes), watch)
        seen.set(deliveries=len(report.nodes), bytes=sum(node.bytes_received for node in report.nodes))
    raise_failures(report, texts)
    return report


def refresh(handle: str | os.PathLike[str], *, route: str | None = None) -> Refreshed:
    """Ask the origin again what a handle stands for; from then on every load of this job gives the new bytes.

    Without it a handle stands for the same bytes for the whole job. Objects that were loaded before stay what they
    are, and can still be pickled. A digest that the settings or the lock file pin is kept.

    Args:
        handle: As for `load`.
        route: As for `load`.

    Returns:
        The digests before and after.

    Raises:
        DigestMismatchError: The origin has other bytes than those that are pinned.
        HubdistError: As for `load`; the handle stands for what it stood for before.
    """
    return current_process().refresh(handle, CallOptions.checked(route))


def unload(handle: str | os.PathLike[str]) -> bool:
    """Let go of what this process has loaded of a handle; whoever holds the object may still use it.

    Args:
        handle: As for `load`.

    Returns:
        True if hubdist had kept or shared something.

    Raises:
        HandleError: The handle cannot be understood.
    """
    return current_process().unload(handle)


def status() -> Status:
    """What this job has resolved and delivered, and where agents run."""
    return current_process().backend.status()


def shutdown() -> None:
    """Forget this process's loaded models and settings; in the driver, end the job's coordinator and agents."""
    end_process()
