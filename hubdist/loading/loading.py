"""`tf.saved_model.load`, with what it takes to load any model well."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from hubdist.loading.keras2 import keras2_optimizers
from hubdist.loading.pause import garbage_collection_paused


def load_files(tensorflow: Any, path: str, tags: Sequence[str] | None, options: Mapping[str, Any]) -> Any:
    """Load a directory.

    Args:
        tensorflow: The module.
        path: Any path that TensorFlow opens.
        tags: The MetaGraph's tags; None for the only one.
        options: Fields of `tf.saved_model.LoadOptions`.
    """
    made = tensorflow.saved_model.LoadOptions(**options) if options else None
    load = functools.partial(tensorflow.saved_model.load, path, tags=tags, options=made)
    with garbage_collection_paused():
        try:
            return load()
        except AttributeError as error:
            if "add_slot" not in str(error):
                raise
            with keras2_optimizers():
                return load()
