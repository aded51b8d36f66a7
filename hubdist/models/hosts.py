"""Which TensorFlow workers a load reaches, seen from this process."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from hubdist.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Hosts:
    """The tasks of a TensorFlow cluster that a load touches.

    Attributes:
        own: This process's own task, `/job:localhost/replica:0/task:0` if it is in no cluster.
        others: The tasks of other processes whose devices the model's variables or functions live on, sorted.
    """

    own: str
    others: tuple[str, ...]


def find_hosts(tensorflow: Any, device: str | None) -> Hosts:
    """The tasks that a load under a device, and under the current strategy, reaches.

    Of the strategies, only those that one process drives reach others: a TPU or parameter server strategy. Each
    worker of a `MultiWorkerMirroredStrategy` is a process of its own that loads for itself.

    Args:
        tensorflow: The module.
        device: As in `LoadKey`; None for the device of the current `tf.device`.

    Raises:
        ConfigError: There is no such device in this process or in the cluster that it is connected to.
    """
    context = importlib.import_module("tensorflow.python.eager.context").context()
    own = task_of(tensorflow, context.host_address_space(), "")
    known = {task_of(tensorflow, known.name, own) for known in tensorflow.config.list_logical_devices()}
    names = {task_of(tensorflow, name, own) for name in (device, context.device_name) if name}
    if tensorflow.distribute.has_strategy():
        strategy = tensorflow.distribute.get_strategy()
        if isinstance(strategy, tensorflow.distribute.experimental.ParameterServerStrategy):
            names |= known  # all that it is connected to; the strategy names its devices without their jobs
        else:
            devices = {*strategy.extended.worker_devices, *strategy.extended.parameter_devices}
            names |= {task_of(tensorflow, name, own) for name in devices}
    for name in sorted(names - known - {own}):
        raise ConfigError(
            f"this process knows no TensorFlow worker {name}; it knows {', '.join(sorted({own, *known}))}",
            advice="Call tf.config.experimental_connect_to_host or experimental_connect_to_cluster before the load.",
        )
    return Hosts(own, tuple(sorted(names - {own})))


def task_of(tensorflow: Any, device: str, own: str) -> str:
    """The task of a device, `/job:<job>/replica:<n>/task:<n>`; without a job, or as `localhost`, it is `own`."""
    spec = tensorflow.DeviceSpec.from_string(device)
    if own and spec.job in (None, "localhost"):
        return own
    return f"/job:{spec.job}/replica:{spec.replica or 0}/task:{spec.task or 0}"
