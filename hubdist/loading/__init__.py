"""A model's files -> a loaded SavedModel that can be pickled, copied and shared; the only home of tensorflow.

TensorFlow is imported by the first load and not by the import of this package.
"""

from hubdist.loading.lazy import ModelReference, PartKind, PartReference, unopened
from hubdist.loading.load_key import LoadKey, load_key
from hubdist.loading.loaded_models import LoadedModels
from hubdist.loading.model_files import InPlaceModel, ModelFiles, check_in_place
from hubdist.loading.open_model import open_model
from hubdist.loading.pickling import PickleHooks, apply_changes, key_of, unwritten_variables
from hubdist.loading.ram_model import RamModel, copy_to_memory
from hubdist.loading.remote_tasks.assets import free_remote_assets
from hubdist.loading.signature_call import SignatureCall
from hubdist.loading.state.parts import Changes, NodePath
from hubdist.loading.tensor_values import Values
from hubdist.loading.tf_limits import TensorFlowLimits
from hubdist.loading.tf_runtime import import_modules, import_tensorflow

__all__ = [
    "Changes",
    "InPlaceModel",
    "LoadKey",
    "LoadedModels",
    "ModelFiles",
    "ModelReference",
    "NodePath",
    "PartKind",
    "PartReference",
    "PickleHooks",
    "RamModel",
    "SignatureCall",
    "TensorFlowLimits",
    "Values",
    "apply_changes",
    "check_in_place",
    "copy_to_memory",
    "free_remote_assets",
    "import_modules",
    "import_tensorflow",
    "key_of",
    "load_key",
    "open_model",
    "unopened",
    "unwritten_variables",
]
