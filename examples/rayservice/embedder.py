"""A Serve application whose replicas load a model by its handle; configs/kuberay-rayservice.yaml runs it.

On one machine, from this directory:

    serve run embedder:app handle=https://tfhub.dev/google/nnlm-en-dim50/2
    curl -X POST -d '["hello", "world"]' http://127.0.0.1:8000/
"""

from __future__ import annotations

from typing import Any

from ray import serve
from starlette.requests import Request

import hubdist


@serve.deployment
class Embedder:
    """Answers a list of texts with a list of vectors."""

    def __init__(self, handle: str) -> None:
        self._model = hubdist.load(handle)

    async def __call__(self, request: Request) -> Any:
        """Embed the texts of a request, which are a list in JSON."""
        return self._model(await request.json()).numpy().tolist()


def app(arguments: dict[str, str]) -> serve.Application:
    """Make the application.

    Args:
        arguments: `handle`, the model's.
    """
    return Embedder.bind(arguments["handle"])
