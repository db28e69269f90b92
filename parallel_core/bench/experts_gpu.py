"""On a GPU, if there is one: every expert's products in one kernel, one after the other, in a loop.

    one kernel              expert/grouped.py where torch has a grouped product
    one product an expert   the same rows, expert by expert, a matrix product each
    a mask an expert        the plain loop of experts_sides.py

bfloat16, forward and backward, by the GPU's own clock, by turns. Before that each is compared with
the plain loop in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from parallel_core.bench.context_rows import order
from parallel_core.bench.dp import Disagreement
from parallel_core.bench.experts_ranks import Drawn, Side
from parallel_core.bench.experts_rows import GPU_SIDES, MASKS, ONE_KERNEL, PRODUCTS
from parallel_core.bench.experts_sides import NOWHERE, ByLoop
from parallel_core.bench.interleave import Block
from parallel_core.expert import grouped
from parallel_core.moe import MoE, put_back, send
from parallel_core.plan import Plan
from parallel_core.rank import Rank

SIZES: Mapping[str, Any] = {
    "experts": 64,
    "top_k": 6,
    "hidden": 2048,
    "heads": 16,
    "ffn": 1408,
    "layers": 1,
    "global_batch": 1,
    "skew": 1.0,
}
"""DeepSeek-V2-Lite's layer of experts (arXiv:2405.04434, appendix B)."""

TOKENS = (512, 4096, 16384)

BF16 = 2.0**-8
ALLOWED = 8 * BF16
"""How far a bfloat16 result may stand from float32's, as a share of its norm."""


def contend(rank: Rank, *, rounds: int) -> dict[str, Any]:
    """Every number of tokens; no cases where there is no GPU or no such kernel. JSON-ready."""
    probe = torch.empty(
        0, dtype=torch.bfloat16, device="cuda" if torch.cuda.is_available() else None
    )
    if not grouped.one_kernel(probe):
        return {"device": None, "cases": []}
    cases = [_case(Plan.of(**SIZES, seq=tokens), rounds) for tokens in TOKENS]
    return {"device": torch.cuda.get_device_name(), "cases": cases}


def _case(plan: Plan, rounds: int) -> dict[str, Any]:
    sides = sides_of(plan, torch.device("cuda"), torch.bfloat16)
    truth = sides_of(plan, torch.device("cuda"), torch.float32)[MASKS].step()[:2]
    for name, side in sides.items():
        if (error := _apart(side.step()[:2], truth)) > ALLOWED:
            raise Disagreement(f"{name} on the GPU is {error:.2g} from float32, {ALLOWED:.2g} is"
                               " allowed")  # fmt: skip
    del truth
    blocks = []
    for number in range(rounds):
        for name in order(GPU_SIDES, number):
            blocks.append(Block(number, name, 1, _seconds(sides[name].step), 0.0))
    m = plan.model
    name = f"{plan.seq:,} tokens, {m.experts} experts, top {m.top_k}"
    return {"name": name, "blocks": [asdict(block) for block in blocks]}


def sides_of(plan: Plan, device: torch.device, dtype: torch.dtype) -> dict[str, Side]:
    """The three ways to compute one layer, with the same weights and tokens."""
    drawn = Drawn.of(plan)
    x, dy = (t.to(device, dtype) for t in (drawn.x, drawn.dy))
    made = {}
    for name in GPU_SIDES:
        moe = drawn.layer(plan, 0).to(device, dtype)
        if name == MASKS:
            loop = ByLoop(moe)
            layer: Callable[[Tensor], Tensor] = loop
            weights = [moe.router.weight, *loop.leaves]
        else:
            layer = _Layer(moe, in_one=name == ONE_KERNEL)
            weights = [*moe.parameters()]
        made[name] = Side(x.clone().requires_grad_(), dy, layer, weights)
    assert set(made) == {ONE_KERNEL, PRODUCTS, MASKS}
    return made


class _Layer:
    """moe.py's layer, its products in one kernel where there is one, or expert by expert."""

    def __init__(self, moe: MoE, *, in_one: bool) -> None:
        self.moe = moe
        if not in_one:
            moe.experts.product = expert_by_expert

    def __call__(self, x_bsd: Tensor) -> Tensor:
        routed = self.moe.route(x_bsd, NOWHERE)
        y_rd = self.moe.experts(send(x_bsd, routed.rows), routed.counts)
        return put_back(y_rd, routed.rows, x_bsd.shape, None)


def expert_by_expert(x_ri: Tensor, w_eoi: Tensor, counts: grouped.Counts) -> Tensor:
    """grouped.product as one torch product an expert: x[R, I], w[E, O, I] -> y[R, O]."""
    parts = zip(torch.split(x_ri, list(counts)), w_eoi.unbind(), strict=True)
    return torch.cat([part_ri @ w_oi.T for part_ri, w_oi in parts])


def _seconds(call: Callable[[], object]) -> float:
    clock: Any = torch.cuda.Event
    begin, end = (clock(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def _apart(found: list[Tensor], right: list[Tensor]) -> float:
    return max(float((x.float() - y).norm() / y.norm()) for x, y in zip(found, right, strict=True))
