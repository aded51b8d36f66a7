"""TensorFlow Hub models for every process of a Ray cluster: resolved once, verified, delivered to each node.

    @ray.remote
    def embed(texts):
        model = hubdist.load("https://tfhub.dev/google/universal-sentence-encoder/4")
        return model(texts).numpy()

Importing this package loads neither ray nor tensorflow; the first call does what it needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hubdist import errors
from hubdist.errors import HubdistError

if TYPE_CHECKING:
    from hubdist.client.api import (
        init,
        load,
        load_async,
        prefetch,
        refresh,
        resolve,
        resolve_async,
        shutdown,
        status,
        unload,
    )
    from hubdist.client.exports import export_models, import_models
    from hubdist.client.placing import keep, release, where
    from hubdist.client.plans import plan
    from hubdist.config.schema import Config
    from hubdist.model.source import Source, SourceFile
    from hubdist.report.delivery import Report
    from hubdist.report.plan import Plan, Refreshed, Status
    from hubdist.report.what_if import WhatIf

__version__ = "0.1.0"

__all__ = [
    "Config",
    "HubdistError",
    "Plan",
    "Refreshed",
    "Report",
    "Source",
    "SourceFile",
    "Status",
    "WhatIf",
    "__version__",
    "errors",
    "export_models",
    "import_models",
    "init",
    "keep",
    "load",
    "load_async",
    "plan",
    "prefetch",
    "refresh",
    "release",
    "resolve",
    "resolve_async",
    "shutdown",
    "status",
    "unload",
    "where",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'hubdist' has no attribute {name!r}")
    if name == "Config":
        home = import_module("hubdist.config.schema")
    elif name in ("Source", "SourceFile"):
        home = import_module("hubdist.model.source")
    elif name in ("Plan", "Refreshed", "Status"):
        home = import_module("hubdist.report.plan")
    elif name == "Report":
        home = import_module("hubdist.report.delivery")
    elif name == "WhatIf":
        home = import_module("hubdist.report.what_if")
    elif name in ("export_models", "import_models"):
        home = import_module("hubdist.client.exports")
    elif name in ("keep", "release", "where"):
        home = import_module("hubdist.client.placing")
    elif name == "plan":
        home = import_module("hubdist.client.plans")
    else:
        home = import_module("hubdist.client.api")
    return getattr(home, name)


def __dir__() -> list[str]:
    return __all__
