"""Draw the pictures of terminals that the pages show, from commands that really run.

    python docs/make_pictures.py             # all
    python docs/make_pictures.py prefetch    # some

Starts four Ray nodes and a hub on this machine, and needs no network. A picture is one function: it is named as its
file in docs/pictures, gets a `Stage`, and returns what the terminal shows.
"""

import fcntl
import io
import os
import pty
import shlex
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, RenderableType
from rich.terminal_theme import MONOKAI
from rich.text import Text

import hubdist
from hubdist.cli.live import ArrivalTable
from hubdist.report.arrivals import Arrival
from hubdist.testing.cluster import RayCluster
from hubdist.testing.hub import LoopbackHub

PICTURES = Path(__file__).parent / "pictures"
COLUMNS = 132
_MIN_COLUMNS = 100  # so that letters have about one size in all pictures
_COMMAND_S = 120
_MODEL_BYTES = 192 << 20

# rich's own, without the fonts that it would load from elsewhere.
_SVG = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<!-- docs/make_pictures.py drew this. -->
<style>
.{unique_id}-matrix {{ font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: {char_height}px;
line-height: {line_height}px; font-variant-east-asian: full-width; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


class Stage:
    """The cluster and the hub of the pictures.

    Args:
        cluster: The cluster.
        hub: The hub.
        folder: A directory for the files of models.
    """

    def __init__(self, cluster: RayCluster, hub: LoopbackHub, folder: Path) -> None:
        self.cluster = cluster
        self._hub = hub
        self._folder = folder

    def model(self, name: str, size_bytes: int) -> str:
        """Serve a model of random bytes, and give its handle.

        Args:
            name: Publisher, model and version.
            size_bytes: How large it is.
        """
        folder = self._folder / name
        folder.mkdir(parents=True)
        (folder / "words.txt").write_text("the\nof\nand\n", encoding="utf-8")
        (folder / "weights.bin").write_bytes(os.urandom(size_bytes))
        return self._hub.add_model(name, folder)

    def run(self, command: str, columns: int = COLUMNS) -> Text:
        """Run a command in a terminal, and give its line and what it printed as its result.

        Args:
            command: The command line, which begins with `hubdist`.
            columns: The width of the terminal.
        """
        words = shlex.split(command)
        if words[0] != "hubdist":
            raise ValueError(f"not a command of hubdist: {command}")
        settings = {"RAY_ADDRESS": self.cluster.address, "HUBDIST_STORE": self.cluster.store}
        shown = _run_in_terminal([sys.executable, "-m", *words], {**os.environ, **settings}, columns)
        text = Text.assemble(("$ ", "bold green"), (command, "bold"), "\n", Text.from_ansi(shown.rstrip("\n")))
        text.overflow = "fold"
        return text


def prefetch(stage: Stage) -> RenderableType:
    """The result of a prefetch to four nodes."""
    return stage.run(f"hubdist prefetch {stage.model('acme/sentences/4', _MODEL_BYTES)}")


def prefetch_live(stage: Stage) -> RenderableType:
    """The live table of a prefetch, when about half has arrived."""
    handle = stage.model("acme/sentences/5", 4 * _MODEL_BYTES)
    table = ArrivalTable()
    frames: list[tuple[float, RenderableType]] = []

    def watch(arrivals: tuple[Arrival, ...]) -> None:
        table.note(arrivals)
        if arrivals and not table.summary.endswith(" 0 B/s"):  # the first look tells no rate
            share = sum(each.arrived_bytes for each in arrivals) / sum(each.total_bytes for each in arrivals)
            frames.append((abs(share - 0.5), table.draw(20, COLUMNS)))

    hubdist.init(store=stage.cluster.store)
    hubdist.prefetch(handle, watch=watch)
    hubdist.shutdown()
    if not frames:
        raise RuntimeError("the delivery was over before it was seen: take a larger model")
    return min(frames, key=lambda frame: frame[0])[1]


def plan(stage: Stage) -> RenderableType:
    """A plan before a model is resolved."""
    return stage.run(f"hubdist plan {stage.model('acme/sentences/6', 1 << 20)}")


def what_if(stage: Stage) -> RenderableType:
    """A prediction for a cluster that is not there."""
    return stage.run("hubdist plan gs://my-bucket/model --nodes 512 --link 25Gbit/s --size 10GiB")


ALL: dict[str, Callable[[Stage], RenderableType]] = {
    made.__name__.replace("_", "-"): made for made in (prefetch, prefetch_live, plan, what_if)
}
"""File name without its ending -> what draws it."""


def draw(name: str, shown: RenderableType, folder: Path) -> Path:
    """Write a picture of a terminal.

    Args:
        name: The file's name, without its ending.
        shown: What the terminal shows.
        folder: Where the file is written.
    """
    plain = Console(width=200, file=io.StringIO(), record=True)
    plain.print(shown)
    width = min(COLUMNS, max(_MIN_COLUMNS, *(len(line.rstrip()) for line in plain.export_text().splitlines())))
    console = Console(width=width, file=io.StringIO(), record=True, force_terminal=True)
    console.print(shown)
    path = folder / f"{name}.svg"
    svg = console.export_svg(title="hubdist", theme=MONOKAI, code_format=_SVG, unique_id=f"terminal-{name}")
    path.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n", encoding="utf-8")
    return path


def _run_in_terminal(command: list[str], environment: dict[str, str], columns: int) -> str:
    """What a command prints to a terminal of some width; progress goes elsewhere."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    parts: list[bytes] = []

    def read() -> None:
        while True:
            try:
                parts.append(os.read(ours, 1 << 16))
            except OSError:  # the other end is closed
                return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        environment = {**environment, "TERM": "xterm-256color", "COLUMNS": str(columns)}
        done = subprocess.run(
            command, stdout=theirs, stderr=subprocess.PIPE, env=environment, timeout=_COMMAND_S, check=False
        )
    finally:
        os.close(theirs)
        reader.join()
        os.close(ours)
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr.decode()}")
    return b"".join(parts).decode().replace("\r\n", "\n")


def main(names: list[str], folder: Path = PICTURES) -> None:
    """Draw pictures.

    Args:
        names: Which ones, of `ALL`; none means all.
        folder: Where they go.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as name,
        LoopbackHub() as hub,
        RayCluster(Path(name), nodes=4, log_to_driver=False, logging_level="warning") as cluster,
    ):
        stage = Stage(cluster, hub, Path(name))
        for each in names or ALL:
            print(draw(each, ALL[each](stage), folder))


if __name__ == "__main__":
    main(sys.argv[1:])
