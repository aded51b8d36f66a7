"""What all deliveries of a job share."""

from __future__ import annotations

from dataclasses import dataclass

from hubdist.cluster.coordinator.agent_pool import AgentPool
from hubdist.cluster.coordinator.cluster_view import ClusterView
from hubdist.cluster.coordinator.liveness import Liveness, LivenessTimes
from hubdist.cluster.coordinator.windows import Windows
from hubdist.config.schema import Config


@dataclass(frozen=True, slots=True)
class DeliveryContext:
    """What all deliveries of a job share.

    Attributes:
        cluster: Tells which nodes are alive.
        agents: Starts and lends agents.
        windows: Grants room for bytes in flight.
        liveness: Tells which nodes give no answer.
        times: How long nodes may give no answer, and how often the coordinator looks.
        config: The job's settings: bytes in flight and deadlines.
    """

    cluster: ClusterView
    agents: AgentPool
    windows: Windows
    liveness: Liveness
    times: LivenessTimes
    config: Config
