"""Try a model on the nodes of a Ray cluster; see README.md.

    python try_model.py HANDLE [--tasks N]

Every task loads the model by its handle, on whichever node it runs, and calls the model's serving signature with a
small input: ones, or the word "hello".
"""

import argparse
import os
import time
from dataclasses import dataclass

import numpy as np
import ray

import hubdist


@dataclass(frozen=True)
class Answer:
    """What a task found: where it ran, how long `hubdist.load` took, the signature's outputs by name."""

    node_id: str
    process: int
    load_s: float
    outputs: dict[str, np.ndarray]


@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def try_model(handle: str, signature: str) -> Answer:
    """Load the model on this node and call it once."""
    started = time.monotonic()
    model = hubdist.load(handle)
    load_s = time.monotonic() - started
    if signature not in model.signatures:
        raise SystemExit(f"no signature {signature!r}; the model has: {', '.join(model.signatures) or 'none'}")
    serve = model.signatures[signature]
    _, inputs = serve.structured_input_signature
    outputs = serve(**{name: small_input(spec) for name, spec in inputs.items()})
    return Answer(
        node_id=ray.get_runtime_context().get_node_id(),
        process=os.getpid(),
        load_s=load_s,
        outputs={name: np.asarray(tensor) for name, tensor in sorted(outputs.items())},
    )


def small_input(spec):
    """A tensor for a `tf.TensorSpec`; every dimension that is open has length 1."""
    import tensorflow as tf  # only the tasks need TensorFlow, not the driver

    shape = [] if spec.shape.rank is None else [size or 1 for size in spec.shape]
    return tf.fill(shape, "hello") if spec.dtype == tf.string else tf.ones(shape, spec.dtype)


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Equal; floating-point numbers within what different processors make of them."""
    if one.shape != other.shape or one.dtype.kind != "f":
        return np.array_equal(one, other)
    return np.allclose(one, other, rtol=1e-3, atol=1e-5, equal_nan=True)


def main() -> None:
    """Run the tasks, print their answers, compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("handle", help="the model: a URL, gs://..., or a path on the head node")
    parser.add_argument("--tasks", type=int, help="how many; default: two for each node")
    parser.add_argument("--signature", default="serving_default", help="default: serving_default")
    options = parser.parse_args()

    ray.init()  # `ray job submit` has set RAY_ADDRESS
    names = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    tasks = options.tasks or 2 * len(names)
    answers = ray.get([try_model.remote(options.handle, options.signature) for _ in range(tasks)], timeout=3600)

    for answer in answers:
        place = f"{names.get(answer.node_id, 'a new node')}/{answer.node_id[:8]} process {answer.process}"
        for name, values in answer.outputs.items():
            begin = ", ".join(str(value) for value in values.flatten()[:4])
            print(f"{place}: loaded in {answer.load_s:.2f} s; {name} {values.dtype}{list(values.shape)}: {begin}")
    print(hubdist.status())

    first = answers[0].outputs
    if any(not same(answer.outputs[name], first[name]) for answer in answers for name in first):
        raise SystemExit("the answers differ")
    print(f"OK: {len(answers)} equal answers from {len({answer.node_id for answer in answers})} node(s)")


if __name__ == "__main__":
    main()
