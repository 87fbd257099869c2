"""From recordings to cores: a folder of recordings, a network that learns them and is pruned, the chip's integers, the cores.

    python examples/recordings_to_cores.py            # half a minute, downloads nothing

Every step is a command that you can type yourself; this script types them, and says what to look at. With recordings of your own, leave
out step 1 and give their folder: python examples/recordings_to_cores.py --recordings FOLDER --sensor 346x260 --epochs 24
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path, default=Path("tutorial"), help="folder for all that is written")
parser.add_argument("--recordings", type=Path, help="your own, in place of those made here")
parser.add_argument("--sensor", default="24x24", help="columns x rows")
parser.add_argument("--epochs", default=6, type=int)
given = parser.parse_args()
given.out.mkdir(parents=True, exist_ok=True)


def step(title: str, command: str, look: str) -> None:
    """Type a command, and say what to look at in what it printed."""
    print(f"\n=== {title}\n$ dpap-neuro {command}\n", flush=True)
    subprocess.run([sys.executable, "-m", "dpap_neuro.cli", *shlex.split(command)], check=True)
    print(f"\n--> {look}", flush=True)


# 1. Recordings. A folder for each class, a file for each recording. Here: a bar of light that crosses a camera of 24 x 24 pixels in a
#    fifth of a second, in one of three directions, with noise. An event is a time in microseconds, a column, a row, and a polarity.
def bar(direction: str, rng: np.random.Generator) -> np.ndarray:
    t = np.sort(rng.integers(0, 200_000, 700))
    place = (t / 200_000 * 24 + rng.normal(0, 0.8, t.size) + rng.uniform(-3, 3)) % 24
    across = rng.integers(0, 24, t.size)
    x, y = {"right": (place, across), "left": (23.9 - place, across), "down": (across, place)}[direction]
    events = np.zeros(t.size, [("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "?")])
    events["t"], events["x"], events["y"] = t, np.clip(x, 0, 23), np.clip(y, 0, 23)
    events["p"] = rng.random(t.size) < 0.7
    noise = rng.random(t.size) < 0.3
    events["x"][noise], events["y"][noise] = rng.integers(0, 24, (2, noise.sum()))
    return events


recordings = given.recordings
if recordings is None:
    recordings = given.out / "recordings"
    rng = np.random.default_rng(0)
    for direction in ("right", "left", "down"):
        (recordings / direction).mkdir(parents=True, exist_ok=True)
        for number in range(60):
            np.save(recordings / direction / f"{number:03}.npy", bar(direction, rng))
data = f"--dataset {shlex.quote(str(recordings))} --sensor {given.sensor}"
run, chip = shlex.quote(str(given.out / "run")), "--chip loihi1"

# 2. Learn, and prune while learning. A fifth of the recordings is held out and never trained on. --clip 1: a pixel spikes or does not,
#    as the chip's inputs do; without it a pixel counts its events in a step, which Loihi 2 takes and Loihi 1 does not.
step(
    "learn, and remove nine weights of ten on the way",
    f"train {data} --bins 10 --clip 1 --model mlp --pruner weighted --sparsity 0.9 --epochs {given.epochs} --batch 16 --force --out {run}",
    "parameters go down to a tenth, test accuracy must not: where it does, train for longer, or prune less.",
)

# 3. One file that holds the network: weights, time constants, the step, the reset, how recordings are to be binned.
step(
    "the network as a file",
    f"export {run} --out {given.out}/network.nir",
    "a line says which frameworks read this file as it is. For another one, name it: --for snntorch.",
)

# 4. Integers: weights of 8 bits, thresholds of 17, decays of 12.
step(
    "the chip's integers",
    f"compile {given.out}/network.nir {chip} --out {given.out}/network.h5",
    "how far weights, thresholds and decays moved when they were rounded, and how many weights became 0. That is not yet what it costs:",
)

# 5. Does the chip decide as the trained network does? Spike by spike, on the recordings that were held out.
step(
    "what rounding costs",
    f"fidelity {given.out}/network.nir {data} {chip}",
    "'alike': of all spikes of either, those that both fire, in the same neuron and step; accuracy counts decisions. Where spikes part, "
    "try --weight-bits, --pairs auto or compile --calibrate; where they still do, train the chip's integers: examples/chip_exact.py.",
)

# 6. Which neuron sits where?
step(
    "cores",
    f"cores {given.out}/network.nir {chip}",
    "the 'tight' resource is what a larger network would run out of first. Exit status 3 says that a network does not fit; "
    "`train --chip loihi1 --max-cores 4` prunes until it fits on four.",
)

# 7. All of it on a page.
step(
    "the page",
    f"report {run} {data} {chip} --out {given.out}/report.html",
    f"open {given.out}/report.html: it needs no network.",
)
