"""Calls between processes of a cluster: each has a deadline, and each failure becomes an error of hubdist."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from hubdist.errors import HubdistError, NodeLostError, PeerError, StoreFullError, TransferTimeoutError

_LOG = logging.getLogger(__name__)

if TYPE_CHECKING:
    import ray.exceptions


def ray_errors() -> tuple[type[Exception], ...]:
    """The class of Ray's errors, for `except`; none in a process without Ray, where nothing raises them."""
    exceptions = sys.modules.get("ray.exceptions")
    return () if exceptions is None else (exceptions.RayError,)


def lost_errors() -> tuple[type[Exception], ...]:
    """The errors that Ray raises when the called actor, or its node, is gone."""
    import ray.exceptions

    return (
        ray.exceptions.RayActorError,
        ray.exceptions.ActorUnschedulableError,
        ray.exceptions.NodeDiedError,
        ray.exceptions.WorkerCrashedError,
    )


async def settle(reference: Any, *, timeout_s: float, node: str) -> Any:
    """Wait in an event loop for the result of a call.

    Args:
        reference: What `.remote()` returned.
        timeout_s: Deadline in seconds.
        node: Name of the node that was called, for errors.

    Raises:
        NodeLostError: The node or its agent is gone.
        TransferTimeoutError: No answer before the deadline.
        HubdistError: The called method raised this.
    """
    try:
        return await asyncio.wait_for(asyncio.wrap_future(reference.future()), timeout_s)
    except ray_errors() as error:  # first: what Ray makes of a TransferTimeoutError is a TimeoutError too
        raise translated(error, node) from error
    except TimeoutError:
        raise TransferTimeoutError(f"no answer within {timeout_s:g} s", node=node) from None


def result_of(reference: Any, timeout_s: float) -> Any:
    """Wait in a thread for the result of a call, as `ray.get` does, and with its errors.

    In an actor with an event loop Ray warns of the first `ray.get`, whatever the thread. A thread of its own, such as
    that of `load_async`, blocks no loop, so that it waits in another way.

    Args:
        reference: What `.remote()` returned: a reference, or a list of them.
        timeout_s: Deadline in seconds.

    Raises:
        GetTimeoutError: No answer before the deadline.
        RayError: The call failed.
    """
    import ray
    import ray.exceptions

    if threading.current_thread() is threading.main_thread() or _runs_a_loop():
        return ray.get(reference, timeout=timeout_s)
    deadline = time.monotonic() + timeout_s
    futures = [each.future() for each in (reference if isinstance(reference, list) else [reference])]
    try:
        results = [future.result(max(0.0, deadline - time.monotonic())) for future in futures]
        return results if isinstance(reference, list) else results[0]
    except ray.exceptions.RayError:  # first: what Ray makes of a TransferTimeoutError is a TimeoutError too
        raise
    except TimeoutError:
        raise ray.exceptions.GetTimeoutError(f"no answer within {timeout_s:g} s") from None


def _runs_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def translated(error: Exception, node: str | None) -> HubdistError:
    """The error of hubdist that an error of Ray stands for.

    Args:
        error: What Ray raised.
        node: Name of the node that was called; None if it is not known.
    """
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
    return PeerError(
        f"the call failed with {type(cause).__name__}", node=node
    )  # without its text, which may hold a secret


def unexpected_error(error: Exception, doing: str) -> PeerError:
    """Log an error that hubdist did not foresee; returns an error that stands for it, without its text.

    The text of an unknown error may hold a secret, so the log gets its type and the place where it was raised.

    Args:
        error: What was caught.
        doing: What was being done, as words that follow "while".
    """
    name, where = type(error).__name__, "".join(traceback.format_tb(error.__traceback__))
    _LOG.error("hubdist: unexpected %s while %s:\n%s", name, doing, where)
    return PeerError(
        f"unexpected {name} while {doing}",
        advice="The coordinator's log has more. It is a fault of hubdist: please report it.",
    )


def share(value: Any) -> Any:
    """Put a value into Ray's object store; the reference that is returned stands for the value in calls."""
    import ray

    return ray.put(value)


def stop_actor(actor: Any) -> None:
    """End an actor for good; does nothing if the actor is gone."""
    import ray

    ray.kill(actor, no_restart=True)


def stop_this_actor() -> None:
    """End the actor that calls this, for good."""
    import ray

    stop_actor(ray.get_runtime_context().current_actor)
