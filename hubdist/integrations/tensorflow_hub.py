"""hubdist behind `tensorflow_hub`: existing code, unchanged, reads each hub once for the whole Ray cluster.

    from hubdist.integrations.tensorflow_hub import install_everywhere

    ray.init(runtime_env=install_everywhere())

From then on `hub.load`, `hub.resolve`, `hub.KerasLayer` and all else of `tensorflow_hub` that takes a handle get the
model's directory from hubdist, in the driver and in all workers. Only where the files come from is hubdist's: loading,
Keras layers, arguments and their errors are those of `tensorflow_hub`, and each call gets an object of its own.

Where a job is described in a file, the same is said by a name:

    runtime_env:
      worker_process_setup_hook: hubdist.integrations.tensorflow_hub.install

Neither imports `tensorflow` or `tensorflow_hub`: what is done waits until the program imports them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hubdist
from hubdist.errors import HubdistError, IntegrityError
from hubdist.integrations.installation import Installation, RegisteredResolver
from hubdist.integrations.tensorflow_hub_cache import fill_cache
from hubdist.model.handle import BUILT_IN_SCHEMES
from hubdist.model.paths import local_directory
from hubdist.model.redact import redact_url

SETUP_HOOK = f"{__name__}.install"
"""The name of `install`, for `worker_process_setup_hook`."""

_CHINESE_HUB = "https://hub.tensorflow.google.cn/"
_CHINESE_ARCHIVE = "https://gcs.tensorflow.google.cn/tfhub-modules/%s.tar.gz"
"""Source: tensorflow_hub 0.16.1, `compressed_module_resolver.py`."""


def install() -> None:
    """Let `tensorflow_hub` get models from hubdist in this process, whether it is imported already or later.

    Calling it again changes nothing. It never fails for want of `tensorflow_hub`: where that is missing or cannot be
    imported, the program's own import says so.
    """
    _INSTALLATION.install()


def uninstall() -> None:
    """Let `tensorflow_hub` download for itself again in this process. What is loaded stays."""
    _INSTALLATION.uninstall()


def install_everywhere(runtime_env: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Install in this process, and return the `runtime_env` with which Ray's workers install it when they start.

    Ray calls this function itself in `ray.init` if the environment variable `RAY_RUNTIME_ENV_HOOK` is
    `hubdist.integrations.tensorflow_hub.install_everywhere`.

    Args:
        runtime_env: The `runtime_env` of the job so far; None means none. It is not changed, and a
            `worker_process_setup_hook` in it is kept and called first.
    """
    return _INSTALLATION.install_everywhere(runtime_env)


class HubdistResolver:
    """An implementation of `tensorflow_hub`'s resolver, by the protocol of its registry.

    Source: tensorflow_hub 0.16.1, `registry.py`: the implementation that was added last is asked first.
    """

    def is_supported(self, handle: Any) -> bool:
        """True for what hubdist brings: URLs, and absolute paths that this node lacks, which are the driver's then.

        What is on this node is opened where it is, as ever; so is what only TensorFlow's file systems know, such as
        `ram://`. What is no string is left to `tensorflow_hub`, which has errors for it.

        Args:
            handle: What the program wrote.
        """
        if not isinstance(handle, str):
            return False
        path = local_directory(handle)
        if path is None:
            return handle.partition("://")[0].lower() in BUILT_IN_SCHEMES
        return path.startswith("/") and not os.path.exists(path)  # noqa: PTH110 - gives no error for odd names

    def __call__(self, handle: str) -> str:
        """The directory of the model in this node's store.

        Args:
            handle: What the program wrote.

        Raises:
            OSError: The model cannot be had, as an OSError is what `tensorflow_hub` raises then. The error of hubdist
                is its cause, or is an OSError itself.
            ValueError: The handle is wrong, or a setting.
        """
        archive = handle
        if handle.startswith(_CHINESE_HUB):
            archive = _CHINESE_ARCHIVE % handle.removeprefix(_CHINESE_HUB)
        try:
            directory = hubdist.resolve(archive)
        except HubdistError as error:
            if isinstance(error, (OSError, ValueError)):
                raise
            text = str(error)
            if isinstance(error, IntegrityError):  # in the words of tensorflow_hub
                text = f"{redact_url(handle)} does not appear to be a valid module. {text}"
            raise OSError(text) from error
        cache = local_directory(_cache_directory() or "")
        if cache:
            fill_cache(Path(cache), handle, Path(directory))
        return directory


def _cache_directory() -> str | None:
    """The cache that the program named, by `TFHUB_CACHE_DIR` or its flag; None if it named none."""
    import tensorflow_hub.resolver

    named: str | None = tensorflow_hub.resolver.tfhub_cache_dir()
    return named


def _registry() -> Any:
    import tensorflow_hub.registry

    return tensorflow_hub.registry.resolver


def _explained(error: ImportError) -> ImportError | None:
    """A clear error for what `tensorflow_hub` needs and newer installations lack; None for others."""
    need = _NEEDS.get(error.name or "")
    if need is None:
        return None
    return ModuleNotFoundError(f"tensorflow_hub cannot be imported: it needs {need}", name=error.name)


_NEEDS = {
    "pkg_resources": "pkg_resources, a part of setuptools that newer ones lack. Install 'setuptools<81' on this node,"
    " or call hubdist.load in place of hub.load: it does not need tensorflow_hub.",
    "tf_keras": "tf_keras beside Keras 3. Install tf_keras in TensorFlow's version on this node, or call hubdist.load"
    " in place of hub.load: it does not need tensorflow_hub.",
}

_INSTALLATION = Installation(
    SETUP_HOOK, RegisteredResolver("tensorflow_hub", HubdistResolver(), _registry), explained=_explained
)
