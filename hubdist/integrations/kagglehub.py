"""hubdist behind `kagglehub`: existing code, unchanged, reads each model of Kaggle once for the whole Ray cluster.

    from hubdist.integrations.kagglehub import install_everywhere

    ray.init(runtime_env=install_everywhere())

From then on `kagglehub.model_download` returns a directory or file of this node's store, in the driver and in all
workers. Data sets, competitions and notebooks are kagglehub's own, as ever. Where a job is described in a file, the
same is said by a name:

    runtime_env:
      worker_process_setup_hook: hubdist.integrations.kagglehub.install

Neither imports `kagglehub`: what is done waits until the program imports it.
"""

from __future__ import annotations

import glob
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hubdist
from hubdist.errors import HandleError, NotPinnedError, ResolveError, TransferError
from hubdist.integrations.installation import Installation, RegisteredResolver
from hubdist.system.log_once import LogOnce

SETUP_HOOK = f"{__name__}.install"
"""The name of `install`, for `worker_process_setup_hook`."""

_LOG = logging.getLogger(__name__)
_once = LogOnce(_LOG)


def install() -> None:
    """Let `kagglehub.model_download` get models from hubdist in this process, whether it is imported already or later.

    Calling it again changes nothing.
    """
    _INSTALLATION.install()


def uninstall() -> None:
    """Let `kagglehub` download for itself again in this process. Paths that were returned stay."""
    _INSTALLATION.uninstall()


def install_everywhere(runtime_env: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Install in this process, and return the `runtime_env` with which Ray's workers install it when they start.

    Args:
        runtime_env: The `runtime_env` of the job so far; None means none. It is not changed, and a
            `worker_process_setup_hook` in it is kept and called first.
    """
    return _INSTALLATION.install_everywhere(runtime_env)


class HubdistResolver:
    """An implementation of `kagglehub`'s resolver of models, by the protocol of its registry.

    Source: kagglehub 1.0.2, `registry.py` and `resolver.py`: the implementation that was added last is asked first.
    """

    def is_supported(
        self,
        handle: Any,  # noqa: ARG002 - of the protocol; hubdist reads every model
        path: str | None = None,  # noqa: ARG002 - as above
        *,
        force_download: bool | None = False,
        output_dir: str | None = None,
    ) -> bool:
        """True unless the caller wants bytes that nobody has kept, or wants them in a directory of its own.

        Args:
            handle: The model, as kagglehub parsed it.
            path: A file of the model; None for all files.
            force_download: The caller's argument.
            output_dir: The caller's argument; hubdist's own downloads have one.
        """
        if output_dir:
            return False
        if force_download:
            _once.log("force", "hubdist: kagglehub downloads for itself where force_download is asked for", level=20)
        return not force_download

    def __call__(self, handle: Any, path: str | None = None, **options: Any) -> tuple[str, int | None]:
        """The path in this node's store, and the version if the handle has one.

        What hubdist cannot get is asked of the implementation before, so the exceptions are kagglehub's own.

        Args:
            handle: The model, as kagglehub parsed it.
            path: A file of the model; None for all files.
            **options: `force_download` and `output_dir`, which are not set here.

        Raises:
            NotPinnedError: The settings are frozen, locked or offline, and the model is not known.
        """
        from kagglehub.tracker import register_datasource_access

        include = None if path is None else glob.escape(path)
        try:
            found = hubdist.resolve(f"kaggle://{handle}", include=include)
        except (ResolveError, TransferError, HandleError) as error:
            if isinstance(error, NotPinnedError):
                raise  # a pin that could be passed by would be none
            _once.log(error.what, "hubdist: kagglehub downloads for itself: %s", error.what)
            return _others(handle, path, **options)
        register_datasource_access(handle, handle.version)
        return str(Path(found, path) if path else found), handle.version


def _others(*args: Any, **options: Any) -> tuple[str, int | None]:
    """What kagglehub answers without hubdist."""
    from kagglehub.registry import MultiImplRegistry

    others: Any = MultiImplRegistry("ModelResolver")
    for implementation in _registry()._impls:
        if implementation is not _resolver:
            others.add_implementation(implementation)
    answer: tuple[str, int | None] = others(*args, **options)
    return answer


def _registry() -> Any:
    from kagglehub.registry import model_resolver

    return model_resolver


_resolver: Any = HubdistResolver()
_INSTALLATION = Installation(SETUP_HOOK, RegisteredResolver("kagglehub", _resolver, _registry))
