"""The denominator of MFU: FLOP/s that a rank's device reaches at most, and where that is from.

    MFU = model FLOPs a step / (seconds a step x ranks x peak FLOP/s of a device)

Model FLOPs are those of one process: 2 a weight of a matrix and token forward, 4sD a token and
layer for attention, a backward twice that. What is recomputed does not count, nor is causal masking
discounted. Chowdhery et al. 2022, arXiv:2204.02311, appendix B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from parallel_core.cases import program_of
from parallel_core.hardware.devices import DEVICES
from parallel_core.launch import Pool
from parallel_core.plan import Plan
from parallel_core.program import Op
from parallel_core.sizes import flops

TARGET = "parallel_core.compare.rate_ranks:measure"

FORMULA = "model FLOPs of a step / (seconds of a step x ranks x peak FLOP/s of a rank's device)"


@dataclass(frozen=True)
class Rate:
    """FLOP/s of a device at most; None where nobody publishes it. `source` says whence."""

    device: str
    peak: float | None
    source: str

    @property
    def as_json(self) -> dict[str, Any]:
        """For a report."""
        return {"device": self.device, "peak": self.peak, "source": self.source}


def rate_here(pool: Pool, dtype: str) -> Rate:
    """Measured on a core of this machine, or published for its GPU."""
    with pool.start(TARGET, 1, {"dtype": dtype}) as run:
        (found,) = run.wait()
    return rate_of(found["device"], found["peak"], dtype)


def rate_of(device: str, measured: float | None, dtype: str) -> Rate:
    """From what a rank said: its device, and on a CPU the peak that the roofline measured."""
    if measured is not None:
        source = f"measured by the roofline on one core, {dtype}: its fastest square matmul"
        return Rate(device, measured, source)
    words = device.upper().replace("-", " ").split()
    for name, known in DEVICES.items():
        first, *rest = name.upper().replace("-", " ").split()
        if first in words and (not rest or rest[0] in words or first in ("H200", "B200")):
            if dtype in known.peak:
                return Rate(name, known.flops(dtype), known.source)
            return Rate(name, None, f"no peak is published for {name} in {dtype}")
    return Rate(device, None, f"no peak is published here for {device}")


def model_flops(plan: Plan) -> float:
    """FLOPs of forward and backward of a step, on one process that recomputes nothing."""
    single = plan.single()
    count = flops(single)
    (instrs,) = program_of(single).ranks
    return sum(count(instr) for instr in instrs if instr.op in (Op.F, Op.B))


def mfu(plan: Plan, seconds: float, peak: float) -> float:
    """The formula, 0 to 1."""
    return model_flops(plan) / (seconds * plan.world_size * peak)
