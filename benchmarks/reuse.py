"""What it costs to know that a loaded model is unchanged, and what stays in memory, beside plain TensorFlow.

    python benchmarks/reuse.py

Prints: the second load of models of 100 MB in 10 variables and of 1 GB in 500 variables, in the same process, over
their first load; memory after five models of 80 MB, each dropped before the next, over `tf.saved_model.load`; the bytes
that a model of 200 MB takes along of which one variable of 1 MB was changed. Each in a process of its own.
"""

import json
import statistics
import subprocess
import sys
import tempfile

_PUBLISH = """
import sys
import tensorflow as tf

root, count, kilobytes, seed = sys.argv[1], *map(int, sys.argv[2:])
module = tf.Module()
module.layers = [tf.Variable(tf.fill([kilobytes, 256], float(seed + n))) for n in range(count)]
module.__call__ = tf.function(lambda row: module.layers[0][row], input_signature=[tf.TensorSpec([], tf.int32)])
tf.saved_model.save(module, root)
"""
_SECOND = """
import json, sys, time
import tensorflow as tf, hubdist

hubdist.init(store=sys.argv[1] + "-store")
begin = time.perf_counter()
model = hubdist.load(sys.argv[1])
first = time.perf_counter() - begin
times = []
for _ in range(41):
    begin = time.perf_counter()
    again = hubdist.load(sys.argv[1])
    times.append(time.perf_counter() - begin)
    assert again is model
print("FOUND", json.dumps([first, times]))
"""
_DROPPED = """
import gc, json, sys
from pathlib import Path
import tensorflow as tf, hubdist

def resident():
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024

way, *paths = sys.argv[1:]
hubdist.init(store=paths[0] + "-store")
for path in paths:
    hubdist.resolve(path)
tf.constant(1).numpy()
begin, grown = resident(), []
for path in paths:
    model = (hubdist.load if way == "hubdist" else tf.saved_model.load)(path)
    model(tf.constant(1)).numpy()
    grown.append(resident() - begin)
    del model
    gc.collect()
print("FOUND", json.dumps(max(grown)))
"""
_TRAVELS = """
import pickle, sys
import cloudpickle, tensorflow as tf, hubdist

hubdist.init(store=sys.argv[1] + "-store")
model = hubdist.load(sys.argv[1])
model.layers[0].assign_add(model.layers[0] + 1.0)
beside = []
data = cloudpickle.dumps(model, protocol=5, buffer_callback=beside.append)
print("FOUND", len(data) + sum(buffer.raw().nbytes for buffer in beside))
"""


def _run(code: str, *args: object) -> str:
    command = [sys.executable, "-c", code, *map(str, args)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return next((line[6:] for line in done.stdout.splitlines() if line.startswith("FOUND")), "")


def main() -> None:
    """Run all and print."""
    with tempfile.TemporaryDirectory() as root:
        for count, kilobytes in ((10, 10_000), (500, 2_000)):
            path = f"{root}/{count}"
            _run(_PUBLISH, path, count, kilobytes, 0)
            first, times = json.loads(_run(_SECOND, path))
            median, least, most = statistics.median(times), min(times), max(times)
            print(
                f"second load, {count} variables of {kilobytes / 1000:g} MB: {median * 1e3:.2f} ms"
                f" ({least * 1e3:.2f} to {most * 1e3:.2f}), {median / first:.4f} of the first load"
            )
        paths = [f"{root}/dropped-{number}" for number in range(5)]
        for number, path in enumerate(paths):
            _run(_PUBLISH, path, 1, 80_000, number)
        plain, ours = (json.loads(_run(_DROPPED, way, *paths)) for way in ("tensorflow", "hubdist"))
        print(f"five models of 80 MB, each dropped before the next: {ours / plain:.2f} of plain TensorFlow's memory")
        _run(_PUBLISH, f"{root}/travels", 200, 1_000, 0)
        sent = int(_run(_TRAVELS, f"{root}/travels"))
        print(f"one changed variable of 1 MB of a model of 200 MB: {sent:,} bytes travel")


if __name__ == "__main__":
    main()
