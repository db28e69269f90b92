"""The one way to switch a bug on: a class of kernels, made for one run, that carries its name.

No plan has a field for it, no environment variable is read, and `runtime.train` takes a class only
from Python: what travels to ranks as JSON cannot name one.
"""

from __future__ import annotations

from typing import Any

from parallel_core.fields import PlanError
from parallel_core.kernels import TrainKernels
from parallel_core.museum.placed import (
    LastMicrobatchOnly,
    PositionsContiguous,
    StagesSeededAlike,
)
from parallel_core.museum.scaled import (
    ExpertsTimesRanks,
    LossTimesContext,
    MicrobatchesUndivided,
    NormCountedTwice,
)
from parallel_core.museum.unsummed import (
    BucketEarly,
    ContextUnsummed,
    NormsUnsummed,
    RouterUnsummed,
    TiedTooLate,
)

SWITCHES: dict[str, type[TrainKernels]] = {
    "context-unsummed": ContextUnsummed,
    "microbatches-undivided": MicrobatchesUndivided,
    "norms-unsummed": NormsUnsummed,
    "experts-times-ep": ExpertsTimesRanks,
    "router-unsummed": RouterUnsummed,
    "loss-times-cp": LossTimesContext,
    "tied-too-late": TiedTooLate,
    "bucket-early": BucketEarly,
    "positions-contiguous": PositionsContiguous,
    "last-microbatch-only": LastMicrobatchOnly,
    "norm-counted-twice": NormCountedTwice,
    "stages-seeded-alike": StagesSeededAlike,
}
"""Exhibit -> what it changes."""


def planted(kernels: type[TrainKernels], name: str) -> type[TrainKernels]:
    """The kernels of a plan with this bug in them; PlanError for a name that is no exhibit."""
    if name not in SWITCHES:
        rule = f"is no bug of the museum; there are {', '.join(SWITCHES)}"
        raise PlanError("bug", name, rule, next(iter(SWITCHES)))
    switch = SWITCHES[name]
    made: Any = type(f"{kernels.__name__}With{switch.__name__}", (switch, kernels), {})
    made.planted = name
    found: type[TrainKernels] = made
    return found
