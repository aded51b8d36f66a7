"""Ask a model in several processes, with Ray and tensorflow_hub alone: nothing here is made for hubdist.

    python examples/unchanged_tensorflow_hub.py HANDLE [--processes 4] [--reference DIRECTORY]

With a variable in front of it, all its processes get the model from hubdist, and the hub is read once:

    RAY_RUNTIME_ENV_HOOK=hubdist.integrations.tensorflow_hub.install_everywhere python ...

The model takes words and has the signature `serving_default`. Each process loads it by `hub.load` and as a layer. It
prints a line of JSON for each process: its node, and what both answered. With `--reference` it also prints what they
answer for the model in that directory.
"""

import argparse
import json

import ray


@ray.remote(num_cpus=1)
class Embedder:
    """One process that holds models."""

    def answers(self, handle: str) -> list[object]:
        """What the model answers by itself, as a layer, and as a layer with a signature."""
        import tensorflow as tf
        import tensorflow_hub as hub

        words = tf.constant(["two", "zero", "one"])
        by_load = hub.load(handle)(words)
        by_layer = hub.KerasLayer(handle, trainable=True)(words)
        signature = hub.KerasLayer(handle, signature="serving_default", signature_outputs_as_dict=True)
        by_signature = {name: values.numpy().tolist() for name, values in signature(words).items()}
        return [by_load.numpy().tolist(), by_layer.numpy().tolist(), by_signature, hub.resolve(handle) != ""]

    def node(self) -> str:
        """The id of the node that this process runs on."""
        return ray.get_runtime_context().get_node_id()


def main() -> None:
    """Start the processes, ask them all at once, and print what they say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("handle", help="for example https://tfhub.dev/google/nnlm-en-dim50/2")
    parser.add_argument("--processes", type=int, default=4, help="how many load the model")
    parser.add_argument("--reference", help="a directory that all nodes have, with a model that answers the same")
    options = parser.parse_args()
    ray.init(log_to_driver=False, logging_level="warning")
    embedders = [Embedder.options(scheduling_strategy="SPREAD").remote() for _ in range(options.processes)]
    nodes = ray.get([embedder.node.remote() for embedder in embedders], timeout=300)
    answers = ray.get([embedder.answers.remote(options.handle) for embedder in embedders], timeout=600)
    references = [None] * len(embedders)
    if options.reference is not None:
        references = ray.get([embedder.answers.remote(options.reference) for embedder in embedders], timeout=300)
    for node, answer, reference in zip(nodes, answers, references, strict=True):
        print(json.dumps({"node": node, "answers": answer, "reference": reference}))


if __name__ == "__main__":
    main()
