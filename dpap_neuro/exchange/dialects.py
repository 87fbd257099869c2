"""A graph in the units in which another framework reads it: exact changes of units, or a refusal with that framework's reason.

NIR says what a neuron does, its readers take some forms of it only: a fixed time step, one value per population, a factor r
of tau / dt, decays that are exponential. Membranes may be measured in any unit (thresholds, resets and r change together), so may
time; an average is a sum whose next weights are divided. To add a framework: a `Peer` in `PEERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import nir
import numpy as np

from dpap_neuro.errors import InputError
from dpap_neuro.exchange.nir_export import encoded_metadata
from hardware.graph.graph import SPIKING, Graph, reset_of, time_step

Nodes = dict[str, nir.NIRNode]
_SNNTORCH_DT = 1e-4


@dataclass(frozen=True)
class Peer:
    """What a framework's reader takes, and in which form.

    version: that the tests compare with. convert: for each type of node that it takes, the change of units, from
    (node, name, dt) to the node in its form; raises InputError for what it cannot take. pool: "sum" or "average", the
    pooling that it knows ("" both). recurrent, subtract, zero: why it cannot take recurrent edges and these resets, empty where
    it can. dt: the step that it fixes. unsaid_dt: its user gives it dt. by_hand: what its user must set after reading.
    """

    name: str
    version: str
    convert: dict[type, Callable[[Any, str, float], nir.NIRNode]]
    pool: str = ""
    recurrent: str = ""
    subtract: str = ""
    zero: str = ""
    dt: float | None = None
    unsaid_dt: bool = False
    by_hand: str = ""
    instead: dict[type, str] = field(default_factory=dict)


def for_peer(graph: Graph, peer: str, dt: float | None = None) -> tuple[nir.NIRGraph, tuple[str, ...]]:
    """The graph as `peer` reads it, and a line for each thing that its user must know.

    dt: seconds per step of a graph that does not say. Raises InputError, with the peer's reason, for what it cannot take.
    """
    if peer == "lava-dl":
        raise InputError(
            "lava-dl reads no .nir file: give it NETX, dpap-neuro compile FILE.nir --out FILE.net"
        )
    if peer not in PEERS:
        raise InputError(f"for: found {peer!r}, expected one of {', '.join((*PEERS, 'lava-dl'))}")
    table = PEERS[peer]
    step, _ = time_step(graph, dt)
    reset, _ = reset_of(graph)
    if any(isinstance(node, SPIKING) for node in graph.nodes.values()):
        why = table.subtract if reset == "subtract" else table.zero
        if reset == "subtract" and graph.metadata.get("reset_delay"):
            why = why or "its reader takes no subtraction that comes a step late"
        if why:
            raise InputError(f"{peer} {table.version}: {why}")
    if graph.recurrent and table.recurrent:
        raise InputError(f"{peer} {table.version}: {table.recurrent}")
    nodes = _pooled(graph, table) if table.pool else dict(graph.nodes)
    made: Nodes = {}
    for name in graph.order:
        node = nodes[name]
        if isinstance(node, nir.Input):
            made[name] = nir.Input({"input": np.array(graph.input_shape[name])})
        elif isinstance(node, nir.Output):
            made[name] = nir.Output({"output": np.array(graph.output_shape[name])})
        elif type(node) in table.convert:
            made[name] = table.convert[type(node)](node, name, step)
        else:
            raise _refused(
                table, name, node, table.instead.get(type(node), "its reader does not know the node")
            )
    notes = []
    if table.by_hand:
        hand = "reset_fn=MembraneReset()" if reset == "zero" else "reset_fn=MembraneSubtract()"
        notes.append(f"{peer} {table.version}: {table.by_hand.format(reset=hand)}")
    metadata = {**graph.metadata, "dt": table.dt or step, "reset": reset, "writer": f"dpap-neuro for {peer}"}
    if table.unsaid_dt:
        notes.append(f"{peer} reads no dt: give it dt={step:g}")
    written = nir.NIRGraph(made, list(graph.edges), metadata=encoded_metadata(metadata), type_check=False)
    for name, node in made.items():
        node.input_type = {"input": np.array(graph.input_shape[name])}
        node.output_type = {"output": np.array(graph.output_shape[name])}
    return written, tuple(notes)


def as_nir(graph: Graph) -> nir.NIRGraph:
    """A checked graph as `nir.write` takes it, in this project's own form."""
    metadata = {**graph.metadata} if graph.dt is None else {**graph.metadata, "dt": graph.dt}
    return nir.NIRGraph(
        dict(graph.nodes), list(graph.edges), metadata=encoded_metadata(metadata), type_check=False
    )


def _refused(peer: Peer, name: str, node: nir.NIRNode, why: str) -> InputError:
    return InputError(
        f"node {name!r} ({type(node).__name__}): {peer.name} {peer.version} cannot take it: {why}"
    )


# --- changes of units ---------------------------------------------------------------------------------------


def measured(node: Any, unit: Any, **changed: Any) -> Any:
    """A spiking neuron whose membrane is counted in other units: v' = unit * v; changed: its other parameters."""
    values = {
        key: np.asarray(getattr(node, key), np.float64) * unit
        for key in ("v_leak", "v_threshold", "v_reset", "r")
        if hasattr(node, key)
    }
    rest = {key: getattr(node, key) for key in ("tau", "tau_syn", "tau_mem", "w_in") if hasattr(node, key)}
    values = {**rest, **values, **changed}
    return type(node)(**{k: np.array(v, np.float32) for k, v in values.items()}, metadata=node.metadata)


def with_factor(node: Any, r: Any) -> Any:
    """A LIF or IF with another r, the same spikes. Raises ValueError where its own r is not above 0."""
    own = np.asarray(node.r, np.float64)
    if not (own > 0).all():
        raise ValueError(f"r is {own.min():g} at its lowest, expected above 0")
    return measured(node, r / own, r=np.broadcast_to(r, own.shape))


def cuba_in_steps(node: nir.CubaLIF, dt: float) -> Any:
    """A CubaLIF with r = tau_mem / dt and w_in = tau_syn / dt, the form that everybody reads; the same spikes."""
    tau_syn, tau_mem, r, w_in = (
        np.asarray(getattr(node, k), np.float64) for k in ("tau_syn", "tau_mem", "r", "w_in")
    )
    if not (r * w_in > 0).all():
        raise ValueError("r * w_in is 0 or negative, expected above 0")
    unit = (tau_mem / dt) * (tau_syn / dt) / (r * w_in)
    return measured(node, unit, r=tau_mem / dt, w_in=tau_syn / dt)


def above(node: Any) -> Any:
    """The threshold of frameworks that fire at v >= threshold: the next higher float32."""
    higher = np.nextafter(np.asarray(node.v_threshold, np.float32), np.float32(np.inf))
    values = {
        k: getattr(node, k)
        for k in ("tau", "tau_syn", "tau_mem", "r", "v_leak", "v_reset", "w_in")
        if hasattr(node, k)
    }
    return type(node)(**values, v_threshold=higher, metadata=node.metadata)


def _pooled(graph: Graph, peer: Peer) -> Nodes:
    """The pooling that the peer knows, the factor between a sum and an average in the weights behind it."""
    nodes = dict(graph.nodes)
    before, after = graph.predecessors(), graph.successors()
    other = nir.AvgPool2d if peer.pool == "sum" else nir.SumPool2d
    for name in graph.order:
        node: Any = nodes[name]
        if not isinstance(node, other):
            continue
        window = float(np.prod(node.kernel_size))
        factor = 1 / window if peer.pool == "sum" else window
        kind = nir.SumPool2d if peer.pool == "sum" else nir.AvgPool2d
        nodes[name] = kind(node.kernel_size, node.stride, node.padding)
        behind = list(after[name])
        for target in behind:
            following: Any = nodes[target]
            if isinstance(following, nir.Flatten) and before[target] == [name]:
                behind.extend(after[target])
            elif getattr(following, "weight", None) is not None and len(before[target]) == 1:
                nodes[target] = _with_weight(
                    following, following.weight * np.asarray(factor, following.weight.dtype)
                )
            else:
                raise _refused(
                    peer, name, node, "it reads no such pooling, and no weights behind it take the factor"
                )
    return nodes


def _with_weight(node: Any, weight: np.ndarray) -> Any:
    keys = ("input_shape", "stride", "padding", "dilation", "groups", "bias")
    return type(node)(
        weight=weight, **{k: getattr(node, k) for k in keys if hasattr(node, k)}, metadata=node.metadata
    )


# --- what readers want --------------------------------------------------------------------------------------


def _same(node: Any, name: str, dt: float) -> nir.NIRNode:
    return node


def _affine(node: nir.Linear, name: str, dt: float) -> nir.NIRNode:
    return nir.Affine(node.weight, np.zeros(len(node.weight), node.weight.dtype))


def _need(peer: str, name: str, node: Any, fits: bool, why: str) -> None:
    if not fits:
        raise _refused(PEERS[peer], name, node, why)


def _one(peer: str, name: str, node: Any, *keys: str) -> None:
    for key in keys:
        values = np.asarray(getattr(node, key))
        _need(peer, name, node, bool((values == values.flat[0]).all()), f"it takes one {key} per population")


def _resting(peer: str, name: str, node: Any) -> None:
    if hasattr(node, "v_leak"):
        _need(peer, name, node, not np.any(node.v_leak), "it takes a v_leak of 0 only")
    _need(peer, name, node, not np.any(node.v_reset), "it reads no v_reset and resets to 0")


def _ungrouped(peer: str) -> Callable[[Any, str, float], nir.NIRNode]:
    def convert(node: Any, name: str, dt: float) -> nir.NIRNode:
        _need(peer, name, node, node.groups == 1, "it reads no grouped convolution")
        return node

    return convert


def _unpadded(peer: str) -> Callable[[Any, str, float], nir.NIRNode]:
    def convert(node: Any, name: str, dt: float) -> nir.NIRNode:
        _need(peer, name, node, not np.any(node.padding), "it reads no padding of a pooling")
        return node

    return convert


def _changed(peer: str, name: str, node: Any, change: Callable[[], Any]) -> Any:
    try:
        return change()
    except ValueError as error:
        raise _refused(PEERS[peer], name, node, str(error)) from None


def _norse_neuron(node: Any, name: str, dt: float) -> nir.NIRNode:
    _resting("norse", name, node)
    return (
        node
        if isinstance(node, nir.CubaLIF)
        else _changed("norse", name, node, lambda: with_factor(node, 1.0))
    )


def _snntorch_neuron(node: Any, name: str, dt: float) -> nir.NIRNode:
    peer = "snntorch"
    _resting(peer, name, node)
    if isinstance(node, nir.CubaLIF):
        made = _changed(peer, name, node, lambda: cuba_in_steps(node, dt))
        share = _SNNTORCH_DT / dt
        made = measured(made, 1.0, r=made.r, tau_syn=made.tau_syn * share, tau_mem=made.tau_mem * share)
    elif isinstance(node, nir.LIF):
        made = _changed(peer, name, node, lambda: with_factor(node, np.asarray(node.tau, np.float64) / dt))
        made = measured(made, 1.0, r=made.r, tau=np.asarray(made.tau, np.float64) * _SNNTORCH_DT / dt)
    else:
        # Its IF decays by 0.9 a step. A LIF that forgets 2**-60 of its membrane a step forgets nothing in floats.
        counted = _changed(peer, name, node, lambda: with_factor(node, 1.0))
        full = np.ones(counted.r.shape, np.float64)
        made = nir.LIF(full * _SNNTORCH_DT * 2.0**60, full * 2.0**60, 0 * full, counted.v_threshold, 0 * full)
    _one(peer, name, made, "v_threshold")
    return made


def _spikingjelly_neuron(node: Any, name: str, dt: float) -> nir.NIRNode:
    peer = "spikingjelly"
    if isinstance(node, nir.CubaLIF):
        _need(peer, name, node, not np.any(node.v_leak), "it takes a v_leak of 0 only")
        made = _changed(peer, name, node, lambda: cuba_in_steps(node, dt))
        _one(peer, name, made, "tau_syn", "tau_mem")
    elif isinstance(node, nir.LIF):
        _need(
            peer,
            name,
            node,
            bool((node.v_leak == node.v_reset).all()),
            "it takes a v_leak equal to v_reset only",
        )
        _need(
            peer,
            name,
            node,
            bool((np.asarray(node.tau) > dt * (1 + 1e-6)).all()),
            "it takes tau above dt only",
        )
        made = _changed(peer, name, node, lambda: with_factor(node, 1.0))
        _one(peer, name, made, "tau", "v_leak")
    else:
        made = _changed(peer, name, node, lambda: with_factor(node, 1.0))
        made = nir.IF(np.full(made.r.shape, 1 / dt), made.v_threshold, made.v_reset)
    _one(peer, name, made, "v_threshold", "v_reset")
    return above(made)


def _sinabs_neuron(node: Any, name: str, dt: float) -> nir.NIRNode:
    """v <- alpha v + x, alpha = exp(-1 / tau), tau in steps."""
    peer = "sinabs"
    _resting(peer, name, node)
    if isinstance(node, nir.IF):
        return above(_changed(peer, name, node, lambda: with_factor(node, 1.0)))
    _need(
        peer, name, node, np.ndim(node.tau) == 1, "it takes a LIF of one axis only, none behind a convolution"
    )
    tau = np.asarray(node.tau, np.float64)
    _need(
        peer,
        name,
        node,
        bool((tau > dt * (1 + 1e-6)).all()),
        "it takes tau above dt only, its decay is exponential",
    )
    undivided = _changed(peer, name, node, lambda: with_factor(node, tau / dt))
    return above(measured(undivided, 1.0, tau=-1 / np.log(1 - dt / tau), r=np.ones(tau.shape)))


def _rockpool_neuron(node: Any, name: str, dt: float) -> nir.NIRNode:
    """i <- beta (i + x); v <- alpha v + i, alpha and beta exponential; dt is the least tau_mem / (1 + r)."""
    peer = "rockpool"
    _need(peer, name, node, not np.any(node.v_leak), "it takes a v_leak of 0 only")
    counted = _changed(peer, name, node, lambda: cuba_in_steps(node, dt))
    tau_syn, tau_mem = (np.asarray(getattr(node, k), np.float64) for k in ("tau_syn", "tau_mem"))
    fits = bool((np.minimum(tau_syn, tau_mem) > dt * (1 + 1e-6)).all())
    _need(peer, name, node, fits, "it takes time constants above dt only, its decay is exponential")
    slow = -dt / np.log(1 - dt / tau_mem)
    changed = {
        "tau_syn": -dt / np.log(1 - dt / tau_syn),
        "tau_mem": slow,
        "r": slow / dt - 1,
        "w_in": np.ones(slow.shape),
    }
    return above(measured(counted, 1 - dt / tau_syn, **changed))


_SNNTORCH_LOOP = "its reader leads the input of a recurrent layer to its recurrent weights"
_SPYX = "its neurons spike a step after their membrane crosses the threshold, so that the biases of later layers come too early"
PEERS: dict[str, Peer] = {
    "norse": Peer(
        "norse",
        "1.1.0",
        {
            **dict.fromkeys((nir.Affine, nir.Linear, nir.Conv2d, nir.Flatten), _same),
            **dict.fromkeys((nir.LIF, nir.IF, nir.CubaLIF), _norse_neuron),
            nir.SumPool2d: _unpadded("norse"),
        },
        pool="sum",
        subtract="its reader resets to 0",
        unsaid_dt=True,
    ),
    "snntorch": Peer(
        "snntorch",
        "1.0.0",
        {
            **dict.fromkeys((nir.Affine, nir.Linear, nir.AvgPool2d, nir.Flatten), _same),
            nir.Conv2d: _ungrouped("snntorch"),
            **dict.fromkeys((nir.LIF, nir.IF, nir.CubaLIF), _snntorch_neuron),
        },
        pool="average",
        recurrent=_SNNTORCH_LOOP,
        subtract="its reader resets to 0, whatever its own default is",
        dt=_SNNTORCH_DT,
    ),
    "spikingjelly": Peer(
        "spikingjelly",
        "2.0.0",
        {
            **dict.fromkeys((nir.Affine, nir.Linear, nir.AvgPool2d, nir.Flatten), _same),
            **dict.fromkeys((nir.Conv1d, nir.Conv2d), _ungrouped("spikingjelly")),
            **dict.fromkeys((nir.LIF, nir.IF, nir.CubaLIF), _spikingjelly_neuron),
        },
        pool="average",
        subtract="its reader makes neurons that reset to v_reset",
        unsaid_dt=True,
    ),
    "sinabs": Peer(
        "sinabs",
        "3.1.3",
        {
            nir.Affine: _same,
            nir.Linear: _affine,
            nir.Flatten: _same,
            nir.Conv2d: _ungrouped("sinabs"),
            nir.SumPool2d: _unpadded("sinabs"),
            **dict.fromkeys((nir.LIF, nir.IF), _sinabs_neuron),
        },
        pool="sum",
        recurrent="its reader runs a layer through all steps at once, so that no loop is closed",
        instead={nir.CubaLIF: "its reader leaves the layer out without a word"},
        dt=1.0,
        by_hand="its reader makes neurons that may spike several times a step and subtract: set spike_fn=SingleSpike, "
        "min_v_mem=None and {reset} of each",
    ),
    "rockpool": Peer(
        "rockpool",
        "3.1.0",
        {nir.Affine: _same, nir.Linear: _same, nir.CubaLIF: _rockpool_neuron},
        recurrent="its reader takes loops as sub-graphs only",
        zero="its neurons subtract their threshold, they do not reset to 0",
        instead={
            nir.LIF: "its reader looks for a tau_mem, which a LIF does not have",
            nir.IF: "it has no IF",
        },
        by_hand="its reader makes neurons that may spike several times a step: set max_spikes_per_dt = torch.tensor(1.0) of each",
    ),
    "spyx": Peer(
        "spyx",
        "1.0.0",
        {},
        zero=_SPYX,
        subtract=_SPYX,
        instead={nir.Conv2d: "it takes images with their channels last"},
    ),
}
