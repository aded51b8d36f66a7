"""Assets on the workers of a TensorFlow cluster, pushed through the cluster itself.

Source: tensorflow 2.21.0. `experimental_io_device` covers the reading of variables only (`saved_model/load.py`): the
paths of assets are handed to the workers as they are, which open them themselves.

The assets are written under the same `ram://` name that this process loads from, into each worker's own memory. The
other candidate, one directory of links under /tmp, was tried and put aside: a worker on this machine shares /tmp, so
the push would write through the links into the store; elsewhere it wants a disk with rights that nobody promised, and
leaves files that nothing removes. `ram://` is never shared, is in every TensorFlow, and ends with the worker.

A worker can be told to write, not to delete. The assets of a model that is gone are therefore replaced by the
smallest file that an op writes under any name: `Save`, TensorFlow's first checkpoint format, which renames its file
into place; `WriteFile` would append.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import Any

from hubdist.errors import ConfigError, HubdistError, IntegrityError, PeerError, TransferTimeoutError
from hubdist.loading.importing import import_tensorflow
from hubdist.loading.ram import ASSETS, RamModel
from hubdist.loading.remote_tasks.tf_tasks import reach_hosts
from hubdist.system.threads import run_within, start_thread

_ANSWER_S = 30.0
_BYTES_PER_S = 1 << 20
_FREE_S = 5.0
_HASH_BUCKETS = 1 << 62
_MAX_BYTES = (1 << 31) - (1 << 20)
"""Longest message of gRPC, with room for what is around the bytes."""


class RemoteAssets:
    """The assets of one model on some workers.

    `release` only notes that they may go, since it is called by a finalizer in any thread and at any moment; the
    next push, `free_remote_assets` or the end of the process frees them.

    Args:
        model: What was written; its assets are read from there.
        hosts: The workers' tasks.
    """

    def __init__(self, model: RamModel, hosts: tuple[str, ...]) -> None:
        self._model = model
        self._hosts = hosts
        self._entries = [entry for entry in model.manifest.entries if entry.path.startswith(ASSETS)]
        self.files: list[tuple[str, str]] = []

    def push(self) -> None:
        """Write the assets on every worker, and make sure that they arrived.

        Raises:
            ConfigError: An asset is too long for a tensor.
            PeerError: A worker cannot be reached or refuses; it is named.
            TransferTimeoutError: A worker does not answer.
            IntegrityError: A worker holds other bytes than were sent.
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
        for host in self._hosts:
            _free_at_exit(host)
            within(
                _ANSWER_S + total_bytes / _BYTES_PER_S,
                f"{host} to take {total_bytes} bytes of assets",
                functools.partial(self._write, tensorflow, host),
            )

    def release(self) -> None:
        """Let the assets go."""
        _released.append(self)

    def _write(self, tensorflow: Any, host: str) -> None:
        with host_errors(tensorflow, host), tensorflow.device(f"{host}/device:CPU:0"):
            if tensorflow.io.matching_files(self._model.path).numpy().size > 0:
                return  # a server in this very process: its memory is ours
            for entry in self._entries:
                path, data = f"{self._model.path}/{entry.path}", self._model.read(entry)
                self.files.append((host, path))
                tensorflow.io.write_file(path, data)
                arrived = tensorflow.strings.to_hash_bucket_fast(tensorflow.io.read_file(path), _HASH_BUCKETS)
                with tensorflow.device(None), tensorflow.device("/device:CPU:0"):
                    sent = tensorflow.strings.to_hash_bucket_fast(data, _HASH_BUCKETS)
                if int(arrived) != int(sent):
                    raise IntegrityError(f"{host} holds other bytes of {entry.path} than were sent")


_pushed: set[RemoteAssets] = set()
_released: deque[RemoteAssets] = deque()
_left: dict[str, list[str]] = {}
"""What is to be freed on each worker while the process ends."""


def free_remote_assets(timeout_s: float = _FREE_S) -> None:
    """Free the assets on workers of models that are gone; what cannot be freed ends with the worker.

    Args:
        timeout_s: Longest time in seconds for one worker to answer.
    """
    for host, paths in _take_released().items():
        with contextlib.suppress(PeerError, TransferTimeoutError):
            reach_hosts(host)
            within(timeout_s, f"{host} to free files", functools.partial(_shrink, host, paths))


def _take_released() -> dict[str, list[str]]:
    paths: dict[str, list[str]] = {}
    with contextlib.suppress(IndexError):  # until there are no more; several threads may do this
        while True:
            assets = _released.popleft()
            _pushed.discard(assets)
            for host, path in assets.files:
                paths.setdefault(host, []).append(path)
    return paths


def _shrink(host: str, paths: list[str]) -> None:
    tensorflow = import_tensorflow()
    gone = contextlib.suppress(tensorflow.errors.OpError)  # the process has connected to another cluster
    with gone, host_errors(tensorflow, host), tensorflow.device(f"{host}/device:CPU:0"):
        for path in paths:
            tensorflow.raw_ops.Save(filename=path, tensor_names=["freed"], data=[tensorflow.constant(0)])


@functools.cache
def _free_at_exit(host: str) -> None:
    """Free what a worker still has when the process ends, before TensorFlow, which was imported earlier, ends.

    Python 3.12 begins no thread in a process that ends, so the one that will do it is begun now.
    """
    paths: Future[list[str]] = Future()

    def wait_and_free() -> None:
        there = paths.result()
        with contextlib.suppress(PeerError):
            reach_hosts(host)
            _shrink(host, there)

    thread, freed = start_thread(wait_and_free, "hubdist-tf-exit")

    @atexit.register
    def free() -> None:
        for assets in tuple(_pushed):
            assets.release()
        for other, there in _take_released().items():
            _left.setdefault(other, []).extend(there)
        paths.set_result(_left.pop(host, []))
        if thread.is_alive():  # it does not come along by fork
            wait([freed], _FREE_S)


@contextlib.contextmanager
def host_errors(tensorflow: Any, *hosts: str) -> Iterator[None]:
    """Turn workers' failures into typed errors; ops run late there, so their ends are waited for.

    Each worker is asked for a value, which comes after the errors of what it was told before. TensorFlow's own
    `async_wait` asks all workers of the cluster, and never returns when one of them is dead. After an error
    TensorFlow refuses everything else that is sent to the worker until the error is cleared.

    Raises:
        PeerError: A worker cannot be reached or has no room.
    """
    errors = tensorflow.errors
    try:
        yield
        for host in hosts:
            with tensorflow.device(f"{host}/device:CPU:0"):
                tensorflow.constant(0).numpy()
    except HubdistError:
        raise
    except (errors.OpError, OSError) as error:
        tensorflow.experimental.async_clear_error()
        gone = errors.UnavailableError | errors.AbortedError | errors.DeadlineExceededError | errors.CancelledError
        if isinstance(error, gone | errors.ResourceExhaustedError):
            raise PeerError(
                f"the TensorFlow worker {' or '.join(hosts)} failed: {error}",
                advice="Is its tf.distribute.Server running and reachable from here? Connect to it again, then load.",
            ) from error
        raise


def within(timeout_s: float, what: str, call: Callable[[], None]) -> None:
    """Call a function in a thread and wait for it: TensorFlow gives no deadline for a remote op.

    Raises:
        TransferTimeoutError: It did not return in time; the thread is left behind, for it cannot be stopped.
    """
    try:
        run_within(call, "hubdist-tf-host", timeout_s)
    except HubdistError:
        raise
    except TimeoutError:
        raise TransferTimeoutError(
            f"waited {timeout_s:.0f} s for {what}", advice="Is the TensorFlow worker alive? Connect to it again."
        ) from None
