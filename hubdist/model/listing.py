"""Tells from the names of its files alone what a directory or archive holds, before anybody reads it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from hubdist.errors import NotAModelError
from hubdist.model.inner_handles import inner_handle
from hubdist.model.paths import ARCHIVE_SUFFIXES, SAVED_MODEL_FILES, Ending, ending_of, fold_path

_SHOWN = 5
_SHARD = re.compile(r"\.data-\d{5}-of-\d{5}$")
_USE_CHECKPOINT = (
    "Build the model that it was written from and restore it with tf.train.Checkpoint, from the directory that"
    " hubdist.resolve(handle) gives; or export that model with tf.saved_model.save."
)
_USE_TFJS = (
    "Name the SavedModel that it was converted from, or use tensorflowjs with the directory that"
    " hubdist.resolve(handle) gives."
)
_TRANSFORMERS = {"tf_model.h5", "model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"}
_TOOLS = {
    ".tflite": ("a TFLite model", "tf.lite.Interpreter(model_path={path})"),
    ".lite": ("a TFLite model", "tf.lite.Interpreter(model_path={path})"),
    ".weights.h5": ("weights of a Keras model", "model.load_weights({path}) of the model that they belong to"),
    ".keras": ("a Keras model", "keras.models.load_model({path})"),
    ".h5": ("a Keras model or its weights", "keras.models.load_model({path}) or model.load_weights({path})"),
    ".hdf5": ("a Keras model or its weights", "keras.models.load_model({path}) or model.load_weights({path})"),
    ".onnx": ("an ONNX model", "onnxruntime.InferenceSession({path})"),
    ".gguf": ("a GGUF model", "llama_cpp.Llama({path})"),
    ".safetensors": ("a file of safetensors", "safetensors.safe_open({path}, framework=...)"),
    ".pt": ("a PyTorch file", "torch.load({path}, weights_only=True)"),
    ".pth": ("a PyTorch file", "torch.load({path}, weights_only=True)"),
    ".npz": ("arrays of numpy", "numpy.load({path})"),
    ".npy": ("an array of numpy", "numpy.load({path})"),
    ".pb": ("a graph without variables", "tf.compat.v1.GraphDef.FromString of the file {path}"),
}
"""Ending -> what the file is, and the code that reads it. The first ending that fits a file of the model counts."""


def saved_model_folders(paths: Iterable[str]) -> list[str]:
    """The directories that hold a SavedModel, "" for the root, sorted."""
    parts = (path.rpartition("/") for path in paths)
    return sorted({folder for folder, _, name in parts if name in SAVED_MODEL_FILES})


def served_versions(paths: Collection[str]) -> list[str]:
    """The versions of a model in the layout of TensorFlow Serving, the newest last; empty for another directory.

    In this layout there are at least two versions, each with a SavedModel, and nothing else but hidden files. A single
    version is a folder around a model, which `model_folder` finds.

    Source: TensorFlow Serving's documentation, "Serving a TensorFlow Model": <base path>/<version>/saved_model.pb.
    """
    names = {path.partition("/")[0] for path in paths if not path.startswith(".")}
    models = set(saved_model_folders(paths))
    if len(names) < 2 or any(not (name.isascii() and name.isdigit()) or name not in models for name in names):
        return []
    return sorted(names, key=lambda name: (int(name), name))


def check_versions(paths: Collection[str], handle: str) -> None:
    """Refuse a directory that holds several versions of a model, since a user wants one of them.

    Args:
        paths: All files below the directory.
        handle: The directory's handle without secrets.

    Raises:
        NotAModelError: The directory holds versions; the error names them.
    """
    if served_versions(paths):
        raise not_a_model_error(paths, handle)


def model_folder(paths: Collection[str]) -> str | None:
    """The only folder at the top if it is the model, else None.

    Beside the folder there may be what archives carry along: hidden files and folders, headers that old tars leave as
    files, and archives, such as one that was packed into its own folder. None if one of these has a name that is in the
    folder too, since the folder's content is moved up.
    """
    folders = saved_model_folders(paths)
    if len(folders) != 1 or not folders[0] or "/" in folders[0]:
        return None
    prefix = f"{folders[0]}/"
    inside = {fold_path(path.removeprefix(prefix).partition("/")[0]) for path in paths if path.startswith(prefix)}
    for path in paths:
        if path.startswith(prefix):
            continue
        top, is_folder, _ = path.partition("/")
        carried = top.startswith((".", "PaxHeader")) or top in ("__MACOSX", "pax_global_header")
        if not carried and (is_folder or ending_of(top) not in (Ending.ARCHIVE, Ending.OTHER_ARCHIVE)):
            return None
        if fold_path(top) in inside:
            return None
    return folders[0]


def not_a_model_error(paths: Collection[str], handle: str) -> NotAModelError:
    """The error for files that are not a SavedModel: what they are, and what to do with them.

    Args:
        paths: All files of the model.
        handle: The handle without secrets.
    """
    what, advice = _explained(sorted(paths), handle)
    return NotAModelError(what, handle=handle, advice=advice)


def _explained(paths: list[str], handle: str) -> tuple[str, str]:
    """What the files are, and advice."""
    versions = served_versions(paths)
    if versions:
        what = f"this is a directory of versions, as TensorFlow Serving has it: {_shown(versions)}"
        return what, _choice(handle, versions[-1])
    folders = saved_model_folders(paths)
    if folders:
        what = f"this is not a SavedModel, but one lies in each of these directories: {_shown(folders)}"
        return what, _choice(handle, folders[0])
    found = _recognised(paths)
    if found is not None:
        return f"this is not a SavedModel but {found[0]} ({_shown(paths)})", found[1]
    names = " nor ".join(SAVED_MODEL_FILES)
    what = f"this is not a SavedModel: it contains neither {names} among its {len(paths)} files"
    advice = "hubdist.resolve(handle) gives the directory for other frameworks."
    if len(paths) == 1:
        advice += f" An archive is unpacked if its name ends in one of {', '.join(ARCHIVE_SUFFIXES)}."
    return f"{what} ({_shown(paths)})", advice


def _recognised(paths: list[str]) -> tuple[str, str] | None:
    """What files of another kind are, and the code to use for them; None if hubdist does not know them."""
    names = {path.rpartition("/")[2] for path in paths}
    if "checkpoint" in names or (any(map(_SHARD.search, names)) and any(name.endswith(".index") for name in names)):
        return "a training checkpoint, which holds variables and no program", _USE_CHECKPOINT
    if "model.json" in names and any(name.endswith(".bin") for name in names):
        return "a TensorFlow.js model", _USE_TFJS
    if "config.json" in names and names & _TRANSFORMERS:
        return "a model of Hugging Face Transformers", "Use <its class>.from_pretrained(hubdist.resolve(handle))."
    for ending, (what, use) in _TOOLS.items():
        for path in paths:
            if path.lower().endswith(ending):
                return what, f"Use {use.format(path=_in_code(path))}."
    return None


def _choice(handle: str, directory: str) -> str:
    inner = inner_handle(handle, directory)
    if inner is None:
        return f"Load one of them, such as by tf.saved_model.load({_in_code(directory)})."
    return f"Name one of them, such as {inner}."


def _in_code(path: str) -> str:
    """The path of a file of the model as an expression of a program."""
    return f"hubdist.resolve(handle) + {f'/{path}'!r}"


def _shown(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
