"""How much of a training step is matrix multiplication: every torch op of a step, timed.

A dispatch mode sees each op of forward, backward and optimizer as it runs. On a CPU an op is done
when it returns, so the thread's CPU time in it is its cost, whatever else the cores do meanwhile;
views and other bookkeeping count as "rest".
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from parallel_core.model import Place, Transformer, init_weights
from parallel_core.oracle import make_optimizer
from parallel_core.plan import Plan

MATMULS = ("mm", "addmm", "bmm", "baddbmm", "linear")
ATTENTION = "scaled_dot_product"


class OpClock(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Adds up the CPU seconds of every op run under it, by the op's name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the op and note how long it took."""
        start = time.thread_time()
        out = func(*args, **(kwargs or {}))
        self.seconds[func.overloadpacket.__name__] += time.thread_time() - start
        return out


def by_part(seconds: dict[str, float]) -> dict[str, float]:
    """Seconds of ops by name as seconds of "matmul", "attention" and "rest".

    Fused attention is two matmuls and a softmax in one op, so it stands apart.
    """
    parts = {"matmul": 0.0, "attention": 0.0, "rest": 0.0}
    for op, time_s in seconds.items():
        part = "matmul" if op in MATMULS else "attention" if ATTENTION in op else "rest"
        parts[part] += time_s
    return parts


def share(plan: Plan, steps: int = 3) -> dict[str, float]:
    """Seconds a training step of `plan`'s model spends in matmul, attention and the rest.

    CPU seconds of one thread, random tokens, after one step to warm up; the mean of `steps` steps.
    """
    step = _step(plan)
    step()
    with OpClock() as clock:
        for _ in range(steps):
            step()
    return {part: total / steps for part, total in by_part(clock.seconds).items()}


def _step(plan: Plan) -> Callable[[], None]:
    model = Transformer(plan)
    init_weights(model, plan)
    optimizer = make_optimizer(list(model.parameters()), plan)
    generator = torch.Generator().manual_seed(plan.seed)
    ids = torch.randint(plan.model.vocab, (plan.global_batch, plan.seq), generator=generator)
    place = Place(plan.seed, 0, torch.arange(plan.global_batch), torch.arange(plan.seq))

    def step() -> None:
        optimizer.zero_grad()
        model(ids, ids, place, ids.numel()).backward()
        optimizer.step()

    return step
