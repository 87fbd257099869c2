"""Builds the kernels of `dpap_neuro.networks.scan_triton`, or with "exact" those of `dpap_neuro.precision.scan_triton`, for
GPUs that are not there; prints what came out as JSON.

python tests/kernel_builds.py cuda 80      (or: hip gfx942 exact)

The launches are real, with their specialisations to sizes and types; a driver of our own names the GPU, and instead of a
run each launch ends in the built kernel.
"""

import io
import json
import os
import re
import sys
import tempfile
from contextlib import redirect_stdout
from dataclasses import replace

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from dpap_neuro.networks import SURROGATES, scan_triton
from dpap_neuro.networks.dynamics import DYNAMICS, Dynamics
from dpap_neuro.networks.surrogates import Surrogate
from dpap_neuro.precision import scan_triton as exact_triton
from dpap_neuro.precision.scan import Integers

# (T, B, neurons), columns of constants, type: one set for all; sizes of one, which Triton builds in; a set for each.
CASES = [
    ((9, 2, 7), 1, torch.float32),
    ((1, 1, 1), 1, torch.float16),
    ((8, 2, 32), 32, torch.float64),
]
# Launches at the end that are not looked through for fused operations.
EXPONENTIAL = 4 * len(CASES)


class Absent:
    """The driver of a GPU that kernels are built for."""

    def __init__(self, target):
        self.target = target

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


def launched(target, module):
    """The list to which the kernels of a module add what is built of them, one for each launch."""
    driver.set_active(Absent(target))
    built = []
    for kernel in (module.forward_kernel, module.backward_kernel):

        def run(*args, run=kernel.run, **options):
            built.append(run(*args, **{**options, "warmup": True}))

        kernel.run = run
    return built


def build_exact(target):
    """Kernels of read-outs and of both resets, over whole recordings and over one step of them."""
    built = launched(target, exact_triton)
    surrogates = {
        (False, False): ["superspike"],
        (True, False): list(SURROGATES),
        (True, True): ["superspike"],
    }
    for (spikes, subtract), name in ((kind, name) for kind, names in surrogates.items() for name in names):
        for shape, width, _ in CASES:
            x = torch.zeros(shape).reshape(shape[0], -1)
            own = torch.zeros(width, dtype=torch.int32)
            integers = Integers(own, own, own, own, torch.ones(width), spikes, subtract, Surrogate(name, 2.0))
            state, membranes = torch.zeros(x.shape[1], dtype=torch.int32), x.int()
            for begin in {0, len(x) - 1}:
                exact_triton.forward(x, integers, state, state, x, membranes, begin, len(x))
                exact_triton.backward(x, integers, membranes, *(x[0],) * 4, x, begin, len(x))
    return built


def build(target):
    """Kernels of every kind of neuron and every case, one for each launch."""
    built = launched(target, scan_triton)
    # Of Norse's LIFBox the parameters, not the step, say the reset.
    box = Dynamics(current=False, leak=True, spikes=True, subtracts=True)
    others = [replace(box, surrogate=Surrogate(name, 2.0)) for name in SURROGATES if name != "superspike"]
    # Last the one with an exponential, in which a GPU fuses.
    others.sort(key=lambda kind: kind.surrogate.name == "sigmoid")
    for kind in (*dict.fromkeys(DYNAMICS.values()), box, *others):
        for shape, width, dtype in CASES:
            for learned in (False, True):
                x = torch.zeros(shape, dtype=dtype)
                constants = torch.zeros(7, width, dtype=torch.promote_types(dtype, torch.float32))
                out, membranes, drives = scan_triton.forward(x, constants, kind, True, learned)
                kept = membranes, x if drives is None else drives
                scan_triton.backward(out, constants, *kept, kind, learned, 0.01)
    return built


def main(backend, arch, which="float"):
    target = GPUTarget(backend, int(arch) if arch.isdigit() else arch, 64 if backend == "hip" else 32)
    # Built anew, so that NVIDIA's assembler tells of registers and spills.
    with tempfile.TemporaryDirectory() as cache, redirect_stdout(io.StringIO()) as said:
        os.environ |= {"TRITON_CACHE_DIR": cache, "TRITON_DUMP_PTXAS_LOG": "1"}
        built = (build_exact if which == "exact" else build)(target)
    strict = built if which == "exact" else built[:-EXPONENTIAL]
    found = {
        "launches": len(built),
        "registers": [int(n) for n in re.findall(r"Used (\d+) registers", said.getvalue())],
        "spilled": sum(int(n) for n in re.findall(r"(\d+) bytes spill", said.getvalue())),
        "fused": sum(len(re.findall(r"\bfma\.", kernel.asm.get("ptx", ""))) for kernel in strict),
        "bytes": min(len(kernel.asm["hsaco" if backend == "hip" else "cubin"]) for kernel in built),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
