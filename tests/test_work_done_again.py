"""What full recomputation does twice where tokens travel: attention, and the experts alone."""

from __future__ import annotations

from typing import Any

import pytest

from parallel_core.cases import program_of
from parallel_core.plan import Plan
from parallel_core.program import Op
from parallel_core.sizes import step_flops

TINY: dict[str, Any] = {
    "layers": 3, "hidden": 16, "heads": 4, "seq": 8, "vocab": 32, "ffn": 32, "experts": 4,
    "global_batch": 8, "dp": 2, "recompute": "full",
}  # fmt: skip


@pytest.mark.parametrize("shared", [0, 2])
@pytest.mark.parametrize("every", [1, 2])
def test_a_router_and_shared_experts_work_once_where_tokens_travel(shared, every):
    """With experts shared out a backward spares their forward: 2 FLOPs a weight and token."""
    plan = Plan.of(**TINY | {"shared_experts": shared, "recompute_every": every})
    m, again = plan.model, -(-plan.model.layers // every)
    spared = m.hidden * (m.experts + 3 * shared * m.mlp)  # llama: gate, up, down
    apart = step_flops(plan) - step_flops(plan.but(ep=2))
    assert apart == 2.0 * again * spared * plan.tokens_per_step


@pytest.mark.parametrize("sp", [False, True])
def test_attention_runs_again_when_its_backward_is_due(sp):
    """Behind the backward of what routes: the forward's messages, then those of its backward."""
    plan = Plan.of(**TINY | {"ep": 2, "tp": 2, "sp": sp})
    task = next(i for i in program_of(plan).ranks[0] if i.op == Op.B and i.where == "layer0")
    router = ["again", "region"] if sp else ["region"]  # x once more, dx out
    ahead = ["cutregion", "region"] if sp else ["region"]  # x in, y out
    back = ["cutregion", "region"] if sp else ["region"]  # dy in, dx out; x is still there
    assert [m.value.name for m in task.inner] == [*router, *ahead, *back]
    shares = [m.before for m in task.inner]
    assert shares == pytest.approx(
        [0, 0, 0, 1 / 3, 0, 2 / 3] if sp else [0, 1 / 3, 2 / 3], abs=2e-3
    )
