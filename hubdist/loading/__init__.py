"""Files of a model -> loaded SavedModel that can travel; the only home of tensorflow, which loads when it is needed."""

from hubdist.loading.changes import Changes, NodePath
from hubdist.loading.importing import import_modules
from hubdist.loading.lazy import Bundle, PartKind, Seal, unopened
from hubdist.loading.load_key import LoadKey, load_key
from hubdist.loading.loaded_models import LoadedModels
from hubdist.loading.locations import InPlace, Place, check_in_place
from hubdist.loading.open_model import open_model
from hubdist.loading.pickling import Travel, apply_changes
from hubdist.loading.ram import RamModel, copy_to_memory
from hubdist.loading.remote_tasks.assets import free_remote_assets

__all__ = [
    "Bundle",
    "Changes",
    "InPlace",
    "LoadKey",
    "LoadedModels",
    "NodePath",
    "PartKind",
    "Place",
    "RamModel",
    "Seal",
    "Travel",
    "apply_changes",
    "check_in_place",
    "copy_to_memory",
    "free_remote_assets",
    "import_modules",
    "load_key",
    "open_model",
    "unopened",
]
