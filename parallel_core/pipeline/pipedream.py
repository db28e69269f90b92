"""Asynchronous PipeDream: 1F1B without a flush, for each backward changes its stage's weights.

    p=3 m=4    rank 0   F0 F1 F2 B0 F3 B1 B2 B3
               rank 1   F0 F1 B0 F2 B1 F3 B2 B3
               rank 2   F0 B0 F1 B1 F2 B2 F3 B3

The compute order is 1F1B's. What differs is when the optimizer acts: after every B, alone on its
rank, not once after all m. Call version k of stage r its weights after k backwards.

    forward    microbatch i runs on the newest version, max(0, i-(p-1-r))
    backward   microbatch i runs on that same version again: the rank has stashed it
    update     it makes version i+1 from version i and a gradient taken min(i, p-1-r) versions ago

Without the stash a gradient would belong to neither version. Rank r therefore keeps min(p-r, m)
versions of its weights, the newest included, and as many microbatches at its peak; the last rank
keeps one, and is never stale. One microbatch sees an older version on an early stage than on a
late one (only "vertical sync" would make them agree). In a stream of batches the pipeline never
drains, so the bubble goes to 0; over these m microbatches alone, fill and drain are 1F1B's:
(p-1)/m of the ideal time. Narayanan et al. 2019 (SOSP), first as Harlap et al., arXiv:1806.03377.
"""

from __future__ import annotations

from parallel_core.pipeline.one_f_one_b import one_f_one_b
from parallel_core.pipeline.order import Order


def pipedream(p: int, m: int) -> Order:
    """What 1F1B computes, in its order; the weights change after each B. PlanError as there."""
    return Order(one_f_one_b(p, m).ranks, "pipedream")
