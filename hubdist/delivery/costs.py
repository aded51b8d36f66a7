"""What a delivery costs beside its links: processor time for each byte, calls of the coordinator, starts of agents.

Each figure says which command of the repository measures it. The defaults are those of a virtual machine with two
cores; newer processors need about half of the seconds. `predict` of `hubdist.delivery.what_if` computes with them.
"""

from __future__ import annotations

from dataclasses import dataclass

SHARED_ROUNDS = 60
"""`Costs.uneven` is measured over so many round trips. Over more of them shares become more even, with the square root
of their number, as the mean of many draws does."""

SHARED_BY = 8
"""`Costs.uneven` is measured with so many streams. Of fewer draws the least is not as far below the mean."""

MAX_UNEVEN = 0.5
"""Shares are never taken for more uneven than this."""


@dataclass(frozen=True, slots=True)
class Costs:
    """The figures that a prediction computes with.

    Attributes:
        receive_s_per_mib: Processor seconds of a node for each MiB that it receives, checks and writes.
            `benchmarks/streams.py`, 8 connections, without the sender's.
        send_s_per_mib: Processor seconds of a node for each MiB that it sends. `benchmarks/streams.py`, the last
            column.
        payload_part: Part of a link's bytes that are bytes of a model; the rest is headers of Ethernet, IP and TCP, and
            acknowledgements. `benchmarks/calibrate.py`: one plain copy over a link of 100 Mbit/s.
        uneven: Which part less than an even share of the source's link the slowest of its streams gets, and the fastest
            more, over `SHARED_ROUNDS` round trips. `benchmarks/calibrate.py`: eight connections to eight hosts.
        queue_s: Seconds that bytes wait before a full link, which is its round trip, and the pace at which TCP corrects
            shares. Simulated hosts have a queue of 0.1 s.
        call_s: Processor seconds of the coordinator for one call of an agent and its answer, with an even share of its
            other work for the node. `benchmarks/calibrate.py`: many models of one unit to two and to eight nodes.
        calls_per_node: Calls of each node's agent in one delivery: to receive, and to forget.
        first_calls_per_node: The same of agents that have just started: begin, follow, wait for news, forget.
        start_s: Seconds that a delivery to no node would take. `benchmarks/calibrate.py`, to all nodes of a cluster.
        node_s: Processor seconds of a node for one delivery, whatever its size: threads, connections, publishing.
            `benchmarks/calibrate.py`.
        agent_start_s: Seconds that the first delivery of a job takes longer: the coordinator and agents start.
            `benchmarks/calibrate.py`.
        agents_per_s: How many agents start in a second, after the first. Ray's own benchmark of many actors says 500 to
            570.
    """

    receive_s_per_mib: float = 0.0015
    send_s_per_mib: float = 0.0002
    payload_part: float = 0.956
    uneven: float = 0.2
    queue_s: float = 0.001
    call_s: float = 0.0015
    calls_per_node: int = 2
    first_calls_per_node: int = 4
    start_s: float = 0.017
    node_s: float = 0.0087
    agent_start_s: float = 0.9
    agents_per_s: float = 550.0
