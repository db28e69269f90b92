"""What the weight half of a backward (W) still needs after the input half (I), by formula.

n = B·S tokens of the microbatch, D model width, E = G·K key/value width, F MLP width, V vocabulary,
b bytes an element. A product y = x w' needs x and dy; products of the same x share it.

    layer   q, k, v     n·b(2D + 2E)   input, dq, dk, dv
            o           2b·n·D         attention output, its gradient
            mlp         llama: 2b·n·D + 3b·n·F   input, dgate, dup, product, doutput
                        gpt:   2b·n·D + 2b·n·F   input, dup, activation, doutput
    experts             n·b(D + E)     input and dlogits of the router
                        b·R'(2D + 3F)  rows, dgate, dup, product, doutput (gpt: 2F)
                        shared experts as an mlp whose input is the router's
    embed               b·n·D          the gradient; gpt: b·S·D more for the positions
    head                b·n(D + V)     input, dlogits

Scores, norms, masks and the loss are gone: their backward needs no weight but a norm's, whose
gradient is made in I. Token ids count as data, as in saved.py. With tp = t, F, V and the widths of
heads are a rank's own. Counted in a run by `Deferred.bytes` (deferred.py); a test holds the two
equal to the byte.
"""

from __future__ import annotations

from collections.abc import Sequence

from parallel_core.activations.expert_rows import Load, LoadOf, even
from parallel_core.activations.saved import load_of
from parallel_core.pieces import EXPERTS, JOIN, ROUTE
from parallel_core.plan import Dialect, DType, Plan

Rows = dict[str, int]
"""What is held, and its bytes."""


def held_bytes(plan: Plan, unit: str, load: Load | None = None) -> int:
    """Bytes one microbatch of `unit` ("embed", "layer<i>" or a part of one, "head") holds from its
    I to its W."""
    return sum(held_rows(plan, unit, load).values())


def held_by_piece(
    plan: Plan, units: Sequence[str], loads: LoadOf | None = None, mb: int = 0
) -> int:
    """The same of all that one instruction runs."""
    return sum(held_bytes(plan, unit, load_of(plan, unit, loads, mb)) for unit in units)


def held_rows(plan: Plan, unit: str, load: Load | None = None) -> Rows:
    """The same, tensor by tensor."""
    width = plan.model.hidden * DType(plan.dtype).bytes
    tokens = plan.tokens_here
    if unit == "embed":
        gpt = plan.model.dialect == Dialect.GPT
        positions = plan.seq_here // (plan.tp if plan.sp else 1)
        return {"dtokens": tokens * width} | ({"dpositions": positions * width} if gpt else {})
    if unit == "head":
        logits = tokens * plan.vocab_here * DType(plan.dtype).bytes
        return {"head input": tokens * width, "dlogits": logits}
    if not plan.model.experts:
        return _attention(plan, tokens) | _mlp(plan, tokens)
    if unit.endswith(JOIN):
        return {}
    rows = {} if unit.endswith(EXPERTS) else _attention(plan, tokens) | _router(plan, tokens)
    return rows if unit.endswith(ROUTE) else rows | _experts(plan, load or even(plan))


def _attention(plan: Plan, tokens: int) -> Rows:
    b = DType(plan.dtype).bytes
    outer = tokens * plan.model.hidden * b
    q, kv = outer // plan.tp, tokens * plan.kv_here * plan.model.head_dim * b
    rows = {"attention input": outer, "dq": q, "dk, dv": 2 * kv}
    return rows | {"attention output": q, "doutput of attention": outer}


def _mlp(plan: Plan, tokens: int) -> Rows:
    b = DType(plan.dtype).bytes
    outer, inner = tokens * plan.model.hidden * b, tokens * plan.model.mlp // plan.tp * b
    rows = {"mlp input": outer, "dup": inner, "input of down": inner, "doutput of mlp": outer}
    return rows | ({"dgate": inner} if plan.model.dialect == Dialect.LLAMA else {})


def _router(plan: Plan, tokens: int) -> Rows:
    """The router, and the shared experts beside it."""
    m, b = plan.model, DType(plan.dtype).bytes
    rows = {"router input": tokens * m.hidden * b, "dlogits of router": tokens * m.experts * b}
    if not m.shared_experts:
        return rows
    inner, gated = tokens * m.shared_width // plan.tp * b, m.dialect == Dialect.LLAMA
    rows |= {"dup of shared": inner, "input of shared down": inner}
    rows |= {"doutput of shared": tokens * m.hidden * b}
    return rows | ({"dgate of shared": inner} if gated else {})


def _experts(plan: Plan, load: Load) -> Rows:
    m, b = plan.model, DType(plan.dtype).bytes
    outer, inner = load.here * m.hidden * b, load.here * m.mlp // plan.tp * b
    rows = {"expert rows": outer, "dup of experts": inner, "input of experts' down": inner}
    rows |= {"doutput of experts": outer}
    return rows | ({"dgate of experts": inner} if m.dialect == Dialect.LLAMA else {})
