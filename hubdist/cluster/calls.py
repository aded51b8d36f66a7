"""Calls between actors: every one has a deadline, and every failure comes back as an error of hubdist."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

from hubdist.errors import HubdistError, PeerError, StoreFullError, TransferTimeoutError

if TYPE_CHECKING:
    import ray.exceptions


def ray_errors() -> tuple[type[Exception], ...]:
    """The class of Ray's errors, for `except`; none in a process without Ray, where nothing raises them."""
    exceptions = sys.modules.get("ray.exceptions")
    return () if exceptions is None else (exceptions.RayError,)


def lost_errors() -> tuple[type[Exception], ...]:
    """The errors that Ray raises when the other side of a call is gone."""
    import ray.exceptions

    return (
        ray.exceptions.RayActorError,
        ray.exceptions.ActorUnschedulableError,
        ray.exceptions.NodeDiedError,
        ray.exceptions.WorkerCrashedError,
    )


class NodeLostError(PeerError):
    """The node or the agent on it is gone."""


async def settle(reference: Any, *, timeout_s: float, node: str) -> Any:
    """Wait for a call's result in an event loop.

    Args:
        reference: What `.remote()` returned.
        timeout_s: Deadline in seconds.
        node: Name of the node that was called, for errors.

    Raises:
        NodeLostError: The node or its agent is gone.
        TransferTimeoutError: No answer before the deadline.
        HubdistError: What the called method raised.
    """
    try:
        return await asyncio.wait_for(asyncio.wrap_future(reference.future()), timeout_s)
    except TimeoutError:
        raise TransferTimeoutError(f"no answer within {timeout_s:g} s", node=node) from None
    except ray_errors() as error:
        raise translated(error, node) from error


def translated(error: Exception, node: str | None) -> HubdistError:
    """The error of hubdist that an error of Ray stands for."""
    import ray.exceptions

    if isinstance(error, ray.exceptions.RayTaskError):
        return _from_task(error, node)
    if isinstance(error, lost_errors()):
        return NodeLostError("the node or the agent on it is gone", node=node)
    if isinstance(error, ray.exceptions.GetTimeoutError):
        return TransferTimeoutError("no answer before the deadline", node=node)
    if isinstance(error, (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError)):
        return StoreFullError("Ray's object store is full", need_bytes=0, free_bytes=0, node=node)
    return PeerError(f"{type(error).__name__} while talking to the node", node=node)


def _from_task(error: ray.exceptions.RayTaskError, node: str | None) -> HubdistError:
    import ray.exceptions

    cause = error.cause
    if isinstance(cause, HubdistError):
        return cause.with_context(node=node)
    if isinstance(cause, ray.exceptions.RayError):
        return translated(cause, node)
    return PeerError(f"the call failed with {type(cause).__name__}", node=node)  # its text may hold a secret


def stop_actor(actor: Any) -> None:
    """End an actor for good; harmless if it is gone."""
    import ray

    ray.kill(actor, no_restart=True)


def stop_this_actor() -> None:
    """End the actor that calls this, for good."""
    import ray

    stop_actor(ray.get_runtime_context().current_actor)
