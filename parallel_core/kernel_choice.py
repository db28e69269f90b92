"""Which kernels a plan's axes call for: the one table of them."""

from __future__ import annotations

from parallel_core.expert_kernels import (
    ExpertGatherKernels,
    ExpertKernels,
    ExpertStageKernels,
    ExpertStashKernels,
    ExpertZeroKernels,
)
from parallel_core.kernels import TrainKernels
from parallel_core.plan import Plan
from parallel_core.sharded_stage_kernels import (
    ExpertGatherStageKernels,
    ExpertZeroStageKernels,
    GatherStageKernels,
    ZeroStageKernels,
)
from parallel_core.stage_kernels import StageKernels
from parallel_core.stash_kernels import StashKernels
from parallel_core.zero3_kernels import GatherKernels
from parallel_core.zero_kernels import ZeroKernels


def kernels_of(plan: Plan) -> type[TrainKernels]:
    """The kernels that the plan's axes need."""
    if plan.pp > 1 and plan.asynchronous:
        return ExpertStashKernels if plan.model.experts else StashKernels
    return KERNELS[plan.pp > 1, {2: 1}.get(plan.zero, plan.zero), plan.model.experts > 0]


KERNELS: dict[tuple[bool, int, bool], type[TrainKernels]] = {
    (False, 0, False): TrainKernels,
    (False, 0, True): ExpertKernels,
    (False, 1, False): ZeroKernels,
    (False, 1, True): ExpertZeroKernels,
    (False, 3, False): GatherKernels,
    (False, 3, True): ExpertGatherKernels,
    (True, 0, False): StageKernels,
    (True, 0, True): ExpertStageKernels,
    (True, 1, False): ZeroStageKernels,
    (True, 1, True): ExpertZeroStageKernels,
    (True, 3, False): GatherStageKernels,
    (True, 3, True): ExpertGatherStageKernels,
}
"""By: a pipeline, ZeRO's stage (2 shares 1's), experts."""
