"""The route tf-host: load a model onto TensorFlow workers without Ray, such as Colab's TPUs or parameter servers.

This process alone opens the files. TensorFlow reads the variables here because of `experimental_io_device`, which does
not cover assets: these are pushed to the workers (see `assets`). The workers need no files, no credentials and no
hubdist.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from hubdist.errors import ConfigError
from hubdist.loading.model_files import release_with
from hubdist.loading.ram_model import RamModel, copy_to_memory
from hubdist.loading.remote_tasks.assets import RemoteAssets, despite_removals, task_errors
from hubdist.loading.remote_tasks.tf_tasks import TfTasks, task_of
from hubdist.loading.tf_runtime import gc_paused, load_saved_model
from hubdist.store.snapshot import Snapshot


def load_on_tasks(
    tensorflow: Any,
    files: Snapshot | RamModel,
    tags: Sequence[str] | None,
    options: Mapping[str, Any],
    tasks: TfTasks,
) -> Any:
    """Load a model under the current device and strategy, whose tasks are not all in this process.

    The whole model is in this process's memory during the load, its assets as long as the model lives.

    Args:
        tensorflow: The module `tensorflow`.
        files: The model's files. They are copied to memory first, and a snapshot is not in use afterwards.
        tags: As for `load_saved_model`.
        options: As for `load_saved_model`; `experimental_io_device` becomes this process.
        tasks: This process's task, and the tasks to load onto.

    Raises:
        ConfigError: TensorFlow is not in eager mode, or the options name a reader other than this process.
        PeerError: A worker failed; the error names it.
        TransferTimeoutError: A worker did not answer in time; the error names it.
    """
    if not tensorflow.compat.v1.executing_eagerly_outside_functions():
        raise ConfigError(
            f"models are loaded onto {', '.join(tasks.others)} in TensorFlow's eager mode only",
            advice="Load outside of tf.Graph and without disable_eager_execution.",
        )
    options = {**options, "experimental_io_device": _own_reader(tensorflow, options, tasks)}
    # Nothing is collected meanwhile: workers refuse to remove functions that they never had, and a refusal that comes
    # while ops are under way may fail all ops after it.
    with gc_paused(), contextlib.ExitStack() as on_failure:
        ram = files if isinstance(files, RamModel) else RamModel(files.manifest)
        on_failure.callback(ram.release)
        if isinstance(files, Snapshot):
            copy_to_memory(files, ram)
            ram.finish()
            files.release()
        assets = RemoteAssets(ram, tasks.others)
        on_failure.callback(assets.release)
        assets.push()
        model = despite_removals(
            tensorflow, tasks.others, lambda: _load_from_memory(tensorflow, ram.path, tags, options, tasks)
        )
        ram.keep_assets()
        release_with(tensorflow, model, ram.release, assets.release)
        on_failure.pop_all()
    return model


def _load_from_memory(
    tensorflow: Any, path: str, tags: Sequence[str] | None, options: Mapping[str, Any], tasks: TfTasks
) -> Any:
    with task_errors(tensorflow, *tasks.others):
        if importlib.import_module("tensorflow.python.saved_model.load").is_tf2_saved_model(path):
            return load_saved_model(tensorflow, path, tags, options)
        return _load_tf1(tensorflow, path, tags, options)


def _own_reader(tensorflow: Any, options: Mapping[str, Any], tasks: TfTasks) -> str:
    asked = options.get("experimental_io_device")
    if asked is not None and task_of(tensorflow, asked, tasks.own) != tasks.own:
        raise ConfigError(
            f"experimental_io_device is {asked}, and only this process, {tasks.own}, has the model's files",
            advice="Leave it out of the options; hubdist sets it.",
        )
    return f"{tasks.own}/device:CPU:0"


def _load_tf1(tensorflow: Any, path: str, tags: Sequence[str] | None, options: Mapping[str, Any]) -> Any:
    """Load a model in TF1's format, for which TensorFlow ignores `experimental_io_device`.

    The variables are made on the worker, and then restored by a function that runs here. The tables are not objects
    but parts of the graph, found by name on the machine that calls a signature, so they are filled here too.
    Source: tensorflow 2.21.0, `saved_model/load_v1_in_v2.py`.
    """
    model = load_saved_model(tensorflow, path, tags, {**options, "experimental_skip_checkpoint": True})
    with tensorflow.device(options["experimental_io_device"]):
        if hasattr(model, "restore") and not options.get("experimental_skip_checkpoint"):
            model.restore(f"{path}/variables/variables")
        model.initializer._initialize()
    return model
