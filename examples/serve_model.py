"""Serve a model behind Ray Serve on two Ray nodes, and roll out its next version while clients ask.

    python examples/serve_model.py MODEL_WHEEL

The model is guesslang (MIT), which tells the language of source code, inside the wheel `guesslang==2.2.1`, which
`pip download --no-deps guesslang==2.2.1` gets. The next version is the same model with a table of the languages beside
it, published as a directory. No replica reads either: each loads the model from its node's store.
"""

import argparse
import json
import socket
import tempfile
import threading
import urllib.request
import zipfile
from collections import Counter
from pathlib import Path

from ray import serve

import hubdist
from hubdist.integrations.ray_serve import app
from hubdist.testing.cluster import RayCluster

CODE = "import os\n\n\ndef sizes(folder):\n    return {e.name: e.stat().st_size for e in os.scandir(folder)}\n"
MODEL = "guesslang/data/model/"
PAUSE_S = 0.05


def publish_next(wheel: Path, folder: Path) -> Path:
    """The model as a directory, with the table of languages."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith("guesslang/data/")])
    extra = folder / MODEL / "assets.extra"
    extra.mkdir()
    (folder / "guesslang/data/languages.json").rename(extra / "languages.json")
    return folder / MODEL


def ask(url: str, texts: list[str]) -> dict:
    """The server's answer to texts."""
    body = json.dumps({"inputs": {"inputs": texts}}).encode()
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as response:
        return json.load(response)


class Client(threading.Thread):
    """Asks again and again, and counts answers by version."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.answers: Counter[str] = Counter()
        self.failures = 0
        self.ended = threading.Event()

    def run(self) -> None:
        """Ask until the end."""
        while not self.ended.wait(PAUSE_S):
            try:
                self.answers[ask(self.url, [CODE])["version"]] += 1
            except OSError:
                self.failures += 1


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def main() -> None:
    """Serve, ask, roll, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="guesslang-2.2.1-py3-none-any.whl on this machine")
    wheel = parser.parse_args().wheel.resolve()
    quiet = {"env_vars": {"TF_CPP_MIN_LOG_LEVEL": "3"}}
    with (
        tempfile.TemporaryDirectory() as name,
        RayCluster(Path(name), nodes=2, cpus=4, log_to_driver=False, runtime_env=quiet) as cluster,
    ):
        hubdist.init(store=cluster.store)
        port = free_port()
        url = f"http://127.0.0.1:{port}/language"
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        model = {"max_batch_size": 8, "example": {"inputs": [CODE]}}
        serve.run(app({"handle": f"zip://{MODEL[:-1]}::{wheel}", **model}), route_prefix="/language")

        answer = ask(url, [CODE, "SELECT name FROM customers WHERE id = 7;"])
        for scores, classes in zip(answer["outputs"]["scores"], answer["outputs"]["classes"], strict=True):
            best = max(range(len(scores)), key=scores.__getitem__)
            print(f"{classes[best]}, {scores[best]:.2f}, says {answer['version'][:19]}")

        client = Client(url)
        client.start()
        serve.run(app({"handle": str(publish_next(wheel, Path(name))), **model}), route_prefix="/language")
        after = ask(url, [CODE])["version"]
        client.ended.set()
        client.join()
        pins = hubdist.status().pins
        serve.shutdown()

    old, new = (client.answers[version] for version in (answer["version"], after))
    print(f"rolled to {after[:19]}: {client.failures} of {old + new + client.failures} requests failed")
    print(f"both versions have answered: {old > 0 and after != answer['version']}")
    print(f"each origin was read once: {[pin.origin_reads for pin in pins] == [1, 1]}")


if __name__ == "__main__":
    main()
