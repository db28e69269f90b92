"""Whether a run is the training of one process, and if not, what departs from it.

The sums of the ranks are rounded in another order than those of one process: a relative error is
held against what rounding in the run's element type explains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parallel_core.plan import DType


@dataclass(frozen=True)
class Rounding:
    """What to expect of an element type: the relative error that rounding explains, and why.

    `judged` are the errors it is held against; empty means all that were counted.
    """

    bound: float
    why: str
    judged: tuple[str, ...] = ()
    after_steps: float = 0.0  # of the gradient norm, if larger: AdamW's steps amplify rounding


ROUNDING: Mapping[str, Rounding] = {
    DType.FLOAT32: Rounding(
        1e-5, "float32 keeps 24 bits, a relative 2^-24 = 6e-8 per rounding", after_steps=1e-4
    ),
    DType.FLOAT64: Rounding(1e-10, "float64 keeps 53 bits, a relative 2^-53 = 1e-16 per rounding"),
    DType.BFLOAT16: Rounding(
        2**-8,
        "bfloat16 keeps 8 bits, a relative 2^-8 = 0.004 per rounding. Every layer and partial sum "
        "rounds anew, so a single gradient may differ by many times that, and by all of itself "
        "where its terms cancel; the loss and the gradient norm average over the roundings",
        ("loss", "gradient norm"),
    ),
}

NEVER = 1e-8
"""A relative error in float64 that no order of summing makes: the run trained something else."""

COUNTED = {
    "loss": "the loss of the first {steps} steps",
    "gradient norm": "the gradient norm of the first {steps}",
    "gradients": "the gradients of the first (rank 0's, after the sum)",
    "parameters": "the weights after step {steps}",
}
"""What a parity report compared, in words."""


@dataclass(frozen=True)
class Departure:
    """An error that rounding does not explain: of what, in words; how much; what is explained."""

    what: str
    error: float
    bound: float


@dataclass(frozen=True)
class Verdict:
    """What a run's parity report comes to. `judged` are the errors that count, `apart` those among
    them beyond rounding; `never` says that one is beyond all doubt."""

    dtype: str
    judged: Mapping[str, float]
    apart: tuple[Departure, ...]
    never: bool

    @property
    def equal(self) -> bool:
        """Whether rounding explains every error."""
        return not self.apart

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        if self.equal:
            return "equal to one process to rounding"
        found = "; ".join(
            f"look at {one.what}: a relative error of {one.error:.1e} where rounding in"
            f" {self.dtype} explains {one.bound:.1e}"
            for one in self.apart
        )
        return f"NOT the training of one process: {found}"

    def as_json(self) -> dict[str, Any]:
        """`equal`, the sentence, and which of the errors were judged."""
        return {"equal": self.equal, "sentence": self.sentence, "judged": list(self.judged)}


def in_words(name: str, steps: int) -> str:
    """What a part of a parity report compares, over so many steps."""
    return COUNTED.get(name, name).format(steps=steps)


def verdict(parity: Mapping[str, Any], dtype: str) -> Verdict:
    """The verdict on a report's "parity". A NaN is never equal.

    >>> found = {"errors": {"loss": 1e-13}, "counted": ["loss"], "steps": 3}
    >>> verdict(found, "float64").equal
    True
    >>> verdict(found | {"errors": {"loss": 0.5}}, "float64").never
    True
    """
    expected = ROUNDING[dtype]
    judged = {name: parity["errors"][name] for name in expected.judged or parity["counted"]}
    apart = []
    for name, error in judged.items():
        bound = expected.bound
        if name == "gradient norm":
            bound = max(bound, expected.after_steps)
        if not error <= bound:
            apart.append(Departure(in_words(name, parity["steps"]), error, bound))
    never = dtype == DType.FLOAT64 and any(not one.error <= NEVER for one in apart)
    return Verdict(dtype, judged, tuple(apart), never)
