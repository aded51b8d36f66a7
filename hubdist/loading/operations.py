"""Operations that a model uses and no package has registered in this process."""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator

from hubdist.errors import HubdistError, MissingOperationError

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
"""How the names of a package's operations begin, and the package. Source: the REGISTER_OP lines of each."""


@contextlib.contextmanager
def missing_operations(handle: str) -> Iterator[None]:
    """Turn what TensorFlow raises for an operation that it does not know into an error that says what to do.

    Args:
        handle: The model, without secrets.

    Raises:
        MissingOperationError: The model uses such an operation.
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
    """The name of the operation that an error is about; TensorFlow raises several kinds, KeyError among them."""
    found = _NOT_REGISTERED.search(str(error))
    if found:
        return found[1]
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], str):
        name = error.args[0]
        registry = importlib.import_module("tensorflow.python.framework.op_def_registry")
        if re.fullmatch(r"([A-Za-z0-9_]+>)*[A-Z][A-Za-z0-9_]*", name) and registry.get(name) is None:
            return name
    return None
