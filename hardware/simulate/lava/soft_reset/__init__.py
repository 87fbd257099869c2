"""A LIF whose spike takes the threshold from the membrane, which lava-nc 0.10 has not: a process and its fixed-point model.

All but the reset is lava-nc's bit-accurate LIF: v <- v - vth * 64 where v > vth * 64, one spike a step. Imports Lava, so
it is imported only where Lava is used. A folder of its own, since Lava runs every file beside a process's own to find
its models.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.ports import PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.lif.models import AbstractPyLifModelFixed
from lava.proc.lif.process import LIF


class SoftResetLIF(LIF):
    """lava-nc's `LIF` with reset by subtraction.

    reset_interval N, reset_offset k: as of lava-nc's `LIFReset`, u and v are zeroed before the dynamics of the steps t
    = 1, 2, ... with t mod N = k mod N; None: never.
    """

    def __init__(
        self, *, reset_interval: int | None = None, reset_offset: int = 0, **parameters: Any
    ) -> None:
        super().__init__(**parameters)
        self.proc_params["reset_interval"] = reset_interval
        self.proc_params["reset_offset"] = reset_offset


@implements(proc=SoftResetLIF, protocol=LoihiProtocol)
@requires(CPU)
@tag("bit_accurate_loihi", "fixed_pt")
class PySoftResetLifModel(AbstractPyLifModelFixed):
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
    vth: Any = LavaPyType(int, np.int32, precision=17)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.effective_vth: Any = 0
        self.interval, self.offset = proc_params["reset_interval"], proc_params["reset_offset"]

    def scale_threshold(self) -> None:
        self.effective_vth = np.left_shift(self.vth, self.vth_shift)
        self.isthrscaled = True

    def spiking_activation(self) -> np.ndarray:
        return self.v > self.effective_vth

    def reset_voltage(self, spike_vector: np.ndarray) -> None:
        self.v[:] = np.where(spike_vector, self.v - self.effective_vth, self.v)

    def run_spk(self) -> None:
        if self.interval is not None and self.time_step % self.interval == self.offset % self.interval:
            self.u[:] = 0
            self.v[:] = 0
        super().run_spk()
