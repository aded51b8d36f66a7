"""What hubdist adds to an import and to a load, against the plain thing in the same run.

    python benchmarks/load.py [--rounds 15]

Prints: `import hubdist` over a bare interpreter; a load in a new process whose node's store has the model over
`tf.saved_model.load` on the same directory, both without the import of TensorFlow; a second load in the same process.
Medians of interleaved rounds, each with its spread.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

_EXPORT = """
import sys, tensorflow as tf
class Dense(tf.Module):
    def __init__(self):
        self.layers = [tf.Variable(tf.random.normal((256, 256))) for _ in range(8)]
    @tf.function(input_signature=[tf.TensorSpec((None, 256))])
    def __call__(self, x):
        for w in self.layers:
            x = tf.nn.relu(x @ w)
        return x
tf.saved_model.save(Dense(), sys.argv[1])
"""
_PLAIN = """
import json, sys, time
import tensorflow as tf
begin = time.perf_counter()
tf.saved_model.load(sys.argv[1])
print(json.dumps([time.perf_counter() - begin]))
"""
_HUBDIST = """
import json, sys, time
import tensorflow as tf
import hubdist
from hubdist.client import api as client  # what a process has imported before its first load
from hubdist import loading as models  # what a process has imported before its first load
hubdist.status()
begin = time.perf_counter()
model = hubdist.load(sys.argv[2])
first = time.perf_counter() - begin
begin = time.perf_counter()
again = hubdist.load(sys.argv[2])
assert again is model
print(json.dumps([first, time.perf_counter() - begin]))
"""
_RAY = """
import json, sys
import ray
ray.init(num_cpus=1, log_to_driver=False, logging_level="error", include_dashboard=False)
import hubdist
hubdist.prefetch(sys.argv[2])
code = {hubdist!r}
{plain_name} = {plain!r}
@ray.remote(max_calls=1)
def timed(which, *args):
    import contextlib, io
    sys.argv = ["", *args]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code if which else {plain_name}, {{}})
    return json.loads(out.getvalue())
for _ in range(int(sys.argv[3])):
    print(json.dumps([ray.get(timed.remote(0, *sys.argv[1:3])), ray.get(timed.remote(1, *sys.argv[1:3]))]), flush=True)
"""


def run(code: str, *args: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run(
        [sys.executable, "-c", code, *args], check=True, capture_output=True, text=True, timeout=600
    ).stdout


def wall(code: str) -> float:
    """Seconds that a fresh interpreter takes."""
    timed = f"import subprocess, sys, time; b = time.perf_counter(); subprocess.run([sys.executable, '-c', {code!r}],"
    return float(run(f"{timed} check=True); print(time.perf_counter() - b)"))


def show(what: str, seconds: list[float]) -> None:
    """One line: median and range in milliseconds."""
    low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
    print(f"{what:66} {middle * 1e3:8.2f} ms  ({low * 1e3:.2f} to {high * 1e3:.2f})", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    bare, imported = [], []
    for _ in range(rounds):
        bare.append(wall("pass"))
        imported.append(wall("import hubdist"))
    show("import hubdist, over a bare interpreter", [b - a for a, b in zip(bare, imported, strict=True)])
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        model = f"{folder}/model"
        run(_EXPORT, model)
        where = run("import sys, hubdist; print(hubdist.resolve(sys.argv[1]))", model).strip()
        script = _RAY.format(hubdist=_HUBDIST, plain=_PLAIN, plain_name="plain")
        pairs = [json.loads(line) for line in run(script, where, model, str(rounds)).splitlines()]
    plain = [pair[0][0] for pair in pairs]
    ours = [pair[1][0] for pair in pairs]
    show("tf.saved_model.load in a new Ray process", plain)
    show("hubdist.load in a new Ray process whose node's store has it", ours)
    show("  difference, pair by pair", [b - a for a, b in zip(plain, ours, strict=True)])
    show("second hubdist.load in the same process", [pair[1][1] for pair in pairs])


if __name__ == "__main__":
    main()
