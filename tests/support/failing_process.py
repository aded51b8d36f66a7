"""Resolves handles that fail, and prints how: for tests of what a user sees, with the environment set from the start.

Reads a list of cases from the file that is named first, and prints one line of JSON for each.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import hubdist
from hubdist.remote import open_tree
from hubdist.system.deadline import Deadlines
from hubdist.testing.memory import MemorySource


class Remote:
    """A user's own origin, which reads a URL with Python's own client."""

    def __init__(self, text: str) -> None:
        self._url = text.removeprefix("own://")

    def entries(self) -> list[Any]:
        with urllib.request.build_opener().open(self._url, timeout=10) as answer:
            answer.read()
        return []

    def read(self, path: str, start: int, end: int) -> bytes:
        raise NotImplementedError


def read_as_node(url: str) -> None:
    """What an agent does to find out whether its node can read a directory itself."""
    with open_tree(url, Deadlines()) as tree:
        tree.listing()


ORIGINS = {"own": Remote, "held": lambda _: MemorySource({"saved_model.pb": b"x"})}
PLACES = {"origin": hubdist.resolve, "node": read_as_node}


def prepare(case: dict[str, Any]) -> None:
    os.environ.update(case.get("env", {}))
    if "conf" in case:
        import fsspec.config

        fsspec.config.conf.clear()
        fsspec.config.conf.update(case["conf"])
    if "hf" in case:
        import huggingface_hub
        from huggingface_hub import constants

        constants.ENDPOINT = case["hf"]
        huggingface_hub.close_session()  # it keeps the proxies of its first session
    if "kaggle" in case:
        from kagglesdk import kaggle_env

        kaggle_env._env_to_endpoint[kaggle_env.KaggleEnv.PROD] = case["kaggle"]
    if "gs" in case.get("conf", {}):
        from hubdist.remote import gcs_files
        from hubdist.remote.google_login import GoogleLogin

        gcs_files._login = GoogleLogin()  # as in a new process


def run(case: dict[str, Any]) -> dict[str, Any]:
    before = dict(os.environ)
    prepare(case)
    with tempfile.TemporaryDirectory() as store:
        hubdist.init(store=store, origins=ORIGINS, **case.get("settings", {}))
        begin = time.monotonic()
        kind, text = "", ""
        try:
            PLACES[case.get("place", "origin")](case["handle"])
        except hubdist.HubdistError as error:
            kind, text = type(error).__name__, str(error)
        seconds = time.monotonic() - begin
        hubdist.shutdown()
    os.environ.clear()
    os.environ.update(before)
    return {"name": case["name"], "kind": kind, "text": text, "seconds": seconds}


for each in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
    print(json.dumps(run(each)), flush=True)
