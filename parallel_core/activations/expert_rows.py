"""What a layer of experts keeps for its backward in the place of its MLP, part by part, by formula.

n tokens of the microbatch on the rank, E experts, D model width, F width of one on the rank, B
sequences, S their positions here; R rows that the rank's tokens make (k a token where none is
dropped), R' rows that its experts get: the same rows where it has all experts. b bytes an element,
w bytes of logits and gates (4 where b is 2, else b).

    route    n·E·w + n·E           scores, and the mask of the experts asked for
             n·E·w + 2n·w          what a token's gates are divided by, where several are
             16R                   which token and which expert a row is
             n·E·w + n·w + B·E·w   auxiliary loss     n·E·w + n·w   z-loss
             4b·n·F'               shared experts (gpt: 2), F' their width together
    experts  b·R'·D + 4b·R'·F      rows; gate, up, silu(gate), product (gpt: up and GELU)
    join     b·R·D + b·R           what experts made of them, and its weights

Where tokens travel, a part's input is held for its gradient: the gates at w, the shared experts'
result, and what goes past the experts where no norm has kept it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from parallel_core.choices import Balance, RouterKind
from parallel_core.expert.capacity import places
from parallel_core.plan import Dialect, DType, Plan

INT64 = 8
WORK = "experts"
"""The row of what is between an expert's products."""


@dataclass(frozen=True)
class Load:
    """Rows of one microbatch and layer: `sent` by a rank's tokens, `here` come to its experts."""

    sent: int
    here: int


LoadOf = Callable[[int, int], Load]
"""(microbatch, layer) -> its load, on one rank in one step."""


def even(plan: Plan) -> Load:
    """The load before anything has run: every expert gets as many, and none is dropped that has a
    place."""
    rows = rows_routed(plan)
    return Load(rows, rows)


def rows_routed(plan: Plan) -> int:
    """Rows that one rank sends to experts in a microbatch and layer: the most there can be."""
    m = plan.model
    if m.router == RouterKind.DROPLESS:
        return plan.tokens_here * m.top_k
    room = places(plan.seq, experts=m.experts, top_k=m.top_k, factor=m.capacity)
    most = plan.rows_per_microbatch * room * m.experts // plan.cp
    return most if m.router == RouterKind.EXPERT_CHOICE else min(most, plan.tokens_here * m.top_k)


def route_rows(plan: Plan, load: Load) -> dict[str, int]:
    """Router and shared experts: what the part of a layer keeps from which tokens leave."""
    m, n, w = plan.model, plan.tokens_here, widths(plan)[1]
    every = n * m.experts * w
    rows = {"router scores": every, "router mask": n * m.experts}
    if m.router != RouterKind.EXPERT_CHOICE and m.top_k > 1:
        rows["router gates"] = every + 2 * n * w
    extra = (m.balance == Balance.AUX) + (m.z_loss > 0)
    padded = plan.context.padded > plan.seq
    if extra and padded:
        rows["router padding"] = plan.seq_here
    if m.balance == Balance.AUX:
        rows["auxiliary loss"] = every + n * w + plan.rows_per_microbatch * m.experts * w
    if m.z_loss:
        rows["z-loss"] = every + n * w * (2 if padded else 1)
    if m.shared_experts:
        rows["shared experts"] = _hidden(plan, n, m.shared_width)
    return rows | {"row numbers": 2 * INT64 * load.sent}


def experts_rows(plan: Plan, load: Load) -> dict[str, int]:
    """The experts that are on a rank."""
    width = widths(plan)[0]
    return {
        "expert rows": load.here * plan.model.hidden * width,
        WORK: _hidden(plan, load.here, plan.model.mlp),
    }


def join_rows(plan: Plan, load: Load) -> dict[str, int]:
    """What experts have made, on its way into the residual stream."""
    (b, w), wide = widths(plan), plan.model.hidden
    rows = {"expert results": load.sent * wide * b, "weights of results": load.sent * b}
    if plan.ep == 1:
        return rows
    rows["weights of results"] = load.sent * (w + b if plan.mixed else w)
    if plan.model.shared_experts:
        rows["shared results"] = plan.tokens_here * wide * b
    if plan.mixed and plan.model.dialect == Dialect.LLAMA:
        rows["past the experts"] = plan.tokens_here // (plan.tp if plan.sp else 1) * wide * b
    return rows


def widths(plan: Plan) -> tuple[int, int]:
    """Bytes of an element, and of one in norms, softmax, gates and loss."""
    b = DType(plan.dtype).bytes
    return b, max(b, 4)


def _hidden(plan: Plan, rows: int, inner: int) -> int:
    tensors = 4 if plan.model.dialect == Dialect.LLAMA else 2
    return tensors * rows * inner // plan.tp * widths(plan)[0]
