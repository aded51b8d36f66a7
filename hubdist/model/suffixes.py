"""What the ending of a name says: an archive, a single file, or the file that every SavedModel has.

This module alone decides that, for handles, origins, archives and the advice in errors.
"""

from __future__ import annotations

import enum

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
"""Endings of archives that hubdist unpacks."""

OTHER_ARCHIVE_SUFFIXES = (
    *(".tar.bz2", ".tbz", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".tar.lzma", ".tlz", ".tar.lz4", ".tar.z"),
    *(".7z", ".rar"),
)
"""Endings of archives whose formats hubdist does not read."""

MODEL_FILE_SUFFIXES = (
    *(".onnx", ".ort", ".onnx_data"),  # ONNX
    *(".keras", ".h5", ".hdf5", ".tflite", ".lite", ".task", ".litertlm", ".pb", ".pbtxt"),  # TensorFlow and Keras
    *(".pt", ".pth", ".pt2", ".ckpt", ".mar", ".nemo", ".safetensors"),  # PyTorch and others
    *(".gguf", ".ggml", ".llamafile"),  # llama.cpp
    *(".npz", ".npy", ".msgpack", ".pkl", ".pickle", ".joblib", ".skops"),  # Python: numpy, flax, scikit-learn
    *(".ubj", ".cbm", ".pmml", ".mlmodel", ".bst", ".lgb"),  # XGBoost, CatBoost, LightGBM, Core ML
    *(".engine", ".plan", ".trt", ".uff", ".rknn", ".dlc", ".hef", ".xmodel"),  # accelerators
    *(".pdmodel", ".pdparams", ".pdiparams", ".caffemodel", ".prototxt", ".weights", ".cfg", ".params", ".t7"),
    *(".bin", ".dat", ".data", ".vec", ".ftz", ".model", ".spm", ".vocab", ".json", ".jsonl", ".yaml", ".yml", ".xml"),
    *(".txt", ".csv", ".tsv", ".parquet", ".arrow", ".tfrecord", ".whl", ".jar"),
    *(".gz", ".bz2", ".xz", ".zst"),  # one file that is packed, which its framework unpacks
)
"""Endings of single files, of any framework.

The list decides for http(s) URLs only: there nothing else tells a file from a hub's handle, whose name ends in a
version, such as `/4` or `_b0.1`. Elsewhere one look at the storage decides.
"""

SAVED_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt")
"""Files of which every SavedModel has one, at its root."""


class Ending(enum.StrEnum):
    """The kinds of names that endings tell apart."""

    ARCHIVE = "archive"
    OTHER_ARCHIVE = "archive of a format that is not read"
    SAVED_MODEL = "the file of a SavedModel that names its directory"
    MODEL_FILE = "single file"
    OTHER = "anything"


def ending_of(path: str) -> Ending:
    """The kind of a name. Upper and lower case make no difference.

    Args:
        path: A path, or the path of a URL, without its query. A slash at the end is ignored.
    """
    name = path.rstrip("/").rpartition("/")[2].lower()
    if name in SAVED_MODEL_FILES:
        return Ending.SAVED_MODEL
    if name.endswith(ARCHIVE_SUFFIXES):
        return Ending.ARCHIVE
    if name.endswith(OTHER_ARCHIVE_SUFFIXES):
        return Ending.OTHER_ARCHIVE
    return Ending.MODEL_FILE if name.endswith(MODEL_FILE_SUFFIXES) else Ending.OTHER
