"""Open a model: from a snapshot, from memory or in place; in this process or on the workers that it drives."""

from __future__ import annotations

import contextlib
from typing import Any

from hubdist.loading.importing import import_tensorflow
from hubdist.loading.lifetime import hold_files
from hubdist.loading.load_key import LoadKey
from hubdist.loading.loading import load_files
from hubdist.loading.locations import InPlace, Place, in_place_errors
from hubdist.loading.operations import missing_operations
from hubdist.loading.pickling import Travel, let_travel
from hubdist.loading.ram import RamModel
from hubdist.loading.remote_tasks.load import load_on_hosts
from hubdist.loading.remote_tasks.tf_tasks import find_hosts
from hubdist.model.listing import not_a_model_error
from hubdist.model.manifest import Manifest
from hubdist.model.savedmodel import ModelKind, model_kind


def open_model(located: Place, key: LoadKey, travel: Travel) -> Any:
    """Load a SavedModel or TF1 hub module, as `hub.load` does.

    If the key's device, the current device or the current strategy lies in other TensorFlow tasks, this process reads
    the variables for them and pushes the assets to them.

    Source: tensorflow_hub 0.16.1, `module_v2.py`: `tags` defaults to `[]` for TF1 hub modules, and the object says
    by `_is_hub_module_v1` which of the two it is.

    Args:
        located: Where the model lies; it stays in use as long as the loaded object, or a function of it, lives. Of a
            `RamModel` the assets stay, the rest is freed after the load; all of it if the load fails.
        key: Tags, options and device.
        travel: How the object travels.

    Raises:
        NotAModelError: The directory holds other files.
        MissingOperationError: The model needs a package that nobody has imported.
        ConfigError: The device or an option does not fit this process.
        PeerError, TransferTimeoutError: A TensorFlow worker failed; it is named.
        ResolveError, OriginError: The files cannot be read in place.
    """
    with contextlib.ExitStack() as undo:
        if isinstance(located, RamModel):
            undo.callback(located.release)
        kind = _kind(located.manifest, key)
        tags = list(key.tags) if key.tags is not None else ([] if kind is ModelKind.HUB_MODULE else None)
        options = dict(key.options)
        tensorflow = import_tensorflow()
        hosts = find_hosts(tensorflow, key.device)
        device = contextlib.nullcontext() if key.device is None else tensorflow.device(key.device)
        with missing_operations(key.handle), device:
            if isinstance(located, InPlace):
                with in_place_errors(tensorflow, located.path):
                    model = load_files(tensorflow, located.path, tags, options)
            elif hosts.others:
                model = load_on_hosts(tensorflow, located, tags, options, hosts)
            else:
                model = load_files(tensorflow, str(located.path), tags, options)
                if isinstance(located, RamModel) and tensorflow.compat.v1.executing_eagerly_outside_functions():
                    located.keep_assets()  # in a graph the variables are read when a session runs their initializers
                hold_files(tensorflow, model, located.release)
        model._is_hub_module_v1 = kind is ModelKind.HUB_MODULE
        let_travel(tensorflow, model, key, travel)
        undo.pop_all()
        return model


def _kind(manifest: Manifest, key: LoadKey) -> ModelKind:
    paths = [entry.path for entry in manifest.entries]
    kind = model_kind(paths)
    if kind is ModelKind.OTHER:
        raise not_a_model_error(paths, key.handle)
    return kind
