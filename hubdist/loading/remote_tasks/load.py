"""tf-host: load a model onto TensorFlow workers that no Ray runs on, such as Colab's TPUs or parameter servers.

The files are opened by this process alone. Variables go through `experimental_io_device`; assets, which it does not
cover, are pushed (see `assets`). The workers need no files, no rights and no hubdist.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from hubdist.errors import ConfigError
from hubdist.loading.lifetime import hold_files
from hubdist.loading.loading import load_files
from hubdist.loading.ram import RamModel, copy_to_memory
from hubdist.loading.remote_tasks.assets import RemoteAssets, host_errors
from hubdist.loading.remote_tasks.tf_tasks import TfTasks, task_of
from hubdist.store.snapshot import Snapshot


def load_on_hosts(
    tensorflow: Any,
    located: Snapshot | RamModel,
    tags: Sequence[str] | None,
    options: Mapping[str, Any],
    hosts: TfTasks,
) -> Any:
    """Load a model under the current device and strategy, whose tasks are not all in this process.

    The whole model is in this process's memory during the load, its assets as long as the model lives.

    Args:
        tensorflow: The module.
        located: The files. All is copied; a snapshot is not in use afterwards.
        tags: As for `load_files`.
        options: As for `load_files`; `experimental_io_device` becomes this process.
        hosts: The tasks.

    Raises:
        ConfigError: TensorFlow is not in eager mode, or the options name a reader other than this process.
        PeerError, TransferTimeoutError: A worker failed; it is named.
    """
    if not tensorflow.compat.v1.executing_eagerly_outside_functions():
        raise ConfigError(
            f"models are loaded onto {', '.join(hosts.others)} in TensorFlow's eager mode only",
            advice="Load outside of tf.Graph and without disable_eager_execution.",
        )
    options = {**options, "experimental_io_device": _own_reader(tensorflow, options, hosts)}
    with contextlib.ExitStack() as undo:
        ram = located if isinstance(located, RamModel) else RamModel(located.manifest)
        undo.callback(ram.release)
        if isinstance(located, Snapshot):
            copy_to_memory(located, ram)
            ram.finish()
            located.release()
        assets = RemoteAssets(ram, hosts.others)
        undo.callback(assets.release)
        assets.push()
        with host_errors(tensorflow, *hosts.others):
            if importlib.import_module("tensorflow.python.saved_model.load").is_tf2_saved_model(ram.path):
                model = load_files(tensorflow, ram.path, tags, options)
            else:
                model = _load_tf1(tensorflow, ram.path, tags, options)
        ram.keep_assets()
        hold_files(tensorflow, model, ram.release, assets.release)
        undo.pop_all()
    return model


def _own_reader(tensorflow: Any, options: Mapping[str, Any], hosts: TfTasks) -> str:
    asked = options.get("experimental_io_device")
    if asked is not None and task_of(tensorflow, asked, hosts.own) != hosts.own:
        raise ConfigError(
            f"experimental_io_device is {asked}, and only this process, {hosts.own}, has the model's files",
            advice="Leave it out of the options; hubdist sets it.",
        )
    return f"{hosts.own}/device:CPU:0"


def _load_tf1(tensorflow: Any, path: str, tags: Sequence[str] | None, options: Mapping[str, Any]) -> Any:
    """Load a model in TF1's format, for which TensorFlow ignores `experimental_io_device`.

    Its variables are made on the worker and then restored by a function that runs here. Its tables are not objects
    but parts of the graph, found by name on whatever machine a signature is called from: they are filled here too.
    Source: tensorflow 2.21.0, `saved_model/load_v1_in_v2.py`.
    """
    model = load_files(tensorflow, path, tags, {**options, "experimental_skip_checkpoint": True})
    with tensorflow.device(options["experimental_io_device"]):
        if hasattr(model, "restore") and not options.get("experimental_skip_checkpoint"):
            model.restore(f"{path}/variables/variables")
        model.initializer._initialize()
    return model
