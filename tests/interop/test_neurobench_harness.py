"""NeuroBench's own harness on the same network and recordings. Needs neurobench and snntorch (extra `interop`)."""

from __future__ import annotations

import itertools

import nir
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("neurobench.models")

import torch
from neurobench.benchmarks import Benchmark
from neurobench.metrics.static import ConnectionSparsity, Footprint
from neurobench.metrics.workload import ActivationSparsity, SynapticOperations
from neurobench.models import TorchModel

from dpap_neuro.exchange.nir_import import from_graph
from dpap_neuro.networks.neurons import LIF
from hardware.graph.parsing import from_nir
from hardware.simulate import neurobench, reference


class Batchwise(TorchModel):
    """(batch, steps, ...) as NeuroBench has it, for a network that has time first."""

    def __call__(self, batch):
        with torch.no_grad():
            return self.net(batch.transpose(0, 1).float()).transpose(0, 1)


def population(*shape):
    full = lambda value: np.full(shape, value)  # noqa: E731
    return nir.LIF(full(0.1), full(1.0), full(0.0), full(0.3), full(0.0))


@pytest.mark.parametrize("most", [1, 3])
def test_metrics_equal_neurobenchs(most):
    rng = np.random.default_rng(0)

    def half(*shape):
        return (rng.normal(size=shape) * (rng.random(shape) < 0.5)).astype(np.float32)

    nodes = {
        "input": nir.Input(np.array([2, 9, 8])),
        "conv": nir.Conv2d((9, 8), half(4, 2, 3, 3) * 2, (2, 1), (1, 2), 1, 1, np.full(4, 0.1)),
        "n1": population(4, 5, 10),
        "grouped": nir.Conv2d((5, 10), half(6, 2, 3, 2) * 3, 1, (1, 0), (1, 2), 2, np.zeros(6)),
        "n2": population(6, 5, 8),
        "pool": nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        "flat": nir.Flatten({"input": np.array([6, 2, 4])}, 0, -1),
        "fc": nir.Affine(half(5, 48) * 2, np.full(5, 0.1)),
        "n3": population(5),
        "output": nir.Output(np.array([5])),
    }
    edges = list(itertools.pairwise(nodes))
    graph = from_nir(nir.NIRGraph(nodes, edges, metadata={"dt": 0.05}, type_check=False))
    raster = rng.integers(0, most + 1, (12, 7, 2, 9, 8)).astype(np.uint8)
    tally = neurobench.of_graph(graph)
    run = reference.simulate(graph, raster, record=tally.recorded, dtype=np.float32)
    tally.add(raster, run.counts, run.spikes)
    ours = tally.to_dict()

    model = Batchwise(from_graph(graph).eval())
    model.add_activation_module(LIF)
    data = torch.utils.data.TensorDataset(torch.as_tensor(raster), torch.zeros(12, dtype=torch.long))
    metrics = [[Footprint, ConnectionSparsity], [ActivationSparsity, SynapticOperations]]
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    theirs = Benchmark(model, loader, [], [lambda s: s.sum(1).argmax(1)], metrics).run(quiet=True)
    assert run.counts["n3"].sum() > 50
    assert ours["Footprint"] == theirs["Footprint"]
    assert round(ours["ConnectionSparsity"], 4) == theirs["ConnectionSparsity"]
    assert ours["ActivationSparsity"] == pytest.approx(theirs["ActivationSparsity"], abs=1e-12)
    assert ours["SynapticOperations"] == pytest.approx(theirs["SynapticOperations"], abs=1e-9)
    assert (ours["SynapticOperations"]["Effective_MACs"] > ours["SynapticOperations"]["Effective_ACs"]) == (
        most > 1
    )
