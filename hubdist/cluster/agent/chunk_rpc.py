"""How bytes go from one agent to another: as many small results of one call.

Ray sends a result of at most 100 KiB inside the answer to the call, from process to process. A larger one goes through
the object stores of both nodes, which costs more than twice the processor time (`benchmarks/calls.py`). Source:
`max_direct_call_object_size` and `task_rpc_inlined_bytes_limit` in Ray's `src/ray/common/ray_config_def.h`. Where
somebody has set these lower, bytes take the slower way.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any

import cloudpickle
import ray
import ray.exceptions

from hubdist.cluster.calls import NodeLostError, translated
from hubdist.errors import HubdistError, PeerError, StoreError, TransferTimeoutError
from hubdist.model.chunks import Chunk

PART_BYTES = 8 << 20
"""Most bytes of one call's results: above 10 MiB Ray uses the object stores."""

SEND_GROUP = "giving"
"""The agents' threads for these calls, apart from those that wait for other agents' answers."""

_RESULT_BYTES = 96 << 10
"""Of one result, so that there is room for what Ray adds."""


class SenderLostError(PeerError):
    """The agent that should send is gone."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Whom an agent asks for a chunk.

    Attributes:
        agent: Handle of the agent that has it, by `pickle_agent`.
        stage: Where it lies while an origin is being read: the stage's name in that node's store; None if the agent
            takes part in the delivery.
        paths: Number of a file -> where it is, below the files of that stage.
        given_up: Ends when nobody wants the bytes from there any more. Made by the agent that asks; does not travel.
    """

    agent: bytes
    stage: str | None = None
    paths: Mapping[int, str] | None = None
    given_up: Future[None] | None = None


def pickle_agent(agent: Any) -> bytes:
    """An agent's handle, for others to call it.

    As bytes it costs Ray no bookkeeping in every call. It does not keep the agent alive; the coordinator does.
    """
    pickled: bytes = cloudpickle.dumps(agent)
    return pickled


@functools.lru_cache(maxsize=10_000)
def _agent(pickled: bytes) -> Any:
    return cloudpickle.loads(pickled)


def split_into_results(data: memoryview) -> tuple[bytes, ...]:
    """Bytes as results of a call."""
    count = _count(len(data))
    return tuple(bytes(data[at * _RESULT_BYTES : (at + 1) * _RESULT_BYTES]) for at in range(count))


def fetch(sender: Sender, delivery: str, part: Chunk, timeout_s: float) -> bytearray:
    """Ask another agent for bytes.

    Args:
        sender: Which.
        delivery: Names the delivery.
        part: Which bytes; at most `PART_BYTES`. They are not checked here.
        timeout_s: Deadline in seconds.

    Raises:
        IntegrityError: The other node does not have them.
        SenderLostError: The other agent is gone.
        TransferError: They did not come, or were given up.
    """
    agent, size = _agent(sender.agent), part.size
    options = {"num_returns": _count(size), "concurrency_group": SEND_GROUP, "enable_task_events": False}
    if sender.stage is None:
        results = agent.give.options(**options).remote(delivery, part)
    else:
        paths = [(sender.paths or {})[piece.entry_index] for piece in part.pieces]
        results = agent.give_staged.options(**options).remote(sender.stage, paths, part)
    deadline = time.monotonic() + timeout_s
    last, given_up = results[-1].future(), sender.given_up  # `ray.get` waits under a lock of the whole process
    wait({last} if given_up is None else {last, given_up}, timeout=timeout_s, return_when=FIRST_COMPLETED)
    if given_up is not None and given_up.done() and not last.done():  # Ray drops what comes later
        raise PeerError("the node that should send the chunk gives no answer, and others are asked for it")
    try:
        last.result(timeout=0)
        found = ray.get(results, timeout=max(1.0, deadline - time.monotonic()))  # all came with one answer
    except TimeoutError:
        raise TransferTimeoutError(f"the chunk did not come within {timeout_s:g} s") from None
    except ray.exceptions.RayError as error:
        raise sender_error(translated(error, None)) from error
    return bytearray().join(found)


def sender_error(error: HubdistError) -> HubdistError:
    """The error of a node that should send, for the one that should receive: its own agent and disk are well."""
    if isinstance(error, NodeLostError):
        return SenderLostError("the agent that should send the chunk is gone")
    if isinstance(error, StoreError):  # not this node's disk
        return PeerError(f"the node that should send the chunk cannot read it: {error.what}")
    return error


def _count(size: int) -> int:
    """How many results so many bytes take; at least two, for Ray does not take a single one apart."""
    return max(2, -(-size // _RESULT_BYTES))
