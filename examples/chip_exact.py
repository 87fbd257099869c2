"""Chip-exact training: what the network computes while it learns is what the chip will compute, to the last bit.

    python examples/chip_exact.py            # half a minute, downloads nothing

A network trained in floats and rounded afterwards is another network: its membranes pass thresholds in other steps. Here 2-bit weights are
made in three ways, on digits seen by a simulated event camera: rounded, trained on the integers from the start, and finetuned on them.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path, default=Path("exact"), help="folder for all that is written")
parser.add_argument("--bits", type=int, default=2)
parser.add_argument("--epochs", type=int, default=4)
given = parser.parse_args()
folder, common = shlex.quote(str(given.out)), "--dataset digits"


def type_in(command: str) -> dict:
    """Type a command of dpap-neuro; with --json it prints one object, for programs."""
    print(f"\n$ dpap-neuro {command}", flush=True)
    wants = "--json" in command
    words = [sys.executable, "-m", "dpap_neuro.cli", *shlex.split(command)]
    done = subprocess.run(words, check=True, text=True, stdout=subprocess.PIPE if wants else None)
    return json.loads(done.stdout) if wants else {}


# 1. In floats, half of the weights pruned while it learns.
learn = f"{common} --model mlp --pruner weighted --sparsity 0.5 --force"
type_in(f"train {learn} --epochs {given.epochs} --out {folder}/float")
rounded = type_in(
    f"evaluate {folder}/float/model.nir {common} --backend fixed --chip loihi2 --weight-bits {given.bits} --json"
)

# 2. The same on the chip's integers from the first step: weights of so many bits with a shared exponent, decays of 12 bits, membranes of
#    24 that wrap, every truncation. Gradients go through surrogates, in the units of the float membrane.
type_in(
    f"train {learn} --epochs {given.epochs} --precision loihi --weight-bits {given.bits} --out {folder}/exact"
)

# 3. Or from the float network: its batch norms folded, its pruned weights still pruned. A few epochs are enough.
type_in(
    f"finetune {folder}/float {common} --precision loihi --weight-bits {given.bits} --epochs 2 --force --out {folder}/fine"
)

# 4. The proof. `fidelity RUN` runs the trained forward pass and the simulator on the test recordings, and compares every spike and every
#    read-out membrane. It ends with status 3 where one differs, so that a script may rely on it. --backend lava asks real Lava.
proofs = {name: type_in(f"fidelity {folder}/{name} {common} --json") for name in ("exact", "fine")}

print(f"\nWith {given.bits} bits, {proofs['exact']['recordings']} test recordings:")
print(f"  rounded after training in floats: {rounded['accuracy']:.2%}")
for name, said in (("exact", "trained on the integers:"), ("fine", "finetuned on them:")):
    proof = proofs[name]
    learned = json.loads((given.out / name / "run.json").read_text())["history"][-1]
    print(f"  {said:33} {learned['accuracy']:.2%}, {proof['differing']} of {proof['values']:,} values differ")
    assert proof["differing"] == 0
# What `compile` makes of the exported file are these integers, none other: its scales are pinned in the file.
