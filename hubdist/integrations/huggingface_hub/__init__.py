"""hubdist behind `huggingface_hub`: existing code, unchanged, reads each file once for the whole Ray cluster.

    from hubdist.integrations.huggingface_hub import install_everywhere

    ray.init(runtime_env=install_everywhere())

From then on `snapshot_download` and `hf_hub_download`, and all that calls them (transformers, keras_hub, vLLM), get
files from hubdist, in the driver and in all workers. They lie where they always lie, in huggingface_hub's own cache,
as links into this node's store. Where a job is described in a file, the same is said by a name:

    runtime_env:
      worker_process_setup_hook: hubdist.integrations.huggingface_hub.install

Neither imports `huggingface_hub`: what is done waits until the program imports it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hubdist.integrations.huggingface_hub.exchanged import ExchangedFunction
from hubdist.integrations.installation import Installation

SETUP_HOOK = f"{__name__}.install"
"""The name of `install`, for `worker_process_setup_hook`."""

_INSTALLATION = Installation(
    SETUP_HOOK,
    ExchangedFunction("huggingface_hub._snapshot_download", "snapshot_download"),
    ExchangedFunction("huggingface_hub.file_download", "hf_hub_download"),
)


def install() -> None:
    """Let `huggingface_hub` get files from hubdist in this process, whether it is imported already or later.

    Functions that a program has imported by name are the same functions, and get files from hubdist too. Calling it
    again changes nothing.
    """
    _INSTALLATION.install()


def uninstall() -> None:
    """Let `huggingface_hub` download for itself again in this process. What is in its cache stays."""
    _INSTALLATION.uninstall()


def install_everywhere(runtime_env: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Install in this process, and return the `runtime_env` with which Ray's workers install it when they start.

    Args:
        runtime_env: The `runtime_env` of the job so far; None means none. It is not changed, and a
            `worker_process_setup_hook` in it is kept and called first.
    """
    return _INSTALLATION.install_everywhere(runtime_env)
