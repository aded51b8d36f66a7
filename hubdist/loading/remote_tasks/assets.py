"""Push a model's assets to the workers of a TensorFlow cluster, through the cluster itself, and free them later.

`experimental_io_device` covers the reading of variables only: workers get the paths of assets as they are, and open
them themselves. Source: tensorflow 2.21.0, `saved_model/load.py`.

The assets are written into each worker's own memory, under the same `ram://` name that this process loads from.
`ram://` is never shared, is in every TensorFlow, and ends with the worker. A directory under /tmp would be worse: a
worker on this machine shares /tmp with this process, a worker elsewhere may not be allowed to write there, and nothing
would remove the files.

No op deletes a file on a worker. So the assets of a model that is gone are replaced by the smallest file that an op
writes under any name: that op is `Save`, TensorFlow's first checkpoint format, which renames its file into place.
`WriteFile` would append.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from hubdist.errors import ConfigError, HubdistError, IntegrityError, PeerError, TransferTimeoutError
from hubdist.loading.ram_model import ASSETS, RamModel
from hubdist.loading.remote_tasks.tf_tasks import reach_tasks
from hubdist.loading.tf_runtime import import_tensorflow
from hubdist.system.threads import run_within, start_thread

_T = TypeVar("_T")

_ANSWER_S = 30.0
_BYTES_PER_S = 1 << 20
_FREE_S = 5.0
_HASH_BUCKETS = 1 << 62
_MAX_REMOVALS = 1000
_MAX_TRIES = 10
_PAUSE_S = 0.05
_MAX_BYTES = (1 << 31) - (1 << 20)
"""The longest message of gRPC, less some room for what surrounds the bytes."""


class RemoteAssets:
    """The assets of one model on some workers.

    Args:
        model: The model's files in this process; the assets are read from there.
        tasks: The workers' tasks.

    Attributes:
        files: Task and path of each file that was written on a worker.
    """

    def __init__(self, model: RamModel, tasks: tuple[str, ...]) -> None:
        self._model = model
        self._tasks = tasks
        self._entries = [entry for entry in model.manifest.entries if entry.path.startswith(ASSETS)]
        self.files: list[tuple[str, str]] = []

    def push(self) -> None:
        """Write the assets on every worker, and check that they arrived.

        Raises:
            ConfigError: An asset is too long for one message to a worker.
            PeerError: A worker cannot be reached or has no room; the error names it.
            TransferTimeoutError: A worker does not answer in time.
            IntegrityError: A worker holds other bytes than this process sent.
        """
        tensorflow = import_tensorflow()
        free_remote_assets()
        _pushed.add(self)
        for entry in self._entries:
            if entry.size >= _MAX_BYTES:
                raise ConfigError(
                    f"{entry.path} has {entry.size} bytes, and TensorFlow sends less than {_MAX_BYTES} to a worker",
                    advice="Put the model where the workers can read it, and use read_mode: in_place.",
                )
        total_bytes = sum(entry.size for entry in self._entries)
        for task in self._tasks:
            _free_at_exit(task)
            write = functools.partial(self._write, tensorflow, task)
            call_within(
                _ANSWER_S + total_bytes / _BYTES_PER_S,
                f"{task} to take {total_bytes} bytes of assets",
                functools.partial(despite_removals, tensorflow, [task], write),
            )

    def release(self) -> None:
        """Note that the assets may be freed; a finalizer calls this in any thread, so it does nothing else.

        The next push, `free_remote_assets` or the end of the process frees them.
        """
        _released.append(self)

    def _write(self, tensorflow: Any, task: str) -> None:
        with task_errors(tensorflow, task), tensorflow.device(f"{task}/device:CPU:0"):
            _take_removal_errors(tensorflow)
            is_begun = any(begun == task for begun, _ in self.files)
            if not is_begun and tensorflow.io.matching_files(self._model.path).numpy().size > 0:
                return  # the server runs in this process and shares its memory
            for entry in self._entries:
                path, data = f"{self._model.path}/{entry.path}", self._model.read(entry)
                if (task, path) not in self.files:
                    self.files.append((task, path))
                if not is_begun or tensorflow.io.matching_files(path).numpy().size == 0:
                    tensorflow.io.write_file(path, data)  # a second write of a file in memory would append
                arrived = tensorflow.strings.to_hash_bucket_fast(tensorflow.io.read_file(path), _HASH_BUCKETS)
                with tensorflow.device(None), tensorflow.device("/device:CPU:0"):
                    sent = tensorflow.strings.to_hash_bucket_fast(data, _HASH_BUCKETS)
                if int(arrived) != int(sent):
                    raise IntegrityError(f"{task} holds other bytes of {entry.path} than were sent")


def despite_removals(tensorflow: Any, tasks: Sequence[str], work: Callable[[], _T]) -> _T:
    """Do work on workers, again if a worker has refused to remove a function that it never had.

    TensorFlow tells each worker to remove a function that is collected here, also one that was made before this process
    connected to the worker. The worker's refusal fails some later op there, whatever that is and whenever it comes.

    Args:
        tensorflow: The module `tensorflow`.
        tasks: The workers' tasks.
        work: The work, which may be done several times.
    """
    for _ in range(_MAX_TRIES):
        try:
            return work()
        except tensorflow.errors.InvalidArgumentError as error:
            if not _is_removal(error):
                raise
            tensorflow.experimental.async_clear_error()
            time.sleep(_PAUSE_S)
            for task in tasks:
                with tensorflow.device(f"{task}/device:CPU:0"):
                    _take_removal_errors(tensorflow)
    return work()


def _take_removal_errors(tensorflow: Any) -> None:
    """Take the refusals that the current worker has sent until now."""
    for _ in range(_MAX_REMOVALS):
        try:
            tensorflow.constant(0).numpy()
        except tensorflow.errors.InvalidArgumentError as error:
            if not _is_removal(error):
                raise
            tensorflow.experimental.async_clear_error()
        else:
            return


def _is_removal(error: Exception) -> bool:
    return "non-existent function" in str(error)


_pushed: set[RemoteAssets] = set()
_released: deque[RemoteAssets] = deque()
_left: dict[str, list[str]] = {}
"""The files to free on each worker while the process ends."""


def free_remote_assets(timeout_s: float = _FREE_S) -> None:
    """Free the assets on workers of models that are gone. Assets that cannot be freed end with the worker.

    Args:
        timeout_s: How long to wait for each worker, in seconds.
    """
    for task, paths in _take_released().items():
        with contextlib.suppress(PeerError, TransferTimeoutError):
            reach_tasks(task)
            call_within(timeout_s, f"{task} to free files", functools.partial(_shrink, task, paths))


def _take_released() -> dict[str, list[str]]:
    paths: dict[str, list[str]] = {}
    with contextlib.suppress(IndexError):  # raised when none is left; other threads may take some too
        while True:
            assets = _released.popleft()
            _pushed.discard(assets)
            for task, path in assets.files:
                paths.setdefault(task, []).append(path)
    return paths


def _shrink(task: str, paths: list[str]) -> None:
    tensorflow = import_tensorflow()
    gone = contextlib.suppress(tensorflow.errors.OpError)  # the process has connected to another cluster
    with gone, task_errors(tensorflow, task), tensorflow.device(f"{task}/device:CPU:0"):
        _take_removal_errors(tensorflow)
        for path in paths:
            tensorflow.raw_ops.Save(filename=path, tensor_names=["freed"], data=[tensorflow.constant(0)])


@functools.cache
def _free_at_exit(task: str) -> None:
    """Free the files that a worker still has when the process ends.

    Registered after TensorFlow was imported, and so called before TensorFlow's own end. Python 3.12 starts no thread
    in a process that ends, so the thread that will free the files is started now.
    """
    paths: Future[list[str]] = Future()

    def wait_and_free() -> None:
        there = paths.result()
        with contextlib.suppress(PeerError):
            reach_tasks(task)
            _shrink(task, there)

    thread, freed = start_thread(wait_and_free, "hubdist-tf-exit")

    @atexit.register
    def free() -> None:
        for assets in tuple(_pushed):
            assets.release()
        for other, there in _take_released().items():
            _left.setdefault(other, []).extend(there)
        paths.set_result(_left.pop(task, []))
        if thread.is_alive():  # a fork does not copy it
            wait([freed], _FREE_S)


@contextlib.contextmanager
def task_errors(tensorflow: Any, *tasks: str) -> Iterator[None]:
    """Turn workers' failures into typed errors; wait for the ops that were sent to them.

    Workers run ops later than this process sends them. So each worker is asked for a value, which comes after the
    errors of earlier ops. TensorFlow's own `async_wait` asks all workers of the cluster, and never returns when one of
    them is dead. After an error TensorFlow refuses all further ops for the worker until the error is cleared.

    Args:
        tensorflow: The module `tensorflow`.
        tasks: The workers' tasks.

    Raises:
        PeerError: A worker cannot be reached or has no room.
    """
    errors = tensorflow.errors
    try:
        yield
        for task in tasks:
            with tensorflow.device(f"{task}/device:CPU:0"):
                tensorflow.constant(0).numpy()
    except HubdistError:
        raise
    except (errors.OpError, OSError) as error:
        tensorflow.experimental.async_clear_error()
        gone = errors.UnavailableError | errors.AbortedError | errors.DeadlineExceededError | errors.CancelledError
        if isinstance(error, gone | errors.ResourceExhaustedError):
            raise PeerError(
                f"the TensorFlow worker {' or '.join(tasks)} failed: {error}",
                advice="Is its tf.distribute.Server running and reachable from here? Connect to it again, then load.",
            ) from error
        raise


def call_within(timeout_s: float, what: str, call: Callable[[], None]) -> None:
    """Call a function in a thread and wait for it, because TensorFlow has no deadline for a remote op.

    Args:
        timeout_s: How long to wait, in seconds.
        what: What is waited for, for the error.
        call: The function.

    Raises:
        TransferTimeoutError: The function did not return in time. Its thread is left behind, because nothing can stop
            it.
    """
    try:
        run_within(call, "hubdist-tf-task", timeout_s)
    except HubdistError:
        raise
    except TimeoutError:
        raise TransferTimeoutError(
            f"waited {timeout_s:.0f} s for {what}", advice="Is the TensorFlow worker alive? Connect to it again."
        ) from None
