"""A network of the user's own: FILE.py:function."""

from __future__ import annotations

import json
import textwrap

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("norse")

import norse.torch as norse
import torch
from torch import nn
from typer.testing import CliRunner

from dpap_neuro.cli import app
from dpap_neuro.data import Binning, Opened
from dpap_neuro.deploy.request import TrainRequest
from dpap_neuro.deploy.training import resolve
from dpap_neuro.errors import InputError
from dpap_neuro.exchange.nir_export import to_nir
from dpap_neuro.networks.models import ModelSettings, Own, SpikingNetwork, build_model
from dpap_neuro.networks.neurons import NeuronSettings
from dpap_neuro.networks.own import own_layers
from dpap_neuro.train import runs
from hardware.graph.parsing import from_nir
from hardware.simulate import reference

HEAD = """
    import norse.torch as norse
    import torch
    from torch import nn
    from dpap_neuro.networks.models import neurons_of, readout_of

"""
SEQUENCE = """
    def network(settings):
        c, y, x = settings.input_shape
        return [nn.Flatten(), nn.Linear(c * y * x, 9), neurons_of(settings), nn.Linear(9, settings.classes), *readout_of(settings)]
"""
CELLS = """
    def network(settings):
        p = norse.LIFBoxParameters(tau_mem_inv=torch.tensor(40.0), v_th=torch.tensor(0.3))
        return norse.SequentialState(
            nn.Flatten(), nn.Linear(32, 9), norse.LIFBoxCell(p, dt=0.01), nn.Linear(9, 2), norse.LICell(dt=0.004)
        )
"""
SKIP = """
    class Skip(nn.Module):
        def __init__(self, settings):
            super().__init__()
            self.first, self.second = nn.Linear(32, 8), nn.Linear(8, 8)
            self.last = nn.Linear(8, settings.classes)
            self.a, self.b, self.c = (neurons_of(settings) for _ in range(3))

        def forward(self, x):
            x = self.a(self.first(x.flatten(2)))
            return self.c(self.last(self.b(self.second(x) + x)))

    def network(settings):
        return Skip(settings)
"""
POOLED = """
    def network(settings):
        return [
            nn.Conv2d(2, 4, 3, padding=1), neurons_of(settings), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(16, settings.classes), *readout_of(settings),
        ]
"""


def file(tmp_path, text, name="own.py"):
    path = tmp_path / name
    path.write_text(textwrap.dedent(HEAD) + textwrap.dedent(text))
    return path


def split(steps=5):
    """Recordings of two classes, one busy and one not."""
    rng = np.random.default_rng(0)
    y = np.arange(48) % 2
    x = rng.poisson(0.1 + 0.5 * y[:, None, None, None, None], (48, steps, 2, 4, 4)).astype(np.uint8)
    opened = Opened("made", "train", None, (4, 4, 2), ("few", "many"), 1e4 * steps)
    return runs.Split(opened, (x, y), (x, y), Binning(steps))


def trained(model, folder, **options):
    training = resolve(TrainRequest(model=model, epochs=4, batch=8, shift=0, learning_rate=0.02, **options))
    network, history = training.run(split(), training.model(split()), torch.device("cpu"), None, None, None)
    training.save(folder, split(), network, history)
    return network, history


@pytest.mark.parametrize("text", [SEQUENCE, CELLS, SKIP], ids=["sequence", "Norse's cells", "a module"])
def test_it_is_trained_pruned_saved_and_found_again(text, tmp_path, monkeypatch):
    path = file(tmp_path, text)
    network, history = trained(f"{path}:network", tmp_path / "run", pruner="magnitude", sparsity=0.5)
    assert (
        history.epochs[-1].accuracy > 0.9
        and history.epochs[-1].remaining < 0.6 * history.epochs[-1].parameters
    )
    assert isinstance(network, Own if text is SKIP else SpikingNetwork)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["model"]["name"] == f"{path}:network" and len(record["model"]["source"]) == 64
    x = torch.as_tensor(split().test[0]).float().transpose(0, 1)
    # Without executing the file, and with.
    monkeypatch.setattr("dpap_neuro.networks.own.own_function", None)
    imported, _ = runs.load_run(tmp_path / "run")
    monkeypatch.undo()
    same, _ = runs.load_run(tmp_path / "run", trusted=True)
    with torch.no_grad():
        expected = network(x)
        assert expected.any() and torch.equal(same(x), expected)
        torch.testing.assert_close(imported(x), expected, rtol=1e-4, atol=1e-5)
    path.write_text(path.read_text() + "\n# changed")
    with pytest.raises(InputError, match="is not the file that the run was made with"):
        runs.load_run(tmp_path / "run", trusted=True)


def test_cells_of_norse_step_as_the_populations_that_stand_for_them():
    p = norse.LIFParameters(
        tau_mem_inv=torch.tensor(60.0), tau_syn_inv=torch.tensor(90.0), v_th=torch.tensor(0.2)
    )
    cells = {
        "LIFBox": norse.LIFBoxCell(
            norse.LIFBoxParameters(reset_method=norse.functional.reset.reset_subtract)
        ),
        "LIF": norse.LIFCell(p, dt=0.005),
        "IAF": norse.IAFCell(norse.IAFParameters(v_th=torch.tensor(0.9))),
        "LIBox": norse.LIBoxCell(dt=0.003),
        "LI": norse.LICell(),
    }
    for name, cell in cells.items():
        settings = ModelSettings("x.py:f", (6,), 6, NeuronSettings(0.01, 0.02))
        (own,) = _made(norse.SequentialState(cell), settings)
        x, state, out = torch.rand(20, 3, 6) * 2, None, []
        for step in x:
            z, state = cell(step, state)
            out.append(z)
        assert torch.equal(own(x), torch.stack(out)), name
        assert torch.stack(out).any(), name


def _made(module, settings):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dpap_neuro.networks.own.own_function", lambda *_: lambda _: module)
        return own_layers("x.py:f", settings)


def test_a_network_that_no_file_can_hold_is_said_before_it_is_trained(tmp_path):
    name = f"{file(tmp_path, POOLED)}:network"
    training = resolve(TrainRequest(model=name))
    reason = training.unwritten(training.model(split()))
    assert "MaxPool2d" in reason and "AvgPool2d" in reason
    with pytest.raises(InputError, match="is to fit on loihi1, but layer 2: MaxPool2d"):
        resolve(TrainRequest(model=name, chip="loihi1")).unwritten(training.model(split()))
    trained(name, tmp_path / "run", pruner="none")
    assert not (tmp_path / "run" / "model.nir").exists()
    with pytest.raises(
        InputError, match=r"its network is that of .*own.py:network, which loading does not execute"
    ):
        runs.load_run(tmp_path / "run")
    assert isinstance(runs.load_run(tmp_path / "run", trusted=True)[0], SpikingNetwork)


def test_a_module_is_exported_with_equal_outputs(tmp_path):
    settings = ModelSettings(f"{file(tmp_path, SKIP)}:network", (2, 4, 4), 2, NeuronSettings(0.01, 0.02))
    network = build_model(settings, 2).eval()
    for weight in network.parameters():
        weight.data = 2 * weight.data.abs()
    x = split().train[0][:8]
    with torch.no_grad():
        expected = network(torch.as_tensor(x).float().transpose(0, 1)).transpose(0, 1).numpy()
    found = reference.simulate(from_nir(to_nir(network, (2, 4, 4), 0.01)), x).output
    assert expected.any()
    np.testing.assert_array_equal(found, expected)


FAULTS = {
    "no file": (None, "nothing.py:f", "nothing.py: not found, expected a Python file"),
    "no function named": ("", "own.py", "expected FILE.py:function"),
    "no such function": ("def net(s): return 1", "own.py:network", r"found no function 'network', expected one of those in it \(net\)"),
    "syntax": ("\n\ndef f(:", "own.py:f", r"own.py: line \d+: does not run \(SyntaxError: invalid syntax"),
    "import": ("import nothing_of_that_name", "own.py:f", r"line \d+: does not run \(ModuleNotFoundError: No module named"),
    "raises": ("def f(s):\n    return 1 / 0", "own.py:f", r"line \d+: f fails \(ZeroDivisionError: division by zero\)"),
    "exits": ("raise SystemExit(0)", "own.py:f", r"does not run \(SystemExit: 0\)"),
    "no module": ("def f(s):\n    return 3", "own.py:f", "f returned int 3, expected a torch.nn.Module or a list of layers"),
    "too wide": ("def f(s):\n    return [nn.Linear(3, 2)]", "own.py:f", r"the network of f does not run on .* \(RuntimeError: mat1"),
    "classes": (
        "def f(s):\n    return [nn.Flatten(), nn.Linear(32, 7)]",
        "own.py:f",
        r"returns a tensor of \(2, 3, 7\).*expected a tensor of \(2, 3, 2\): steps, recordings, classes",
    ),
    "state": ("class M(nn.Module):\n    def forward(self, x): return x, None\ndef f(s):\n    return M()", "own.py:f", "returns a tuple of 2"),
    "recurrent cell": (
        "def f(s):\n    return [nn.Flatten(), norse.LIFRecurrentCell(32, 2)]",
        "own.py:f",
        "LIFRecurrentCell, whose membrane sees its input a step late.*Recurrent",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_the_file_is_one_line(fault, tmp_path):
    text, name, says = FAULTS[fault]
    if text is not None:
        file(tmp_path, text)
    with pytest.raises(InputError, match=says) as error:
        build_model(runs.model_settings(split(), str(tmp_path / name), None, 0.5, 0.5))
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_the_command_says_it_in_a_line_and_ends_with_2(tmp_path):
    path = file(tmp_path, "raise ValueError('too\\nbad')")
    options = ["train", "--model", f"{path}:f", "--out", str(tmp_path / "run"), "--dataset", "digits"]
    run = CliRunner().invoke(app, options)
    assert isinstance(run.exception, InputError)
    assert (
        "line 7: does not run (ValueError: too bad)" in str(run.exception) and not (tmp_path / "run").exists()
    )


def test_files_beside_it_can_be_imported(tmp_path):
    (tmp_path / "parts_of_mine.py").write_text("from torch import nn\ndef last(n): return nn.Linear(32, n)\n")
    path = file(
        tmp_path, "from parts_of_mine import last\ndef f(s):\n    return [nn.Flatten(), last(s.classes)]"
    )
    network = build_model(ModelSettings(f"{path}:f", (2, 4, 4), 3, NeuronSettings(0.01, 0.02)))
    assert isinstance(network[1], nn.Linear)
