"""A driver that reads private servers, for tests of where its secrets go; prints JSON.

Its arguments: the address of a cluster, the server that wants a header, the server that wants a login.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import ray

import hubdist
from hubdist.cluster.connection import find_coordinator
from hubdist.errors import AccessDeniedError


def main() -> None:
    address, by_header, by_login = sys.argv[1:]
    ray.init(address=address, log_to_driver=True)
    hubdist.init(origin_headers={by_header: {"Authorization": "Bearer env:HUB_TOKEN"}}, origin_retries=0)
    said: dict[str, Any] = {"plans": [str(hubdist.plan(f"{url}/plan.onnx")) for url in (by_header, by_login)]}
    said["paths"] = [hubdist.resolve(f"{url}/a.onnx") for url in (by_header, by_login)]
    coordinator = find_coordinator(ray.get_runtime_context().get_job_id())
    ray.kill(coordinator, no_restart=False)
    said["again"] = [hubdist.resolve(f"{url}/b.onnx") for url in (by_header, by_login)]
    try:
        hubdist.resolve(f"{by_header.replace('127.0.0.1', 'localhost')}/c.onnx")
    except AccessDeniedError as error:
        said["refused"] = str(error)
    said["config"] = str(hubdist.Config.load())
    print("SAID " + json.dumps(said))


main()
