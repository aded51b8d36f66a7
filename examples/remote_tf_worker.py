"""Load a model onto a TensorFlow worker that has neither Ray nor the model's files.

    python examples/remote_tf_worker.py [--worker HOST:PORT]

Without `--worker` a `tf.distribute.Server` is started as another process of this machine. The model has a variable and
a vocabulary file. `experimental_io_device="/job:localhost"`, TensorFlow's own way, would bring the worker the variable
and then fail, for it does not cover the file. Under a strategy whose devices are elsewhere, such as `TPUStrategy` or
`ParameterServerStrategy`, write `with strategy.scope(): hubdist.load(handle)` instead of naming a device.
"""

import argparse
import multiprocessing
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import tensorflow as tf

import hubdist

COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}
UNKNOWN = (0.5, 0.5, 0.5)
DEVICE = "/job:worker/task:0"


class ColourNames(tf.Module):
    """Words to colours: a vocabulary file says which row of a variable."""

    def __init__(self, vocabulary: Path) -> None:
        super().__init__()
        line = tf.lookup.TextFileIndex
        lines = tf.lookup.TextFileInitializer(str(vocabulary), tf.string, line.WHOLE_LINE, tf.int64, line.LINE_NUMBER)
        self.rows = tf.lookup.StaticHashTable(lines, len(COLOURS))
        self.colours = tf.Variable([*COLOURS.values(), UNKNOWN])

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
    def __call__(self, words: tf.Tensor) -> tf.Tensor:
        """One colour for each word: (words, 3)."""
        return tf.gather(self.colours, self.rows.lookup(words))


def save_model(folder: Path) -> str:
    """Write the model as a SavedModel; its directory is the handle."""
    vocabulary = folder / "colours.txt"
    vocabulary.write_text("\n".join(COLOURS))
    tf.saved_model.save(ColourNames(vocabulary), str(folder / "model"))
    return str(folder / "model")


def serve(ready: Connection) -> None:
    """Be a TensorFlow worker on a free port until the process is ended."""
    server = tf.distribute.Server({"worker": ["localhost:0"]}, job_name="worker", task_index=0)
    ready.send(server.target.removeprefix("grpc://"))
    server.join()


def ask(handle: str, worker: str) -> None:
    """Load the model onto the worker and use it."""
    tf.config.experimental_connect_to_host(worker)
    model = hubdist.load(handle, device=DEVICE)
    print(f"variable on {model.colours.device}")
    words = ["green", "blue", "mauve"]
    for word, colour in zip(words, model(tf.constant(words)).numpy().tolist(), strict=True):
        print(f"{word}: {colour}")


def main() -> None:
    """Start a worker if none is given, and ask it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", metavar="HOST:PORT", help="a tf.distribute.Server that runs already")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        hubdist.init(store=f"{folder}/store")
        handle = save_model(Path(folder))
        if options.worker:
            ask(handle, options.worker)
            return
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
        process.start()
        try:
            if not ours.poll(60):
                raise SystemExit("the worker did not start within 60 s")
            ask(handle, ours.recv())
        finally:
            process.kill()
            process.join()


if __name__ == "__main__":
    main()
