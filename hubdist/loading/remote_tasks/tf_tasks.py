"""The tasks of a TensorFlow cluster that a load reaches from this process, and whether they can be reached."""

from __future__ import annotations

import importlib
import socket
import time
from dataclasses import dataclass
from typing import Any

from hubdist.errors import ConfigError, PeerError

_START_S = 30.0
"""How long workers may take to start. TensorFlow itself waits for them at its first op, without an end."""

_CONNECT_S = 10.0


@dataclass(frozen=True, slots=True)
class TfTasks:
    """The tasks of a TensorFlow cluster that a load touches.

    Attributes:
        own: This process's own task; `/job:localhost/replica:0/task:0` if the process is not in a cluster.
        others: The tasks of other processes whose devices the model's variables or functions live on, sorted.
    """

    own: str
    others: tuple[str, ...]


def find_tasks(tensorflow: Any, device: str | None) -> TfTasks:
    """The tasks that a load reaches under a device, and under the current strategy.

    Only strategies that one process drives for all reach other processes: a TPU or parameter server strategy. Each
    worker of a `MultiWorkerMirroredStrategy` is a process that loads for itself.

    Args:
        tensorflow: The module `tensorflow`.
        device: As in `LoadKey`; None for the device of the current `tf.device`.

    Raises:
        ConfigError: Neither this process nor the cluster that it is connected to has such a device.
        PeerError: Nobody listens at the address of a task; the error names it.
    """
    eager = importlib.import_module("tensorflow.python.eager.context")
    context = eager.context()
    if context._context_handle is None:  # the first op connects, and would wait for ever, and all threads with it
        _connect(_addresses(eager.get_server_def()), _START_S)
    own = task_of(tensorflow, context.host_address_space(), "")
    known = {task_of(tensorflow, known.name, own) for known in tensorflow.config.list_logical_devices()}
    names = {task_of(tensorflow, name, own) for name in (device, context.device_name) if name}
    if tensorflow.distribute.has_strategy():
        strategy = tensorflow.distribute.get_strategy()
        if isinstance(strategy, tensorflow.distribute.experimental.ParameterServerStrategy):
            names |= known  # all tasks: the strategy names its devices without their jobs
        else:
            devices = {*strategy.extended.worker_devices, *strategy.extended.parameter_devices}
            names |= {task_of(tensorflow, name, own) for name in devices}
    for name in sorted(names - known - {own}):
        raise ConfigError(
            f"this process knows no TensorFlow worker {name}; it knows {', '.join(sorted({own, *known}))}",
            advice="Call tf.config.experimental_connect_to_host or experimental_connect_to_cluster before the load.",
        )
    others = tuple(sorted(names - {own}))
    reach_tasks(*others)
    return TfTasks(own, others)


def reach_tasks(*tasks: str) -> None:
    """Check that somebody listens at the addresses of tasks: an op would wait without an end for a task that is gone.

    Args:
        tasks: Names of tasks, `/job:<job>/replica:<n>/task:<n>`.

    Raises:
        PeerError: Nobody listens there; the error names the task.
    """
    addresses = _addresses(importlib.import_module("tensorflow.python.eager.context").get_server_def())
    _connect({task: addresses[task] for task in tasks if task in addresses}, 0)


def task_of(tensorflow: Any, device: str, own: str) -> str:
    """The name of a device's task, `/job:<job>/replica:<n>/task:<n>`.

    Args:
        tensorflow: The module `tensorflow`.
        device: A device, as `tf.DeviceSpec` reads it.
        own: This process's task, which a device without a job, or of the job `localhost`, belongs to; "" to take the
            device's text as it is.
    """
    spec = tensorflow.DeviceSpec.from_string(device)
    if own and spec.job in (None, "localhost"):
        return own
    return f"/job:{spec.job}/replica:{spec.replica or 0}/task:{spec.task or 0}"


def _addresses(server: Any) -> dict[str, tuple[str, int]]:
    """The other tasks of a TensorFlow `ServerDef` (None for no cluster), and the address where each listens."""
    if server is None or not server.protocol.startswith("grpc"):
        return {}
    tasks = {(job.name, index): address for job in server.cluster.job for index, address in job.tasks.items()}
    tasks.pop((server.job_name, server.task_index), None)
    addresses = {}
    for (job, index), address in tasks.items():
        host, _, port = address.rpartition(":")
        if host and port.isdigit():
            addresses[f"/job:{job}/replica:0/task:{index}"] = host.strip("[]"), int(port)
    return addresses


def _connect(addresses: dict[str, tuple[str, int]], wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    for task, address in addresses.items():
        while True:
            try:
                socket.create_connection(address, timeout=_CONNECT_S).close()
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise PeerError(
                        f"the TensorFlow worker {task} cannot be reached at {address[0]}:{address[1]}: {error}",
                        advice="Is its tf.distribute.Server running? Connect to it again, then load.",
                    ) from error
                time.sleep(0.2)  # nothing tells when somebody begins to listen
