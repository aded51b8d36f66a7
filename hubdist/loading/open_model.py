"""Load a model's files into TensorFlow, in this process or onto the TensorFlow workers that it drives."""

from __future__ import annotations

import contextlib
from typing import Any

from hubdist.loading.load_key import LoadKey
from hubdist.loading.model_files import InPlaceModel, ModelFiles, release_with
from hubdist.loading.pickling import PickleHooks, make_picklable
from hubdist.loading.ram_model import RamModel
from hubdist.loading.remote_tasks.load import load_on_tasks
from hubdist.loading.remote_tasks.tf_tasks import find_tasks
from hubdist.loading.tf_errors import in_place_errors, missing_operations
from hubdist.loading.tf_runtime import import_tensorflow, load_saved_model
from hubdist.model.listing import not_a_model_error
from hubdist.model.manifest import Manifest
from hubdist.model.savedmodel import ModelKind, model_kind


def open_model(files: ModelFiles, key: LoadKey, hooks: PickleHooks) -> Any:
    """Load a SavedModel or TF1 hub module, as `hub.load` does.

    If the key's device, the current device or the current strategy lies in other TensorFlow tasks, this process reads
    the variables for them and pushes the assets to them.

    Source: tensorflow_hub 0.16.1, `module_v2.py`: `tags` defaults to `[]` for TF1 hub modules, and the object says
    by `_is_hub_module_v1` which of the two it is.

    Args:
        files: The model's files. A snapshot stays in use as long as the loaded object, or a function of it, lives. Of
            a `RamModel` the assets stay that long, and everything else is freed after the load; a failed load frees
            all of it.
        key: Tags, options and device.
        hooks: What pickles of the model call.

    Raises:
        NotAModelError: The directory holds other files.
        MissingOperationError: The model needs a package that nobody has imported.
        ConfigError: The device or an option does not fit this process.
        PeerError: A TensorFlow worker failed; the error names it.
        TransferTimeoutError: A TensorFlow worker did not answer in time; the error names it.
        ResolveError: The files of an `InPlaceModel` are not there, or may not be read.
        OriginError: The files of an `InPlaceModel` cannot be read for another reason.
    """
    with contextlib.ExitStack() as on_failure:
        if isinstance(files, RamModel):
            on_failure.callback(files.release)
        kind = _kind(files.manifest, key)
        tags = list(key.tags) if key.tags is not None else ([] if kind is ModelKind.HUB_MODULE else None)
        options = dict(key.options)
        tensorflow = import_tensorflow()
        tasks = find_tasks(tensorflow, key.device)
        device = contextlib.nullcontext() if key.device is None else tensorflow.device(key.device)
        with missing_operations(key.handle), device:
            if isinstance(files, InPlaceModel):
                with in_place_errors(tensorflow, files.path):
                    model = load_saved_model(tensorflow, files.path, tags, options)
            elif tasks.others:
                model = load_on_tasks(tensorflow, files, tags, options, tasks)
            else:
                model = load_saved_model(tensorflow, str(files.path), tags, options)
                # In a graph all files stay: a session reads the variables when it runs their initializers.
                if isinstance(files, RamModel) and tensorflow.compat.v1.executing_eagerly_outside_functions():
                    files.keep_assets()
                release_with(tensorflow, model, files.release)
        model._is_hub_module_v1 = kind is ModelKind.HUB_MODULE
        make_picklable(tensorflow, model, key, hooks)
        on_failure.pop_all()
        return model


def _kind(manifest: Manifest, key: LoadKey) -> ModelKind:
    paths = [entry.path for entry in manifest.entries]
    kind = model_kind(paths)
    if kind is ModelKind.OTHER:
        raise not_a_model_error(paths, key.handle)
    return kind
