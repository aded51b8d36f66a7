"""Files of a model -> loaded SavedModel that can travel; the only home of tensorflow, which loads when it is needed."""

from hubdist.models.assets import free_remote_assets
from hubdist.models.changes import Changes, NodePath
from hubdist.models.importing import import_modules
from hubdist.models.kept import LoadedModels
from hubdist.models.keys import LoadKey, load_key
from hubdist.models.lazy import Bundle, PartKind, Seal, unopened
from hubdist.models.opening import open_model
from hubdist.models.places import InPlace, Place, check_in_place
from hubdist.models.ram import RamModel, copy_to_memory
from hubdist.models.travel import Travel, apply_changes

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
