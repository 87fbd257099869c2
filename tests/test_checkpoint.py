"""An interrupted and resumed run equals an uninterrupted one bit for bit; nothing else gets in."""

import errno
import json
import random

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from pruning_samples import Lif, conv_net, events  # noqa: E402
from torch import nn  # noqa: E402

from dpap_neuro.errors import BadInput, InputError  # noqa: E402
from dpap_neuro.pruning import make_pruner  # noqa: E402
from dpap_neuro.train.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402

GOALS = {
    "none": {},
    "dpap": {"time_bins": True},
    "weighted": {"sparsity": 0.7},
    "magnitude": {"sparsity": 0.7},
    "random": {"sparsity": 0.7},
    "set": {"sparsity": 0.7},
    "rigl": {"sparsity": 0.7},
}


class Run:
    """A training run with everything that can carry state: dropout, shuffling, scheduler, momentum."""

    def __init__(self, name, make=torch.optim.AdamW):
        torch.manual_seed(0)
        random.seed(0)
        self.model = conv_net(neuron=lambda: Lif(0.15))
        self.model.stages.insert(8, nn.Dropout(0.2))
        self.optimizer = make(self.model.parameters(), lr=5e-3)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 6)
        self.x, self.y = events(batch=12), torch.arange(12) % 3
        self.generators = {"shuffle": torch.Generator().manual_seed(7), "shift": np.random.default_rng(3)}
        self.pruner = make_pruner(name, epochs=6, **GOALS[name]).attach(self.model, self.x)

    def epochs(self, first, last):
        self.model.train()
        for epoch in range(first, last):
            x = self.x[self.pruner.kept_bins] if self.pruner.kept_bins is not None else self.x
            x = x + self.generators["shift"].integers(0, 2) + random.random()
            order = torch.randperm(12, generator=self.generators["shuffle"])
            for part in order.split(4):
                self.optimizer.zero_grad()
                nn.functional.cross_entropy(self.model(x[:, part]).mean(0), self.y[part]).backward()
                self.optimizer.step()
                self.pruner.step(self.optimizer)
            self.pruner.end_epoch(epoch, self.optimizer)
            self.scheduler.step()

    def save(self, path, epoch, **extra):
        parts = (self.model, self.optimizer, self.scheduler, self.pruner)
        return save_checkpoint(path, *parts, epoch=epoch, generators=self.generators, extra=extra)

    def load(self, path):
        return load_checkpoint(path, self.model, self.optimizer, self.scheduler, self.pruner, self.generators)

    def state(self):
        return {
            **{f"model.{k}": v for k, v in self.model.state_dict().items()},
            **{f"pruner.{k}": v for k, v in self.pruner.state_dict().items()},
        }


@pytest.mark.parametrize("name", GOALS)
def test_resume_equals_no_interruption(name, tmp_path):
    whole = Run(name)
    whole.epochs(0, 6)
    first = Run(name)
    first.epochs(0, 3)
    first.save(tmp_path, 2, history=[1.0, 2.5])
    second = Run(name)
    torch.manual_seed(99)
    random.seed(99)
    checkpoint = second.load(tmp_path)
    assert checkpoint.epoch == 2 and checkpoint.extra == {"history": [1.0, 2.5]}
    second.epochs(3, 6)
    expected, found = whole.state(), second.state()
    assert expected.keys() == found.keys()
    assert [k for k in expected if not torch.equal(expected[k], found[k])] == []
    assert whole.optimizer.param_groups[0]["lr"] == second.optimizer.param_groups[0]["lr"]


def test_sgd_momentum_resumes(tmp_path):
    def make(parameters, lr):
        return torch.optim.SGD(parameters, lr=lr, momentum=0.9)

    whole, first, second = Run("magnitude", make), Run("magnitude", make), Run("magnitude", make)
    whole.epochs(0, 4)
    # The runs share Python's and torch's random state: each starts again from its own seed.
    torch.manual_seed(0)
    random.seed(0)
    first = Run("magnitude", make)
    first.epochs(0, 2)
    first.save(tmp_path, 1)
    second.load(tmp_path)
    second.epochs(2, 4)
    a, b = whole.state(), second.state()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_only_the_last_checkpoint_is_kept_and_no_temporary_files(tmp_path):
    run = Run("none")
    for epoch in (0, 1, 1):
        run.save(tmp_path, epoch)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert len(names) == 3 and names[0] == "checkpoint.json"
    index = json.loads((tmp_path / "checkpoint.json").read_text())
    assert {index["weights"], index["training"]} == set(names[1:]) and index["epoch"] == 1


@pytest.mark.parametrize("full_at", [1, 2, 3])
def test_a_full_disk_leaves_the_old_checkpoint_and_nothing_else(full_at, tmp_path, monkeypatch):
    run = Run("dpap")
    run.save(tmp_path, 0)
    before = {k: v.clone() for k, v in run.state().items()}
    run.epochs(0, 1)

    names = sorted(p.name for p in tmp_path.iterdir())
    writes = 0

    def fail(handle):
        nonlocal writes
        writes += 1
        if writes == full_at:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hardware.files.whole.os.fsync", fail)
    with pytest.raises(BadInput, match=r"cannot be written \(No space left on device\)"):
        run.save(tmp_path, 1)
    monkeypatch.undo()
    assert writes == full_at and sorted(p.name for p in tmp_path.iterdir()) == names
    again = Run("dpap")
    assert again.load(tmp_path).epoch == 0
    after = again.state()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_weights_alone(tmp_path):
    run = Run("magnitude")
    run.epochs(0, 2)
    run.save(tmp_path, 1)
    other = conv_net(neuron=lambda: Lif(0.15))
    other.stages.insert(8, nn.Dropout(0.2))
    state = torch.get_rng_state()
    load_checkpoint(tmp_path, other)
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in run.model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def refused(path, message, **parts):
    model = parts.pop("model")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(InputError, match=message) as error:
        load_checkpoint(path, model, **parts)
    assert "\n" not in str(error.value)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), "half-written"


def test_what_is_refused(tmp_path):
    run = Run("dpap")
    run.epochs(0, 1)
    run.save(tmp_path, 0)
    refused(tmp_path, r"stages\.0\.weight has shape", model=conv_net(channels=(5, 6)))
    refused(tmp_path, "missing|has not", model=conv_net())
    other = Run("magnitude")
    refused(tmp_path, "found pruner dpap, expected magnitude", model=other.model, pruner=other.pruner)
    sgd = torch.optim.SGD(other.model.parameters(), 0.1)
    refused(tmp_path, "found optimizer AdamW, expected SGD", model=other.model, optimizer=sgd)
    refused(tmp_path / "nowhere", "not found", model=other.model)
    refused(
        tmp_path,
        "no random generator other",
        model=other.model,
        optimizer=other.optimizer,
        generators={"other": torch.Generator()},
    )
    plain = Run("none")
    save_checkpoint(tmp_path / "weights", plain.model)
    refused(tmp_path / "weights", "no optimizer", model=plain.model, optimizer=plain.optimizer)


@pytest.mark.parametrize("part", ["masks/units/stages.0", "bin_survival", "statistics/a/stages.2"])
def test_a_refused_state_leaves_the_pruner_as_it_was(part):
    run = Run("dpap")
    run.epochs(0, 2)
    before = run.pruner.state_dict()
    run.epochs(2, 3)
    after = run.pruner.state_dict()
    with pytest.raises(InputError, match="expected"):
        run.pruner.load_state_dict({**before, part: torch.ones(7)})
    assert all(torch.equal(v, after[k]) for k, v in run.pruner.state_dict().items())
    run.pruner.load_state_dict(before)
    assert all(torch.equal(v, before[k]) for k, v in run.pruner.state_dict().items())


@pytest.mark.parametrize("damage", ["index", "format", "weights", "path"])
def test_damaged_files(tmp_path, damage):
    run = Run("none")
    index = run.save(tmp_path, 0)
    content = json.loads(index.read_text())
    if damage == "index":
        index.write_text(index.read_text()[:50])
    elif damage == "format":
        index.write_text(json.dumps({**content, "format": 99}))
    elif damage == "weights":
        (tmp_path / content["weights"]).write_bytes(b"\x80\x04not safetensors")
    else:
        index.write_text(json.dumps({**content, "weights": "../../etc/passwd"}))
    refused(tmp_path, "expected", model=run.model)


def test_what_json_cannot_hold(tmp_path):
    with pytest.raises(InputError, match="extra"):
        save_checkpoint(tmp_path, conv_net(), extra={"function": print})
    assert not (tmp_path / "checkpoint.json").exists() and list(tmp_path.iterdir()) == []
