"""The classic count of a layer, row by row, and by what ours differs from it.

    classic rows + differences = saved_rows, to the byte

The rows have the names of saved.py. The paper's block is gpt with dropout and unfused attention,
and it leaves a LayerNorm's statistics out; whatever a plan has otherwise is a difference with its
reason. Korthikanti et al. 2022, arXiv:2205.05198, section 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass

from parallel_core.activations.saved import CORE, INPUT, Rows, saved_rows
from parallel_core.plan import Dialect, DType, Plan, Recompute

NORMS = ("attn norm ", "mlp norm ")


@dataclass(frozen=True)
class Difference:
    """A row that is not what the classic count says: bytes there, bytes here, and why."""

    row: str
    classic: int
    ours: int
    why: str

    @property
    def bytes(self) -> int:
        """By how much ours is more."""
        return self.ours - self.classic


def classic_rows(plan: Plan, unit: str = "layer0") -> Rows:
    """The classic count of a layer of the plan's sizes, on one rank, in the plan's dtype."""
    e, tokens = DType(plan.dtype).bytes, plan.tokens_here
    every = tokens * plan.model.hidden
    outer = every // plan.tp if plan.sp else every
    inner, scores = every // plan.tp, tokens * plan.model.heads * plan.seq // plan.tp
    kind = plan.recompute_in(unit)
    if kind == Recompute.FULL:
        return {INPUT: outer * e}
    rows = {
        "attn norm input": outer * e,
        "attn norm output": outer * e,
        "q": inner * e,
        "k, v": 2 * inner * e,
        "softmax": scores * e,
        "softmax dropout": scores,
        "softmax dropped": scores * e,
        "attention output": inner * e,
        "attention dropout": outer,
        "mlp norm input": outer * e,
        "mlp norm output": outer * e,
        "mlp": 2 * 4 * inner * e,
        "mlp dropout": outer,
    }
    return {k: v for k, v in rows.items() if kind == Recompute.NONE or k not in CORE}


def differences(plan: Plan, unit: str = "layer0") -> tuple[Difference, ...]:
    """Every row in which the plan's layer is not the classic one, with its reason.

    >>> plan = Plan.of(dialect="gpt", dropout=0.1, dtype="bfloat16")
    >>> [(d.row, d.bytes // 2048) for d in differences(plan)]  # a token
    [('attn norm mean, 1/std', 4), ('mlp norm mean, 1/std', 4)]
    """
    classic, ours = classic_rows(plan, unit), saved_rows(plan, unit)
    return tuple(
        Difference(row, classic.get(row, 0), ours.get(row, 0), _why(plan, row))
        for row in dict.fromkeys((*classic, *ours))
        if classic.get(row, 0) != ours.get(row, 0)
    )


WHY = {
    "attn norm input": "RMSNorm computes in float32, and keeps that copy",
    "attn norm mean, 1/std": "LayerNorm keeps its mean and 1/std, two numbers a token",
    "attn norm 1/rms": "RMSNorm keeps 1/rms, a number a token",
    "attn norm normed": "the token before it is scaled, for the gradient of the scale",
    "k, v": "fewer key/value heads than heads",
    "cos, sin": "rotary positions",
    "softmax": "fused attention keeps no scores",
    "softmax dropout": "no dropout",
    "softmax dropped": "no dropout",
    "attention dropout": "no dropout",
    "mlp dropout": "no dropout",
    "log-sum-exp": "fused attention keeps one number a token and head",
    "attention result": "what the tiles give, beside what leaves for the output projection",
    "router scores": "the router's scores, a number a token and expert",
    "router mask": "which experts a token asks for, a byte each",
    "router gates": "what a token's gates are divided by, so that they are parts of 1",
    "router padding": "which positions are padding, without a loss",
    "auxiliary loss": "scores once more, and each expert's part of a sequence",
    "z-loss": "the logits and their log-sum-exp",
    "shared experts": "the experts that every token passes",
    "row numbers": "which token and which expert a row is, two numbers of 8 bytes",
    "expert rows": "a copy of each token for each of its experts",
    "experts": "what the experts keep of these rows in the place of an MLP",
    "expert results": "what they made of each row, for the gradients of its gate",
    "weights of results": "the gates, a number a row",
    "shared results": "what the shared experts made, held while rows travel",
    "past the experts": "the residual stream, held while rows travel",
    INPUT: "the 16-bit input itself, held for its gradient beside the norm's float32 copy",
}
"""Why a row differs, where it does; both norms alike."""


def _why(plan: Plan, row: str) -> str:
    if row == "mlp" and plan.model.experts:
        return "experts in its place"
    if row == "mlp":
        count = 4 if plan.model.dialect == Dialect.LLAMA else 2
        return f"{count} tensors {plan.model.mlp:,} wide; the classic MLP keeps 2 of 4h"
    return WHY[row.replace(NORMS[1], NORMS[0])]
