"""Models behind Ray Serve: deployments that name a model by its handle, and builders for configuration files.

    serve.run(app({"handle": "https://tfhub.dev/google/nnlm-en-dim50/2"}))

In a file for `serve deploy` or KubeRay's RayService the builders are `hubdist.integrations.ray_serve:app` for one
model, and `hubdist.integrations.ray_serve:multiplexed_app` for many. Their arguments are the application's `args`.
"""

from hubdist.integrations.ray_serve.builders import app, multiplexed_app
from hubdist.integrations.ray_serve.model_server import ModelServer
from hubdist.integrations.ray_serve.multiplexed import MultiplexedModelServer

__all__ = ["ModelServer", "MultiplexedModelServer", "app", "multiplexed_app"]
