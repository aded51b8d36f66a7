"""Paths: which paths of a model's files are safe and portable, which clash, what `~` means, and what endings say.

This module alone decides what an ending says (an archive, a single file, or the file that every SavedModel has), for
handles, origins, archives and the advice in errors.
"""

from __future__ import annotations

import enum
import unicodedata
from pathlib import Path

from hubdist.errors import ConfigError, UnsafeArchiveError

_MAX_PATH_BYTES = 1024
_MAX_NAME_BYTES = 255
_MAX_DEPTH = 32
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


def expand_home(text: str, setting: str) -> Path:
    """The path that a user wrote, with `~` expanded.

    Args:
        text: The path.
        setting: The setting whose value the path is, for errors.

    Raises:
        ConfigError: The path begins with `~`, and the home directory is not known here, as in a container whose user
            has neither `HOME` nor a line in /etc/passwd.
    """
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        path = None
    if path is None or (text.startswith("~") and not path.is_absolute()):
        raise ConfigError(
            f"no home directory is known for {text!r}, the value of {setting}",
            advice=f"Set {setting} to an absolute path, or HOME to a directory that this user may write to.",
        )
    return path


def drivers_path(text: str, setting: str, base_dir: Path | None) -> Path:
    """The path on the driver's disk that a user wrote.

    Args:
        text: The path; `~` is expanded.
        setting: The setting whose value the path is, for errors.
        base_dir: The directory of the driver, which relative paths are relative to; None if it is not known here.

    Raises:
        ConfigError: The path is relative and `base_dir` is None, or it begins with `~` and no home directory is known.
    """
    path = expand_home(text, setting)
    if path.is_absolute():
        return path
    if base_dir is None:
        raise ConfigError(
            f"{setting} is the relative path {text!r}, and the driver's directory is not known here",
            advice=f"Set {setting} to an absolute path, or call hubdist.init in the driver.",
        )
    return base_dir / path


def check_entry_path(path: str) -> str:
    """Return `path` if it is a safe, portable path below a model's directory.

    Safe: relative, `/` between names, no empty, `.` or `..` name, no backslash, no control character, encodable as
    UTF-8, names of at most 255 bytes, at most 1,024 bytes and 32 names in all.

    Raises:
        UnsafeArchiveError: The path is not safe and portable. The message shows it escaped and cut.
    """
    shown = repr(path[:100])
    try:
        encoded = path.encode("utf-8")
    except UnicodeEncodeError:
        raise UnsafeArchiveError(f"the file name {shown} is not UTF-8") from None
    names = path.split("/")
    if len(encoded) > _MAX_PATH_BYTES or len(names) > _MAX_DEPTH:
        raise UnsafeArchiveError(f"the file name {shown} is too long or too deep")
    if any(ord(char) < 32 or ord(char) == 127 or char == "\\" for char in path):
        raise UnsafeArchiveError(f"the file name {shown} holds a control character or a backslash")
    for name in names:
        if name in ("", ".", "..") or len(name.encode("utf-8")) > _MAX_NAME_BYTES:
            raise UnsafeArchiveError(f"the file name {shown} may leave the model's directory or is not portable")
    return path


def fold_path(path: str) -> str:
    """The path as file systems compare names that ignore case and the composition of letters, as macOS's do.

    Two paths that fold to the same text are one file there.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


class PathSet:
    """The paths of one model while they come in: refuses those that clash.

    Two clash if they are equal, if they are one file on some systems, or if one is a file where the other needs a
    directory.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[str, bool]] = {}

    def repeats(self, path: str) -> bool:
        """True if a file with exactly this path was added before."""
        return self._kinds.get(fold_path(path)) == (path, True)

    def add_file(self, path: str) -> None:
        """Add the path of a file, and its parents as directories.

        Raises:
            UnsafeArchiveError: The path is unsafe or clashes with one that was added before.
        """
        check_entry_path(path)
        names = path.split("/")
        for depth in range(1, len(names)):
            self._claim("/".join(names[:depth]), is_file=False)
        self._claim(path, is_file=True)

    def add_directory(self, path: str) -> None:
        """Add the path of a directory and its parents. A directory may be added twice.

        Raises:
            UnsafeArchiveError: The path is unsafe or clashes with one that was added before.
        """
        check_entry_path(path)
        names = path.split("/")
        for depth in range(1, len(names) + 1):
            self._claim("/".join(names[:depth]), is_file=False)

    def _claim(self, path: str, *, is_file: bool) -> None:
        key = fold_path(path)
        known = self._kinds.get(key)
        if known is None:
            self._kinds[key] = (path, is_file)
        elif is_file or known != (path, False):
            raise UnsafeArchiveError(f"the file names {known[0][:100]!r} and {path[:100]!r} clash")


def local_directory(text: str) -> str | None:
    """The directory that a path or a `file://` URL names; None for any other URL."""
    scheme, found, rest = text.partition("://")
    if not found:
        return text
    return "/" + rest.removeprefix("localhost").lstrip("/") if scheme.lower() == "file" else None


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
