"""1F1B with W put off: what ZB-H1 and ZB-H2 both are, each with its own warm-up and delay."""

from __future__ import annotations

from parallel_core.pipeline.order import Task, tasks
from parallel_core.program import Op


def delayed(stage: int, m: int, *, warmup: int, delay: int) -> tuple[Task, ...]:
    """`warmup` forwards, then F I in turn; W of a microbatch follows the I `delay` later.

    Both counts end at m: the forwards there are, and the Ws that are left for the end.
    """
    warmup, delay = min(warmup, m), min(delay, m)
    steps = tasks(Op.F, range(warmup), stage)
    for mb in range(m):
        if warmup + mb < m:
            steps.append(Task(Op.F, warmup + mb, stage))
        steps.append(Task(Op.I, mb, stage))
        if mb >= delay:
            steps.append(Task(Op.W, mb - delay, stage))
    return tuple(steps + tasks(Op.W, range(m - delay, m), stage))
