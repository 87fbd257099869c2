"""Processes with a part of the batch each prune what one process with the whole batch prunes; one that is lost ends the others."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from pruning_samples import Lif, conv_net, events  # noqa: E402
from torch import nn  # noqa: E402

from dpap_neuro.pruning import make_pruner  # noqa: E402

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="torch without gloo",
)
GOALS = {"dpap": {"time_bins": True}, "weighted": {"sparsity": 0.7}, "rigl": {"sparsity": 0.7}}


def network():
    torch.manual_seed(0)
    # Float64, and no batch norm: its statistics are those of a rank's own part of the batch.
    model = conv_net(neuron=lambda: Lif(0.15)).double()
    for place in (5, 1):
        model.stages[place] = nn.Identity()
    return model


def run(rank, world):
    """Masks per epoch of a run whose ranks share every batch of 6."""
    x, y = events(batch=12).double(), torch.arange(12) % 3
    result = {}
    for name, goal in GOALS.items():
        model = network()
        pruner = make_pruner(name, epochs=4, **goal).attach(model, x)
        trained = nn.parallel.DistributedDataParallel(model) if world > 1 else model
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        model.train()
        for epoch in range(4):
            for first in (0, 6):
                part = slice(first + rank * 6 // world, first + (rank + 1) * 6 // world)
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


def trained(folder):
    """What the training loop leaves, with batch norm, dropped time bins, compaction and pruned positions on the way."""
    pytest.importorskip("norse")
    from dpap_neuro.networks.models import ModelSettings, build_model
    from dpap_neuro.networks.neurons import NeuronSettings
    from dpap_neuro.train import loop

    rng = np.random.default_rng(0)
    labels = np.arange(50) % 3
    rasters = (rng.random((50, 5, 2, 9, 9)) < 0.2 + 0.1 * labels.reshape(-1, 1, 1, 1, 1)).astype(np.uint8)
    model = build_model(ModelSettings("cnn", (2, 9, 9), 3, NeuronSettings(0.01, 0.02))).double()
    pruner = make_pruner("dpap", epochs=5, sparsity=0.5, structured=True, bins=3)
    settings = loop.TrainSettings(epochs=5, batch=15, compact=True, prune_positions="0.3")
    data = (rasters, labels)
    # Float64, so that the order of sums decides about no spike.
    double = mock.patch.object(
        loop, "as_input", lambda x, device: torch.as_tensor(x).transpose(0, 1).double()
    )
    with double:
        history = loop.train(
            model, pruner, data, data, settings, torch.device("cpu"), checkpoint=f"{folder}/checkpoint"
        )
    epochs = [(e.loss, e.accuracy, e.remaining, e.synapses_remaining) for e in history.epochs]
    found = {"weights": model.state_dict(), "history": epochs, "kept_bins": history.kept_bins}
    return {**found, "positions": history.positions}


def process(rank, world, port, folder):
    from dpap_neuro.train.distributed import joined

    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world))
    with joined(torch.device("cpu")):
        torch.save(run(rank, world), f"{folder}/{rank}.pt")
        torch.save(trained(folder), f"{folder}/{rank}-trained.pt")
        # None leaves while another still talks to it.
        torch.distributed.barrier()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_prune_what_one_process_prunes(tmp_path, world):
    torch.multiprocessing.spawn(process, (world, free_port(), str(tmp_path)), nprocs=world)
    alone = run(0, 1)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world)]
    removed = 0
    for key, expected in alone.items():
        for found in ranks:
            if isinstance(expected, dict):
                assert [k for k in expected if not torch.equal(expected[k], found[key][k])] == [], key
                removed += sum(int((~m).sum()) for m in expected.values())
            elif isinstance(expected, torch.Tensor):
                assert torch.equal(expected, found[key])
            else:
                assert expected == found[key] == 48
    assert removed > 1000
    alone = trained(tmp_path / "alone")
    assert alone["history"][-1][2] < 0.6 * alone["history"][0][2] and alone["kept_bins"] is not None
    for rank in range(world):
        found = torch.load(tmp_path / f"{rank}-trained.pt", weights_only=True)
        assert found["kept_bins"] == alone["kept_bins"]
        assert found["positions"] == alone["positions"] and alone["positions"]["dead"] > 100
        for expected, epoch in zip(alone["history"], found["history"], strict=True):
            assert epoch == pytest.approx(expected, rel=1e-6)
        for key, expected in alone["weights"].items():
            torch.testing.assert_close(found["weights"][key], expected, rtol=1e-8, atol=1e-10, msg=key)
            if key.endswith("weight"):
                assert torch.equal(found["weights"][key] == 0, expected == 0), key


LOST = """
import os, sys, torch
from dpap_neuro.errors import InputError
from dpap_neuro.train.distributed import joined
try:
    with joined(torch.device("cpu")):
        for number in range(1000):
            torch.distributed.all_reduce(torch.ones(8))
            if number == 3 and os.environ["RANK"] == "1":
                os.kill(os.getpid(), 9)
except InputError as error:
    sys.exit(f"error: {error}")
"""


def test_a_process_that_is_killed_ends_the_others_with_a_line():
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    both = [
        subprocess.Popen(
            [sys.executable, "-c", LOST],
            env={**os.environ, **shared, "PYTHONPATH": paths, "RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    # Long before the half hour after which gloo itself gives up.
    said = [process.communicate(timeout=120)[1] for process in both]
    assert both[1].returncode == -9 and both[0].returncode == 1
    lines = [line for line in said[0].splitlines() if "Warning" not in line]
    assert len(lines) == 1 and lines[0].startswith("error: process 0 of 2: another one has ended"), said[0]
