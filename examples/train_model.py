"""Fine-tune a published model on two Ray nodes, and serve what came of it.

    python examples/train_model.py MODEL_WHEEL

The model is Spotify's Basic Pitch (Apache-2.0), which hears notes in sound; `pip download --no-deps basic-pitch==0.4.0`
gets its wheel. Nobody has taught it the quiet square waves of old video games. Two workers of Ray Train, each on a node
with a store of its own, train its last layer on made-up melodies of them, under TensorFlow's
`MultiWorkerMirroredStrategy`. The checkpoint is a SavedModel, so its directory is a handle: an actor loads it, and
hears melodies that were not trained on.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
from ray.train.tensorflow import TensorflowTrainer

import hubdist
from hubdist.testing.cluster import RayCluster

RATE = 22_050  # samples per second
WINDOW = 43_844  # samples that the model takes at once
FRAMES = 172  # of its answer, for one window
HOP = 256  # samples per frame
LOWEST = 21  # MIDI number of the first of 88 columns
LAST_LAYER = "conv2d_3/"  # the one that says which notes sound
STEPS = 20
BATCH = 2  # melodies for each worker and step


def make_melody(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Four notes of square waves: the sound, float32 (WINDOW, 1), and where they sound, float32 (FRAMES, 88)."""
    random = np.random.default_rng(seed)
    sound, notes = np.zeros((WINDOW, 1), np.float32), np.zeros((FRAMES, 88), np.float32)
    time = np.arange(int(0.35 * RATE)) / RATE
    fade = np.minimum(1.0, np.minimum(time, time[::-1]) / 0.01)
    for begin in range(0, 4 * int(0.4 * RATE), int(0.4 * RATE)):
        pitch = int(random.integers(60, 84))
        wave = np.sign(np.sin(2 * np.pi * 440.0 * 2 ** ((pitch - 69) / 12) * time))
        sound[begin : begin + len(time), 0] += (0.03 * wave * fade).astype(np.float32)
        notes[begin // HOP : (begin + len(time)) // HOP, pitch - LOWEST] = 1.0
    return sound, notes


def make_batch(first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Melodies with the numbers from `first` on, one under the other."""
    melodies = [make_melody(first + number) for number in range(count)]
    return np.stack([sound for sound, _ in melodies]), np.stack([notes for _, notes in melodies])


def train(config: dict[str, Any]) -> None:
    """What each worker of Ray Train runs."""
    import keras
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():  # so that the variables are mirrored
        model = hubdist.load(config["handle"], own=True)  # own: nobody else gets what is trained here
        layer = [each for each in model.trainable_variables if each.name.startswith(LAST_LAYER)]
        optimizer = keras.optimizers.Adam(0.01)
        optimizer.build(layer)
    hear = model.signatures["serving_default"]

    def step(sound: tf.Tensor, notes: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            heard = tf.clip_by_value(hear(input_2=sound)["note"], 1e-4, 1 - 1e-4)
            loss = -tf.reduce_mean(notes * tf.math.log(heard) + (1 - notes) * tf.math.log(1 - heard))
        gradients = tape.gradient(loss, layer)
        optimizer.apply_gradients(zip(gradients, layer, strict=True))  # which sums them over the workers
        return loss

    @tf.function
    def step_of_all(sound: tf.Tensor, notes: tf.Tensor) -> tf.Tensor:
        return strategy.reduce("mean", strategy.run(step, args=(sound, notes)), axis=None)

    rank, workers = ray.train.get_context().get_world_rank(), strategy.num_replicas_in_sync
    for number in range(STEPS):
        sound, notes = make_batch((number * workers + rank) * BATCH, BATCH)
        loss = float(step_of_all(tf.constant(sound), tf.constant(notes)))
    with tempfile.TemporaryDirectory() as folder:  # every worker saves, the first one's is kept
        tf.saved_model.save(model, folder, signatures=dict(model.signatures))
        kept = ray.train.Checkpoint.from_directory(folder) if rank == 0 else None
        ray.train.report({"loss": loss, "workers": workers}, checkpoint=kept)


@ray.remote
class Listener:
    """Serves models by handle; each is loaded once."""

    def listen(self, handle: str, sound: np.ndarray) -> np.ndarray:
        """How surely each of 88 keys sounds in each frame, float32 (melodies, FRAMES, 88)."""
        return hubdist.load(handle).signatures["serving_default"](input_2=sound)["note"].numpy()


def main() -> None:
    """Start two nodes, train, serve, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="basic_pitch-0.4.0-py2.py3-none-any.whl on this machine")
    options = parser.parse_args()
    handle = f"zip://basic_pitch/saved_models/icassp_2022/nmp::{options.wheel.resolve()}"

    quiet = {
        "log_to_driver": False,
        "logging_level": "warning",
        "runtime_env": {"env_vars": {"TF_CPP_MIN_LOG_LEVEL": "3"}},
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        RayCluster(Path(folder), nodes=2, cpus=2, **quiet) as cluster,
    ):
        hubdist.init(store=cluster.store)  # two nodes on one machine: a store for each
        print(hubdist.prefetch(handle))
        result = TensorflowTrainer(
            train,
            train_loop_config={"handle": handle},
            scaling_config=ray.train.ScalingConfig(num_workers=2, placement_strategy="STRICT_SPREAD"),
            run_config=ray.train.RunConfig(storage_path=f"{folder}/results", name="square waves"),
        ).fit()
        print(f"{result.metrics['workers']} workers, {STEPS} steps, loss {result.metrics['loss']:.4f} in the end")
        sound, notes = make_batch(10_000, 4)  # not among those that were trained on
        listener = Listener.remote()
        for name, served in (("as published", handle), ("fine-tuned", result.checkpoint.path)):
            heard = ray.get(listener.listen.remote(served, sound), timeout=300)
            played, silent = heard[notes == 1].mean(), heard[notes == 0].mean()
            print(f"{name}: {played:.2f} sure of notes that sound, {silent:.3f} of those that do not")
        reads = [pin.origin_reads for pin in hubdist.status().pins]
        print(f"each origin was read once: {reads == [1, 1]}")


if __name__ == "__main__":
    main()
