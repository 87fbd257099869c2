"""Two processes with half the batch each prune what one process with the whole batch prunes."""

import os
import socket

import pytest

torch = pytest.importorskip("torch")

from pruning_samples import Lif, conv_net, events  # noqa: E402
from torch import nn  # noqa: E402

from dpap_neuro.pruning import make_pruner  # noqa: E402

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="torch without gloo",
)
GOALS = {"dpap": {"time_bins": True}, "dpap-weighted": {"sparsity": 0.7}, "rigl": {"sparsity": 0.7}}


def network():
    torch.manual_seed(0)
    # Float64, and no batch norm: its statistics are those of a rank's own part of the batch.
    model = conv_net(neuron=lambda: Lif(0.15)).double()
    for place in (5, 1):
        model.stages[place] = nn.Identity()
    return model


def run(rank, world):
    """Masks per epoch of a run whose ranks share every batch of 8."""
    x, y = events(batch=16).double(), torch.arange(16) % 3
    result = {}
    for name, goal in GOALS.items():
        model = network()
        pruner = make_pruner(name, epochs=4, **goal).attach(model, x)
        trained = nn.parallel.DistributedDataParallel(model) if world > 1 else model
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        model.train()
        for epoch in range(4):
            for first in (0, 8):
                part = slice(first + rank * 8 // world, first + (rank + 1) * 8 // world)
                shown = x[pruner.kept_bins] if pruner.kept_bins is not None else x
                optimizer.zero_grad()
                nn.functional.cross_entropy(trained(shown[:, part]).mean(0), y[part]).backward()
                optimizer.step()
                pruner.step(optimizer)
            pruner.end_epoch(epoch, optimizer)
            result[name, epoch] = {k: v.clone() for k, v in pruner.masks.weights.items()}
        if pruner.kept_bins is not None:
            result[name, "bins"] = pruner.kept_bins
        if pruner.statistics is not None:
            result[name, "samples"] = pruner.statistics.samples
        pruner.detach()
    return result


def process(rank, world, port, folder):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
    try:
        torch.save(run(rank, world), f"{folder}/{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


def test_two_ranks_prune_what_one_process_prunes(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    torch.multiprocessing.spawn(process, (2, port, str(tmp_path)), nprocs=2)
    alone = run(0, 1)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    removed = 0
    for key, expected in alone.items():
        for found in ranks:
            if isinstance(expected, dict):
                assert [k for k in expected if not torch.equal(expected[k], found[key][k])] == [], key
                removed += sum(int((~m).sum()) for m in expected.values())
            elif isinstance(expected, torch.Tensor):
                assert torch.equal(expected, found[key])
            else:
                assert expected == found[key] == 64
    assert removed > 1000
