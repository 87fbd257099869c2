"""What a compiler tells of what it did."""

from __future__ import annotations

from dataclasses import dataclass

from hardware.network.integer import SignMode


@dataclass(frozen=True)
class LayerReport:
    """What rounding did to one projection and to the population it leads to; errors are relative.

    scale: integer units (of a weight at the exponent 0) per unit of the graph's weights, with the neurons' gain
        and linear layers folded in, lowest and highest over channels. weight_error_max: of the largest weight. weight_error_rms: of the root mean square.
    zeroed: non-zero weights that were rounded to zero. threshold_error, bias_error, du_error, dv_error: the
        largest over neurons (bias: of the largest bias; du, dv: of the share lost per step).
    membrane_scale: units of v per unit of the graph's membrane, median. membrane_offset: the graph's membrane
        where v is 0, median.
    on_grid: whether weights, thresholds and biases lie on steps that the chip holds, so that none is rounded.
    parts: projections that these weights are spread over; in pairs, two.
    synapses: connections between two neurons, both of a pair counted; each takes memory on a chip that shares no kernels.
    warnings: what makes the result doubtful.
    """

    source: str
    target: str
    kind: str
    scale: tuple[float, float]
    weight_exp: int
    sign_mode: SignMode
    weight_bits: int
    delay: int
    parameters: int
    zeroed: int
    weight_error_max: float
    weight_error_rms: float
    threshold_error: float
    bias_error: float
    du_error: float
    dv_error: float
    membrane_scale: float
    membrane_offset: float
    on_grid: bool = False
    parts: int = 1
    synapses: int = 0
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
