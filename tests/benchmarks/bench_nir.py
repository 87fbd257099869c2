"""Export, reading and import of a network of ten million synapses: seconds (of the clock, and of the processor, all in
all), and the highest memory of the process.

python tests/benchmarks/bench_nir.py
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from dpap_neuro.exchange.nir_export import to_nir, write_nir
from dpap_neuro.exchange.nir_import import from_graph
from dpap_neuro.networks.models import SpikingNetwork
from dpap_neuro.networks.neurons import LIF, NeuronSettings
from hardware.graph.parsing import read_graph

SETTINGS = NeuronSettings(dt=0.01, tau_mem=0.03)


def main() -> None:
    torch.manual_seed(0)
    network = SpikingNetwork(
        nn.Linear(2312, 3000), nn.BatchNorm1d(3000), LIF(SETTINGS), nn.Linear(3000, 1020), LIF(SETTINGS)
    ).eval()
    print("synapses", sum(p.numel() for p in network.parameters() if p.dim() == 2))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.nir"
        started = time.perf_counter()
        write_nir(to_nir(network, (2312,), SETTINGS.dt), path)
        written = time.perf_counter()
        graph = read_graph(path)
        read = time.perf_counter()
        from_graph(graph)
        done = time.perf_counter()
    print(f"export {written - started:.2f} s, read {read - written:.2f} s, import {done - read:.2f} s")
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    used = [resource.getrusage(kind) for kind in kinds]
    print(f"processor {sum(u.ru_utime + u.ru_stime for u in used):.2f} s, starting Python included")
    own, child = (u.ru_maxrss / 1024 for u in used)
    print(f"highest memory {own:.0f} MB, of the reading process {child:.0f} MB")


if __name__ == "__main__":
    main()
