"""Fine-tune a published model as a layer of Keras 3, save the model around it, and load it again.

    python examples/fine_tune_layer.py MODEL_WHEEL [--out FILE] [--steps NUMBER]

The model is Spotify's Basic Pitch (Apache-2.0), a TensorFlow SavedModel inside the wheel `basic-pitch==0.4.0`; `make
demo` gets the wheel. It hears which notes sound. Here it learns to write for the piccolo, whose notes are written an
octave below their sound, from notes that this program plays to it. Then it writes others that it has never heard.
"""

import argparse
import tempfile
from pathlib import Path

import keras
import numpy as np

import hubdist
from hubdist.integrations.keras import HubLayer

RATE = 22_050  # samples per second
WINDOW = 43_844  # samples that the model takes at once
FRAMES = 172  # frames of its answer for a window
OCTAVE = 12  # semitones
LOWEST = 21  # MIDI number of the first of its 88 keys, the piano's lowest A


def play(random: np.random.Generator, windows: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows of sound with four notes each, and which key is written in which frame: (windows, FRAMES, 88)."""
    sound = np.zeros((windows, WINDOW, 1), dtype=np.float32)
    keys = np.zeros((windows, FRAMES, 88), dtype=np.float32)
    length = WINDOW // 4
    for window in range(windows):
        for note in range(4):
            sounds = int(random.integers(60, 84))  # as a MIDI number
            time = np.arange(length) / RATE
            tone = 0.3 * np.sin(2 * np.pi * 440.0 * 2 ** ((sounds - 69) / 12) * time)
            fade = np.minimum(1.0, np.minimum(time, time[::-1]) / 0.02)
            sound[window, note * length : (note + 1) * length, 0] = tone * fade
            keys[window, note * FRAMES // 4 : (note + 1) * FRAMES // 4, sounds - OCTAVE - LOWEST] = 1.0
    return sound, keys


def heard(model: keras.Model, sound: np.ndarray, keys: np.ndarray) -> str:
    """In how many frames the key that the model hears best is the written one."""
    right = model.predict(sound, verbose=0).argmax(axis=-1) == keys.argmax(axis=-1)
    return f"the written key in {right.mean():.0%} of the frames"


def main() -> None:
    """Fine-tune, save, load, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="basic_pitch-0.4.0-py2.py3-none-any.whl on this machine")
    parser.add_argument("--out", type=Path, default=Path("build/demo/piccolo.keras"), help="where the model goes")
    parser.add_argument("--steps", type=int, default=8, help="how many times it hears the notes")
    options = parser.parse_args()
    handle = f"zip://basic_pitch/saved_models/icassp_2022/nmp::{options.wheel.resolve()}"
    random = np.random.default_rng(5)
    played, held_back = play(random, 3), play(random, 2)
    options.out.parent.mkdir(parents=True, exist_ok=True)

    with tempfile.TemporaryDirectory() as store:
        hubdist.init(store=store)
        layer = HubLayer(handle, trainable=True, name="basic_pitch")
        sound = keras.Input((WINDOW, 1), name="sound")
        model = keras.Model(sound, layer(sound)["note"])
        print(f"{len(layer.trainable_weights)} of {len(layer.weights)} weights are trained")
        print(f"published:  {heard(model, *held_back)}")
        model.compile(keras.optimizers.Adam(0.003), "categorical_crossentropy")  # one note at a time
        model.fit(*played, batch_size=3, epochs=options.steps, verbose=0)
        print(f"fine-tuned: {heard(model, *held_back)}")
        model.save(options.out)
        config = layer.get_config()
        print(f"saved {options.out.stat().st_size:,} bytes, with the handle and {config['digest'][:23]}...")
        loaded = keras.models.load_model(options.out)
        print(f"loaded:     {heard(loaded, *held_back)}")
        hubdist.shutdown()


if __name__ == "__main__":
    main()
