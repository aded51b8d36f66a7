"""How an agent gets bytes from another agent: as many small results of one actor call.

Ray sends a result of at most 100 KiB inside the answer to the call, from process to process. A larger result goes
through the object stores of both nodes, which costs more than twice the processor time (`benchmarks/calls.py`). Source:
`max_direct_call_object_size` and `task_rpc_inlined_bytes_limit` in Ray's `src/ray/common/ray_config_def.h`. In a
cluster where these limits are set lower, the bytes go through the object stores.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any

import cloudpickle

from hubdist.cluster.calls import ray_errors, translated
from hubdist.errors import (
    HubdistError,
    NodeLostError,
    PeerError,
    SenderLostError,
    StoreError,
    TransferTimeoutError,
)
from hubdist.model.chunks import Chunk

PART_BYTES = 8 << 20
"""Most bytes of one call's results: above 10 MiB Ray uses the object stores."""

SEND_GROUP = "sending"
"""The agents' threads that send chunks. They are apart from the threads that fetch: otherwise agents whose threads all
wait for each other's chunks would never answer."""

ANSWER_GROUP = "answering"
"""The agents' threads for calls that must not queue behind others; such calls take no time."""


@dataclass(frozen=True, slots=True)
class SenderTimes:
    """How long an agent may give no answer.

    Attributes:
        quiet_s: When a call has no answer after this many seconds, the agent is asked whether it lives.
        silent_s: An agent that does not say within this many seconds that it lives is taken for dead.
    """

    quiet_s: float = 1.0
    silent_s: float = 2.0


_TIMES = SenderTimes()
_DESCRIBE_S = 30.0
_RESULT_BYTES = 96 << 10
"""Size of one result; below 100 KiB, because Ray adds some bytes of its own."""


RequestPart = Callable[["Sender", str, Chunk, float], bytearray]
"""As `request_part`."""

DescribeUnit = Callable[["Sender", str, int], Chunk | int | None]
"""As `describe_unit`."""


@dataclass(frozen=True, slots=True)
class Sender:
    """The agent that another agent asks for a chunk.

    Attributes:
        agent: Handle of the agent that has the chunk, made by `pickle_agent`.
        address: Host and port where the agent sends chunks; None if it has no port.
        cancelled: Done when nobody wants the bytes from this sender any more. The asking agent makes it; it is not
            sent with the call.
    """

    agent: bytes
    address: tuple[str, int] | None = None
    cancelled: Future[None] | None = None


def pickle_agent(agent: Any) -> bytes:
    """Return an agent's handle as bytes, with which other agents can call that agent.

    Bytes cost Ray no bookkeeping in every call, which a handle would. They do not keep the agent alive; the
    coordinator does.
    """
    pickled: bytes = cloudpickle.dumps(agent)
    return pickled


@functools.lru_cache(maxsize=10_000)
def load_agent(pickled: bytes) -> Any:
    """Return the agent's handle that `pickle_agent` made bytes of."""
    return cloudpickle.loads(pickled)


def split_into_results(data: memoryview) -> tuple[bytes, ...]:
    """Split bytes into the results of one call."""
    count = result_count(len(data))
    return tuple(bytes(data[at * _RESULT_BYTES : (at + 1) * _RESULT_BYTES]) for at in range(count))


def _get(results: Sequence[Any], timeout: float) -> list[bytes]:
    """Return the results of references; imports Ray, which a process without actors does not need."""
    import ray

    found: list[bytes] = ray.get(results, timeout=timeout)
    return found


def request_part(
    sender: Sender,
    delivery: str,
    part: Chunk,
    timeout_s: float,
    *,
    load_agent: Callable[[bytes], Any] = load_agent,
    get_results: Callable[..., list[bytes]] = _get,
    times: SenderTimes = _TIMES,
) -> bytearray:
    """Ask another agent for bytes of a chunk, and wait for them.

    Args:
        sender: The agent to ask.
        delivery: Name of the delivery.
        part: Which bytes; at most `PART_BYTES`. The caller checks them.
        timeout_s: Deadline in seconds.
        load_agent: Turns `Sender.agent` into a handle; tests pass a fake.
        get_results: Returns the results of references, as `ray.get`; tests pass a fake.
        times: How long the agent may give no answer.

    Raises:
        IntegrityError: The sender does not have the bytes.
        SenderLostError: The sending agent is gone.
        TransferError: The bytes did not come in time, or the request was cancelled.
    """
    agent, size = load_agent(sender.agent), part.size
    options = {"num_returns": result_count(size), "concurrency_group": SEND_GROUP, "enable_task_events": False}
    results = agent.send.options(**options).remote(delivery, part)
    deadline = time.monotonic() + timeout_s
    # `ray.get` holds a lock of the whole process while it waits, so only results that have come are got with it.
    last = results[-1].future()
    try:
        _wait(last, agent, sender.cancelled, timeout_s, times)
        last.result(timeout=0)
        # One answer carries all results, so the others are there too.
        found = get_results(results, timeout=max(1.0, deadline - time.monotonic()))
    except ray_errors() as error:  # first: Ray's copy of a TransferTimeoutError is a TimeoutError too
        raise sender_error(translated(error, None)) from error
    return bytearray().join(found)


def describe_unit(
    sender: Sender,
    delivery: str,
    number: int,
    *,
    load_agent: Callable[[bytes], Any] = load_agent,
    times: SenderTimes = _TIMES,
) -> Chunk | int | None:
    """Ask another agent for the chunk of a unit.

    Args:
        sender: The agent to ask.
        delivery: Name of the delivery.
        number: The unit.
        load_agent: Turns `Sender.agent` into a handle; tests pass a fake.
        times: How long the agent may give no answer.

    Returns:
        The number of units if the delivery has fewer; None if the agent has not got the unit yet.

    Raises:
        SenderLostError: The agent is gone.
        PeerError: The agent takes no part in the delivery, or the request was cancelled.
        TransferTimeoutError: The agent gives no answer.
    """
    agent = load_agent(sender.agent)
    options = {"concurrency_group": SEND_GROUP, "enable_task_events": False}
    call = agent.describe_unit.options(**options).remote(delivery, number).future()
    try:
        _wait(call, agent, sender.cancelled, _DESCRIBE_S, times)
        found: Chunk | int | None = call.result(timeout=0)
    except ray_errors() as error:
        raise sender_error(translated(error, None)) from error
    return found


def _wait(call: Future[Any], agent: Any, cancelled: Future[None] | None, timeout_s: float, times: SenderTimes) -> None:
    """Wait until a call has its answer; not for an agent that is dead, however long the answer may take.

    A host that is gone closes no connection, so Ray notices its death only after a minute.
    """
    deadline = time.monotonic() + timeout_s
    lives: Future[Any] | None = None
    while not call.done():
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TransferTimeoutError(f"what another agent was asked for did not come within {timeout_s:g} s")
        others = {each for each in (cancelled, lives) if each is not None}
        wait({call, *others}, min(left_s, times.quiet_s if lives is None else times.silent_s), FIRST_COMPLETED)
        if call.done():
            return
        if cancelled is not None and cancelled.done():  # Ray drops results that come later
            raise PeerError("the node that should send gives no answer, and others are asked")
        if lives is None:
            options = {"concurrency_group": ANSWER_GROUP, "enable_task_events": False}
            lives = agent.answer.options(**options).remote().future()
        elif not lives.done():
            raise TransferTimeoutError("the node that should send gives no answer")
        else:
            lives.result(timeout=0)
            lives = None


def sender_error(error: HubdistError) -> HubdistError:
    """Translate a sender's error for the receiver, so that the receiver does not blame its own agent or disk."""
    if isinstance(error, NodeLostError):
        return SenderLostError("the agent that should send the chunk is gone")
    if isinstance(error, StoreError):  # the sender's disk, while a StoreError means the receiver's
        return PeerError(f"the node that should send the chunk cannot read it: {error.what}")
    return error


def result_count(size: int) -> int:
    """How many results carry `size` bytes; at least two, because Ray does not unpack the tuple of a single result."""
    return max(2, -(-size // _RESULT_BYTES))
