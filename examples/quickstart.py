"""Transcribe a melody on three Ray nodes with a model that only the driver has.

    python examples/quickstart.py MODEL_WHEEL [--out DIRECTORY]

The model is Spotify's Basic Pitch (Apache-2.0), a TensorFlow SavedModel inside the wheel `basic-pitch==0.4.0`. The
driver names a directory inside that file; every task calls `hubdist.load` with the same words, on whichever node it
runs, and the three nodes have a model store each. `make demo` gets the wheel and runs this.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from ray.cluster_utils import Cluster

import hubdist

RATE = 22_050  # samples per second
WINDOW = 43_844  # samples that the model takes at once
HOP = 256  # samples per frame of its answer; 172 frames per window
MARGIN = 15  # frames at each end of a window that the next window knows better
STEP = (172 - 2 * MARGIN) * HOP  # samples from one window to the next
LOWEST = 21  # MIDI number of the first column, the piano's lowest A

MELODY = [  # start and length in seconds, MIDI notes that sound together
    (0.3, 0.9, (60, 64, 67)),
    (1.3, 0.4, (72,)),
    (1.8, 0.4, (71,)),
    (2.3, 0.9, (57, 60, 64)),
    (3.3, 0.4, (69,)),
    (3.8, 0.4, (67,)),
    (4.3, 0.9, (53, 57, 60)),
    (5.3, 0.4, (65,)),
    (5.8, 0.4, (64,)),
    (6.3, 0.9, (55, 59, 62)),
    (7.3, 0.4, (67,)),
    (7.8, 0.4, (71,)),
    (8.3, 1.4, (60, 64, 67, 72)),
]


@dataclass(frozen=True)
class Note:
    """A note: start and end in seconds, MIDI number."""

    start: float
    end: float
    pitch: int


PLAYED = [Note(start, start + length, pitch) for start, length, chord in MELODY for pitch in chord]


def synthesise(notes: list[Note]) -> np.ndarray:
    """Mono sound, float32, of notes that have six harmonics each and decay like a plucked string."""
    sound = np.zeros(int((max(note.end for note in notes) + 0.5) * RATE), dtype=np.float32)
    for note in notes:
        time = np.arange(int((note.end - note.start) * RATE)) / RATE
        frequency = 440.0 * 2 ** ((note.pitch - 69) / 12)
        harmonics = sum(np.sin(2 * np.pi * k * frequency * time) * np.exp(-k * time) / k for k in range(1, 7))
        fade = np.minimum(1.0, np.minimum(time, time[::-1]) / 0.01)
        begin = int(note.start * RATE)
        sound[begin : begin + len(time)] += (0.15 * harmonics * fade).astype(np.float32)
    return sound


def cut_windows(sound: np.ndarray) -> list[np.ndarray]:
    """Windows of the sound; each begins MARGIN frames before the part that it is asked for."""
    count = -(-len(sound) // STEP)
    padded = np.pad(sound, (MARGIN * HOP, count * STEP + WINDOW - len(sound)))
    return [padded[i * STEP : i * STEP + WINDOW] for i in range(count)]


@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def transcribe(handle: str, window: np.ndarray) -> tuple[str, np.ndarray]:
    """The node that did it, and how surely each of 88 keys sounds in each frame: (172 - 2 * MARGIN, 88)."""
    model = hubdist.load(handle)
    answer = model.signatures["serving_default"](input_2=window.reshape(1, WINDOW, 1))
    return ray.get_runtime_context().get_node_id(), answer["note"].numpy()[0, MARGIN:-MARGIN]


def find_notes(activation: np.ndarray, threshold: float = 0.4, shortest_s: float = 0.15) -> list[Note]:
    """Notes where a key sounds surely enough for long enough; `activation` is (frames, 88)."""
    notes = []
    for key in range(activation.shape[1]):
        sounding = np.concatenate(([False], activation[:, key] > threshold, [False]))
        edges = np.flatnonzero(sounding[1:] != sounding[:-1]) * HOP / RATE
        notes += [
            Note(start, end, LOWEST + key)
            for start, end in zip(edges[::2], edges[1::2], strict=True)
            if end - start > shortest_s
        ]
    return sorted(notes, key=lambda note: (note.start, note.pitch))


def matches(found: Note, played: Note) -> bool:
    """The same key at about the same time."""
    return found.pitch == played.pitch and abs(found.start - played.start) < 0.12


def draw(activation: np.ndarray, found: list[Note], path: Path) -> None:
    """A piano roll: what the model heard, the notes found in it, the notes that were played."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots()
    extent = (0, len(activation) * HOP / RATE, LOWEST - 0.5, LOWEST + 87.5)
    image = axes.imshow(activation.T, origin="lower", aspect="auto", extent=extent, cmap="Greys", vmin=0, vmax=1)
    for number, note in enumerate(found):
        label = "found" if number == 0 else None
        box = (note.start, note.pitch - 0.5), note.end - note.start, 1
        axes.add_patch(Rectangle(*box, color="tab:orange", alpha=0.55, label=label))
    for number, note in enumerate(PLAYED):
        label = "played" if number == 0 else None
        box = (note.start, note.pitch - 0.5), note.end - note.start, 1
        axes.add_patch(Rectangle(*box, fill=False, edgecolor="tab:blue", linewidth=1.5, label=label))
    pitches = [note.pitch for note in (*PLAYED, *found)]
    axes.set(ylim=(min(pitches) - 4, max(pitches) + 4), xlabel="time in seconds", ylabel="MIDI note")
    axes.set_title("Basic Pitch on three Ray nodes")
    axes.legend(loc="upper right", ncols=2)
    figure.colorbar(image, label="note activation", pad=0.01)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Start three nodes, transcribe, compare, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="basic_pitch-0.4.0-py2.py3-none-any.whl on this machine")
    parser.add_argument("--out", type=Path, default=Path("build/demo"), help="where the picture goes")
    options = parser.parse_args()
    handle = f"zip://basic_pitch/saved_models/icassp_2022/nmp::{options.wheel.resolve()}"
    windows = cut_windows(synthesise(PLAYED))

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        quiet = {"env_vars": {"TF_CPP_MIN_LOG_LEVEL": "3"}}
        ray.init(address=cluster.address, log_to_driver=False, logging_level="warning", runtime_env=quiet)
        with tempfile.TemporaryDirectory() as stores:
            hubdist.init(store=f"{stores}/{{node_id}}")  # three nodes on one machine: a store for each
            print(f"{len(windows)} windows of sound for {len(ray.nodes())} nodes, model {handle}\n")
            answers = ray.get([transcribe.remote(handle, window) for window in windows], timeout=600)
            status = hubdist.status()
            hubdist.shutdown()
    finally:
        ray.shutdown()
        cluster.shutdown()

    print("Where the model came from:")
    for pin in status.pins:
        print(f"  coordinator on {status.coordinator}: {pin.total_bytes:,} bytes from the {pin.source}")
        times = "once" if pin.origin_reads == 1 else f"{pin.origin_reads} times"
        print(f"  the origin was read {times}; {pin.digest}")
    for delivery in status.deliveries:
        print(f"  {delivery}")
    print("Where the windows were transcribed:")
    for node in sorted({node for node, _ in answers}):
        print(f"  {node[:8]}: {sum(other == node for other, _ in answers)} windows")

    activation = np.concatenate([part for _, part in answers])
    found = find_notes(activation)
    missed = [note for note in PLAYED if not any(matches(other, note) for other in found)]
    extra = [note for note in found if not any(matches(note, other) for other in PLAYED)]
    heard = len(PLAYED) - len(missed)
    print(f"Notes: {len(PLAYED)} played, {heard} of them found; {len(extra)} found that were not played")
    for word, notes in (("missed", missed), ("found, not played", extra)):
        for note in notes:
            print(f"  {word}: MIDI {note.pitch} at {note.start:.2f} s")
    picture = options.out / "piano-roll.png"
    draw(activation, found, picture)
    print(f"Picture: {picture}")
    reads = [pin.origin_reads for pin in status.pins]
    if reads != [1] or len(missed) + len(extra) > 3:
        raise SystemExit("demo failed: see above")


if __name__ == "__main__":
    main()
