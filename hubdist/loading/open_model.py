"""Load a model's files into TensorFlow, in this process or onto the TensorFlow workers that it drives.

TensorFlow's errors in a load become typed errors that say what to do.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator
from typing import Any

from hubdist.errors import AccessDeniedError, HubdistError, MissingOperationError, ModelNotFoundError, OriginError
from hubdist.loading.load_key import LoadKey
from hubdist.loading.model_files import InPlaceModel, ModelFiles, release_with
from hubdist.loading.pickling import PickleHooks, make_picklable
from hubdist.loading.ram_model import RamModel
from hubdist.loading.remote_tasks.load import load_on_tasks
from hubdist.loading.remote_tasks.tf_tasks import find_tasks
from hubdist.loading.tf_limits import TensorFlowLimits, limit_tensorflow
from hubdist.loading.tf_runtime import import_tensorflow, load_saved_model
from hubdist.model.listing import not_a_model_error
from hubdist.model.manifest import Manifest
from hubdist.model.redact import redact_url
from hubdist.model.savedmodel import ModelKind, model_kind

_NOT_REGISTERED = re.compile(r"Op type not registered '([^']+)'")
_PACKAGES: tuple[tuple[str, str], ...] = (
    (r"SimpleML", "tensorflow_decision_forests"),
    (
        r"Sentencepiece|Whitespace|Wordpiece|FastWordpiece|FastBert|UnicodeScript|NormalizeUTF8|CaseFoldUTF8",
        "tensorflow_text",
    ),
    (
        r"TFText>|RegexSplitWithOffsets|SplitMerge|SentenceFragment|RougeL|ConstrainedSequence|MaxSpanningTree",
        "tensorflow_text",
    ),
    (r"Ngrams?Str|Phrase|Utf8Binarize|ByteSplit|StateBased|TrimTo|RoundRobin|Mst", "tensorflow_text"),
    (r"IO>", "tensorflow_io"),
    (r"Addons>", "tensorflow_addons"),
    (r"TFRA>", "tensorflow_recommenders_addons"),
    (r"Tfq", "tensorflow_quantum"),
    (r"Horovod", "horovod.tensorflow"),
    (r"DecodeProtoSparse|EquiJoin|BroadcastTo?Children", "struct2tensor"),
    (r"Entropy|RangeEncode|RangeDecode|CreateRange", "tensorflow_compression"),
)
"""How the names of a package's operations begin, and the package. Source: the REGISTER_OP lines of each package."""


def open_model(files: ModelFiles, key: LoadKey, hooks: PickleHooks, limits: TensorFlowLimits | None = None) -> Any:
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
        limits: What TensorFlow may take in this process, should it not have begun to work; None limits nothing.

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
        if limits is not None:
            limit_tensorflow(tensorflow, limits)
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


@contextlib.contextmanager
def missing_operations(handle: str) -> Iterator[None]:
    """Turn TensorFlow's error for an unknown operation into one that names the package to import.

    Args:
        handle: The handle of the model without secrets, for the error.

    Raises:
        MissingOperationError: The model uses an operation that no package has registered in this process.
    """
    try:
        yield
    except HubdistError:
        raise
    except _raised_by_tensorflow() as error:
        operation = _operation(error)
        if operation is None:
            raise
        package = next((name for begin, name in _PACKAGES if re.match(begin, operation)), None)
        module = package or "the package that registers it"
        raise MissingOperationError(
            f"the model uses the operation {operation}, which no package has registered in this process",
            operation=operation,
            handle=handle,
            advice=f"Import {module} before the model is used: in the task, by `imports: [{package or '<package>'}]` in"
            " hubdist's configuration, or in the worker_process_setup_hook of Ray's runtime_env.",
        ) from error


def _raised_by_tensorflow() -> tuple[type[Exception], ...]:
    op_error: type[Exception] = importlib.import_module("tensorflow.python.framework.errors_impl").OpError
    return op_error, LookupError, OSError, RuntimeError, TypeError, ValueError


def _operation(error: Exception) -> str | None:
    """The name of the unknown operation; None for any other error.

    TensorFlow reports one in several ways: in the text of several kinds of errors, or as the key of a KeyError.
    """
    found = _NOT_REGISTERED.search(str(error))
    if found:
        return found[1]
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], str):
        name = error.args[0]
        registry = importlib.import_module("tensorflow.python.framework.op_def_registry")
        if re.fullmatch(r"([A-Za-z0-9_]+>)*[A-Z][A-Za-z0-9_]*", name) and registry.get(name) is None:
            return name
    return None


@contextlib.contextmanager
def in_place_errors(tensorflow: Any, path: str) -> Iterator[None]:
    """Turn TensorFlow's errors in reading a path into typed ones, so that the caller can try the next place.

    An error that does not mention the path or a request is about the model, such as a missing operation; it passes
    unchanged.

    Args:
        tensorflow: The module `tensorflow`.
        path: The URL or path that TensorFlow reads.

    Raises:
        ModelNotFoundError: There are no files at the path.
        AccessDeniedError: This process's credentials are not allowed to read the path.
        OriginError: The path cannot be read for another reason.
    """
    errors = tensorflow.errors
    try:
        yield
    except HubdistError:
        raise
    except (errors.OpError, OSError) as error:
        text = str(error)
        if path not in text and "Error executing an HTTP request" not in text:
            raise
        what = f"TensorFlow cannot read {redact_url(path)}: {text.partition(chr(10))[0]}"
        if isinstance(error, errors.PermissionDeniedError | errors.UnauthenticatedError | PermissionError):
            raise AccessDeniedError(
                what, advice="Give this process credentials for it, or use read_mode: store or memory."
            ) from error
        if isinstance(error, errors.NotFoundError | OSError):
            raise ModelNotFoundError(what, advice="Use read_mode: store or memory.") from error
        raise OriginError(what, advice="Use read_mode: store or memory.") from error
