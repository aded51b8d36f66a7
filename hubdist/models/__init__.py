"""Files of a model -> loaded SavedModel that can travel; the only home of tensorflow, which loads when it is needed."""

from hubdist.models.assets import free_remote_assets
from hubdist.models.keys import LoadedModels, LoadKey, load_key
from hubdist.models.opening import open_model
from hubdist.models.places import InPlace, Place, check_in_place
from hubdist.models.ram import RamModel, copy_to_memory

__all__ = [
    "InPlace",
    "LoadKey",
    "LoadedModels",
    "Place",
    "RamModel",
    "check_in_place",
    "copy_to_memory",
    "free_remote_assets",
    "load_key",
    "open_model",
]
