"""NETX, lava-dl's network file (HDF5), what ``lava.lib.dl.netx.hdf5.Network`` loads: what it can say. `netx_writing` writes it, `netx_reading` reads it.

A chain of layers, groups ``layer/0`` ..., input first: `input`, `dense`, `dense_rec`, `conv`, `flatten`. The
integers in the file are the effective weights; the loader makes du = iDecay - 1, dv = vDecay, a bias exponent
of 6. What the format, or the loader's own arithmetic, cannot say is refused with the reason:

- inputs that are always on, skip connections, several inputs or outputs, delays but in a `dense` layer, convolutions that are recurrent
  or follow a fully connected layer;
- a reset by subtraction;
- parameters per neuron other than the bias (read they are: lava-dl's own training writes decays per neuron or channel); a
  bias that is no multiple of 64;
- weights of a fully connected layer beyond 8 bit, and the few matrices that the loader's search for an
  exponent alters (all zero; all negative or zero with a power of two as the smallest).

A sparse projection is written as a dense matrix, zeros as zeros, and so is a convolution from or to a population with dead neurons, and
every one behind it. A population that does not spike gets the
threshold `NEVER`, which a 24-bit membrane cannot pass; that is how it is read, too. An input with counts above
1 needs ``Network(input_message_bits=...)`` in lava-dl, or it takes every count as one spike. lava-dl counts
depth from the first layer of neurons, `hardware.network.timing` from the input: its ``reset_offset`` is ours plus one.

Two things are added that other readers pass over: the attribute ``name`` of a layer, and the data set
``metadata`` (JSON: time step, bins, class names), so that a file is enough to evaluate it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hardware.network.integer import (
    INPUT_SHIFT,
)

if TYPE_CHECKING:
    from hardware.chip.chips import Chip

BIAS_EXP = 6
# Of lava-dl's loader.
LONGEST_DELAY = 62
MAX_LAYERS = 1024


def restrict(chip: Chip) -> Chip:
    """`chip` as far as a NETX file can speak of it: weights without an exponent, biases at the loader's and on the membrane,
    one threshold per population, reset to zero. Its name says so."""
    neuron = chip.neuron
    return replace(
        chip,
        name=f"{chip.name} in a NETX file",
        neuron=replace(
            neuron,
            weight_exponents=(0, 0),
            bias_exponents=(BIAS_EXP + neuron.input_shift - INPUT_SHIFT,) * 2,
            thresholds_per="population",
            resets=("zero",),
            delay_steps=min(neuron.delay_steps, LONGEST_DELAY),
            always_on_inputs=False,
        ),
    )
