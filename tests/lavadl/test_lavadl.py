"""Our NETX files in lava-dl's own loader, run on Lava: the spikes of our simulator, every one.

lava-dl 0.6.0 needs PyTorch only for parts that the loader does not use; empty modules stand in for them.
"""

from __future__ import annotations

import logging
import sys
import types
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from hypothesis import HealthCheck, assume, given, settings
from lava_samples import networks
from nmnist_samples import FOLDER, recordings

from hardware.chip.chips import load_chip
from hardware.compile.compiler import compile_graph
from hardware.errors import HardwareError
from hardware.files.netx import restrict
from hardware.files.netx_reading import read_net
from hardware.files.netx_writing import write_net
from hardware.graph.parsing import read_graph
from hardware.network.integer import (
    ConvProjection,
    DenseProjection,
    InputPopulation,
    Network,
    Population,
)
from hardware.simulate import simulator
from hardware.simulate.lava import running

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def lava_dl():
    """`lava.lib.dl.netx.hdf5`, without what would import PyTorch."""
    package = "lava.lib.dl"
    for name in ("netx", "slayer", "slayer.neuron", "slayer.neuron.rf", "netx.sequential_modules"):
        module = types.ModuleType(f"{package}.{name}")
        module.__path__ = []
        sys.modules.setdefault(module.__name__, module)
    import lava.lib.dl as dl

    root = Path(next(iter(dl.__path__)))
    sys.modules[f"{package}.netx"].__path__ = [str(root / "netx")]
    # Lava asks where each module lies when it looks for models of a process.
    sys.modules[f"{package}.netx.sequential_modules"].__file__ = str(root / "netx" / "sequential_modules.py")
    sys.modules[f"{package}.slayer.neuron.rf"].neuron_params = None
    from lava.lib.dl.netx import hdf5

    return hdf5


def has_lava_dl():
    try:
        import lava.lib.dl
    except ImportError:
        return False
    return any((Path(folder) / "netx" / "hdf5.py").exists() for folder in lava.lib.dl.__path__)


pytestmark = pytest.mark.skipif(
    not has_lava_dl(), reason="lava-dl 0.6.0 is not installed in this Python (pip install --no-deps lava-dl)"
)


def spikes_of_lava_dl(path, raster, graded=False):
    """(steps, neurons) of every layer in our order, of one recording (steps, *shape)."""
    from lava.magma.core.decorator import implements
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
    from lava.proc.io.source import RingBuffer

    hdf5 = lava_dl()
    from lava.lib.dl.netx.blocks.models import AbstractPyBlockModel
    from lava.lib.dl.netx.blocks.process import RecurrentDense

    # lava-dl brings no model of its recurrent block; as all its others, it only holds its parts.
    @implements(proc=RecurrentDense, protocol=LoihiProtocol)
    class PyRecurrentDenseModel(AbstractPyBlockModel):
        pass

    shape = raster.shape[1:]
    bits = {"input_message_bits": 24} if graded else {}
    network = hdf5.Network(net_config=str(path), input_shape=shape[::-1], **bits)
    image = len(shape) == 3
    data = np.stack([step.transpose(2, 1, 0) if image else step.reshape(-1) for step in raster], axis=-1)
    flat = image and len(network.layers[0].inp.shape) == 1
    source = RingBuffer(
        data=np.ascontiguousarray(raster.reshape(len(raster), -1).T if flat else data, np.int32)
    )
    source.s_out.connect(network.inp)
    logs = {}
    for k, layer in enumerate(network.layers):
        layer.neuron.proc_params.overwrite("name", str(k))
        logs[str(k), "spikes"] = running.shared((len(raster), *layer.neuron.s_out.shape), np.uint8)
    models = {**running.recording_models(logs), RecurrentDense: PyRecurrentDenseModel}
    config = Loihi2SimCfg(select_tag="fixed_pt", exception_proc_model_map=models, loglevel=logging.ERROR)
    with running.watched(network):
        network.run(condition=RunSteps(num_steps=len(raster)), run_cfg=config)
    network.stop()
    found = [log.transpose(0, 3, 2, 1) if log.ndim == 4 else log for log in logs.values()]
    return [spikes.reshape(len(raster), -1) for spikes in found]


def agree(network, raster, folder):
    """Spikes of every layer; how many there were in each."""
    write_net(network, folder / "a.net")
    return agree_on_file(folder / "a.net", network, raster)


def agree_on_file(path, network, raster):
    names = [p.name for p in network.populations]
    ours = simulator.simulate(network, raster[None], "chip", {name: ("spikes",) for name in names})
    theirs = spikes_of_lava_dl(path, raster, graded=raster.max() > 1)
    assert len(theirs) == len(names)
    for name, spikes in zip(names, theirs, strict=True):
        np.testing.assert_array_equal(spikes, ours.spikes[name][0].reshape(spikes.shape), name)
    return [int(spikes.sum()) for spikes in theirs]


def even(rng, *shape, top=60):
    return 2 * rng.integers(-top, top, shape).astype(np.int32)


# --- chains of layers ---


def chain(seed, recurrent):
    """Two convolutions, flattened, then matrices, the first of which may feed itself."""
    rng = np.random.default_rng(seed)
    populations = [
        Population(
            "c1",
            (3, 5, 3),
            du=1500,
            dv=300,
            vth=90,
            bias_mant=rng.integers(0, 9, (3, 1, 1)) * np.ones((3, 5, 3), int),
        ),
        Population("c2", (2, 3, 2), dv=0, vth=60, bias_mant=3),
        Population("d1", (5,), du=700, dv=4096, vth=50, bias_mant=np.arange(5) * 30),
        Population("d2", (3,), du=4095, dv=100, vth=70),
    ]
    projections = [
        ConvProjection("in", "c1", even(rng, 3, 2, 3, 3), (1, 2), (1, 1), (1, 1)),
        ConvProjection("c1", "c2", even(rng, 2, 3, 3, 2), (1, 1), (0, 0), (1, 1)),
        DenseProjection("c2", "d1", even(rng, 5, 12)),
        DenseProjection("d1", "d2", even(rng, 3, 5)),
    ]
    populations = [replace(p, bias_exp=6) for p in populations]
    if recurrent:
        projections.append(DenseProjection("d1", "d1", even(rng, 5, 5)))
    return Network((InputPopulation("in", (2, 5, 5)),), tuple(populations), tuple(projections), ("d2",))


@pytest.mark.parametrize("recurrent", [False, True])
def test_convolutions_flattened_into_matrices(tmp_path, recurrent):
    raster = np.random.default_rng(7).integers(0, 2, (25, 2, 5, 5))
    assert all(agree(chain(4, recurrent), raster, tmp_path))


def test_decays_per_neuron_and_channel(tmp_path):
    rng, network = np.random.default_rng(5), chain(4, False)
    write_net(network, tmp_path / "a.net")
    with h5py.File(tmp_path / "a.net", "r+") as file:
        for at, shape in ((1, (3,)), (2, (2, 3, 2)), (4, (5,))):
            for key, low, high in (("iDecay", 600, 4096), ("vDecay", 0, 900), ("vThMant", 40, 90)):
                del file[f"layer/{at}/neuron/{key}"]
                file[f"layer/{at}/neuron/{key}"] = rng.integers(low, high, shape)
    raster = rng.integers(0, 2, (25, 2, 5, 5))
    read = read_net(tmp_path / "a.net", "spikes")
    assert all(np.size(p.du) > 1 for p in read.populations[:3])
    assert all(agree_on_file(tmp_path / "a.net", read, raster))


@settings(
    max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
@given(case=networks(chain=True))
def test_random_chains(tmp_path_factory, case):
    network, raster = case
    folder = tmp_path_factory.mktemp("net")
    try:
        agree(network, raster[0], folder)
    except HardwareError as error:  # what NETX cannot say
        assert "NETX" in str(error) or "lava-dl" in str(error)
        assume(False)


# --- whole networks ---


def test_a_pruned_network_of_the_demos_kind(tmp_path):
    """12C5s2-24C3s2-128FC-10 on 16x16 pixels, nine of ten weights zero."""
    rng = np.random.default_rng(6)

    def pruned(*shape):
        return even(rng, *shape, top=120) * (rng.random(shape) < 0.1)

    populations = (
        Population("c1", (12, 8, 8), dv=2048, vth=100),
        Population("c2", (24, 4, 4), dv=2048, vth=90),
        Population("d1", (128,), dv=2048, vth=80),
        Population("d2", (10,), dv=2048, vth=60, bias_mant=np.arange(10) - 3, bias_exp=6),
    )
    projections = (
        ConvProjection("in", "c1", pruned(12, 2, 5, 5), (2, 2), (2, 2)),
        ConvProjection("c1", "c2", pruned(24, 12, 3, 3), (2, 2), (1, 1)),
        DenseProjection("c2", "d1", pruned(128, 384)),
        DenseProjection("d1", "d2", pruned(10, 128)),
    )
    network = Network((InputPopulation("in", (2, 16, 16)),), populations, projections, ("d2",))
    raster = np.random.default_rng(7).integers(0, 2, (30, 2, 16, 16))
    assert all(agree(network, raster, tmp_path))
    assert all(agree(network, 3 * raster, tmp_path))  # graded


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
def test_the_nir_papers_convolutional_network(tmp_path):
    graph = read_graph(next(SHARED.rglob("cnn_sinabs.nir")))
    network, _ = compile_graph(graph, restrict(load_chip("loihi2")))
    raster = (
        recordings(1, 40)[0][0]
        if FOLDER.is_dir()
        else np.random.default_rng(0).poisson(0.02, (40, 2, 34, 34))
    )
    assert agree(network, raster, tmp_path)[0] > 100
