"""Run an integer network on real Lava: lava-nc 0.10.0, ``Loihi2SimCfg(select_tag="fixed_pt")``.

Stock processes: `RingBuffer` sources, `Dense`, `DelayDense`, `Sparse`, `DelaySparse`, `Conv`, `LIF` and
`LIFReset`; for a reset by subtraction, which Lava has not, our own `soft_reset`. To read every u and v of every step
without one more operating-system process and channel per variable, the bit-accurate LIF models run with one method
extended (`reset_voltage`, the last thing they do in a step): it copies u, v and the spikes into memory that the
processes share.

Where Lava's processes say less than our projections:

- `Conv` knows neither exponent, sign mode nor bits: it gets mantissa * 2**exponent as its kernel. What the
  kernel sums is wrapped to 24 bit by Lava, which a dense projection's sum is not.
- `Conv` has no delay: a `DelaySparse` identity holds its input back for as many steps.
- A sparse projection may have two synapses between the same neurons, a matrix may not: refused.
- A population that does not spike gets a threshold above what a membrane can reach.
- Lava numbers images (width, height, channel); populations of three dimensions are transposed to that.

lava-nc needs Python 3.10; `run_elsewhere` runs this package there. Lava is imported only where it is used.
"""

from hardware.simulate.lava.elsewhere import main, run_elsewhere
from hardware.simulate.lava.running import NO_LAVA, available, simulate

__all__ = ["NO_LAVA", "available", "main", "run_elsewhere", "simulate"]
