"""What the forward of each unit keeps for its backward, block by block, by formula.

n = B·S tokens of the microbatch, D model width, E = G·K key/value width, F MLP width, H heads,
b bytes an element, w bytes in norms, softmax and loss (4 where b is 2, else b).

    llama layer     attn norm   n(w·D + w + 2b·D)     input, 1/rms, normed, scaled
                    attention   n(2b·D + 2b·E) + n·w·H + 4b·S·K   q, out, k, v, lse, cos, sin
                    mlp norm    as the attn norm      mlp   4b·n·F   gate, up, silu(gate), product
    gpt layer       attn norm   n(2b·D + 2b)          input, output, mean, 1/std
                    attention   4b·n·D + n·w·H        q, k, v, out, log-sum-exp
                    mlp norm    as the attn norm      mlp   2b·n·F   before and after GELU

With tp = t, heads, F, E and V are a rank's own, H/t and so on; under sequence parallelism norms and
dropout masks see n/t tokens, and what enters a region is kept as the rank's shard of it.

What experts keep in the place of an MLP says expert_rows.py: it depends on how many rows they get,
a `Load`, by default an even one.

These are this model's own tensors, in the types really kept, with a fused attention. The classic
sbh(34 + 5as/h) counts 16-bit unfused attention with dropout (Korthikanti et al. 2022,
arXiv:2205.05198, section 4.1). The meter (meter.py) measures the same, and a test holds the two
equal to the byte.
"""

from __future__ import annotations

from collections.abc import Sequence

from parallel_core.activations import expert_rows
from parallel_core.activations.expert_rows import Load, LoadOf, even, widths
from parallel_core.own_block import described
from parallel_core.pieces import EXPERTS, JOIN, ROUTE
from parallel_core.plan import Dialect, Plan, Recompute

Rows = dict[str, int]
"""What is kept, and its bytes."""

INPUT = "input"
"""The row of a unit's own input."""

OWN = "the reader's own block"
"""The row of a block that has no formula."""

CORE = frozenset(
    {"log-sum-exp", "softmax", "softmax dropout", "softmax dropped", "attention result"}
)
"""What selective recomputation does not keep."""


def saved_bytes(plan: Plan, unit: str, load: Load | None = None) -> int:
    """Bytes one microbatch of `unit` keeps on a rank until its backward."""
    return sum(saved_rows(plan, unit, load).values())


def piece_bytes(plan: Plan, units: Sequence[str], loads: LoadOf | None = None, mb: int = 0) -> int:
    """The same of all that one instruction runs. Only the first unit's input is a leaf."""
    kept = sum(saved_bytes(plan, unit, load_of(plan, unit, loads, mb)) for unit in units)
    return kept - sum(_held_input(plan, unit) for unit in units[1:])


def piece_away(plan: Plan, units: Sequence[str], loads: LoadOf | None = None, mb: int = 0) -> int:
    """Bytes of it that offloading takes to the host."""
    return sum(offloaded_bytes(plan, unit, load_of(plan, unit, loads, mb)) for unit in units)


def load_of(plan: Plan, unit: str, loads: LoadOf | None, mb: int) -> Load | None:
    """The load of a unit, or part of a layer, in a microbatch; None where nobody says."""
    layer = unit.split(".")[0].removeprefix("layer")
    return loads(mb, int(layer)) if loads and plan.model.experts and layer.isdigit() else None


def offloaded_bytes(plan: Plan, unit: str, load: Load | None = None) -> int:
    """The part of it that offloading takes to the host: what a leaf holds is let go for good."""
    return saved_bytes(plan, unit, load) - _held_input(plan, unit)


def _held_input(plan: Plan, unit: str) -> int:
    """Bytes of a unit's input that are held for its gradient alone."""
    if plan.model.block and unit.startswith("layer"):
        found = described(plan)
        return found.saved - found.behind if plan.recompute_in(unit) == Recompute.NONE else 0
    none = unit == "embed" or unit.endswith((EXPERTS, JOIN))
    again = recompute_in(plan, unit) == Recompute.FULL
    return 0 if none or again else sum(_leaf(plan).values())


def recompute_in(plan: Plan, unit: str) -> str:
    """What the backward of a unit, or of a part of a layer, computes again."""
    return plan.recompute_in(unit.split(".")[0])


def again_bytes(plan: Plan, unit: str, load: Load | None = None) -> int:
    """Bytes that recomputation makes for the length of a backward, beside what was kept.

    Full: all that the block would have kept but its input, and under sequence parallelism what
    enters its regions whole, since it is used at once. Selective: the core's own, the output it
    makes again, and where scores are written out q, k and v as the products want them. By then what
    comes behind the block in the layer has been used and let go.
    """
    kind = Recompute.NONE if unit.endswith(JOIN) else recompute_in(plan, unit)
    if kind == Recompute.NONE or (kind == Recompute.SELECTIVE and unit.endswith(EXPERTS)):
        return 0
    rows = _layer(plan, unit, load or even(plan))
    if kind == Recompute.FULL:
        return _again_in_full(plan, unit, rows)
    made = ("attention output",) if plan.model.fused or plan.cp > 1 else ("q", "k, v")
    again = sum(size for name, size in rows.items() if name in CORE or name in made)
    before = {*_before_core(plan), *_leaf(plan)}
    return max(again - sum(size for name, size in rows.items() if name not in before), 0)


def _again_in_full(plan: Plan, unit: str, rows: Rows) -> int:
    again = {name: size for name, size in rows.items() if _made_again(plan, name)}
    if unit.endswith(EXPERTS):
        return sum(again.values())
    behind = sum(rows.values()) - sum(again.values())
    others = 0 if plan.overlap_tp else _tokens(plan) - _outside(plan)
    regions = 1 if plan.ep > 1 else 2
    gathered = regions * others * plan.model.hidden * widths(plan)[0]
    return max(sum(again.values()) - _input(plan) + gathered - behind, 0)


def _made_again(plan: Plan, row: str) -> bool:
    """Whether full recomputation makes what is kept under this name again: all of a layer, or
    attention and the experts where tokens travel between them."""
    if plan.ep == 1:
        return True
    mine = _norm(plan, "attn norm") | _attention(plan) | _dropout_mask(plan, "attention dropout")
    return row in {*mine, *_leaf(plan), expert_rows.WORK}


def _before_core(plan: Plan) -> Rows:
    """What a backward still holds when it comes to the attention core."""
    rows = _norm(plan, "attn norm") | _attention(plan)
    return {name: size for name, size in rows.items() if name != "attention output"}


def saved_rows(plan: Plan, unit: str, load: Load | None = None) -> Rows:
    """The same, block by block; of a part of a layer ("layer0.route") that part's."""
    if unit == "embed":
        words = {"own words": 8 * _tokens(plan), "foreign": _tokens(plan)} if plan.tp > 1 else {}
        return words | _dropout_mask(plan, "dropout")
    if unit == "head":
        return _head(plan)
    kind = recompute_in(plan, unit)
    rows = _layer(plan, unit, load or even(plan))
    if kind == Recompute.FULL:
        own = {} if unit.endswith((EXPERTS, JOIN)) else {INPUT: _input(plan)}
        return own | {k: v for k, v in rows.items() if not _made_again(plan, k)}
    return {k: v for k, v in rows.items() if kind == Recompute.NONE or k not in CORE}


def _tokens(plan: Plan) -> int:
    return plan.tokens_here


def _outside(plan: Plan) -> int:
    """Tokens outside tensor-parallel regions: under sequence parallelism a rank's share."""
    return _tokens(plan) // (plan.tp if plan.sp else 1)


def _dropout_mask(plan: Plan, name: str) -> Rows:
    return {name: _outside(plan) * plan.model.hidden} if plan.model.dropout else {}


def _norm(plan: Plan, name: str) -> Rows:
    n, d, (b, w) = _outside(plan), plan.model.hidden, widths(plan)
    if plan.model.dialect == Dialect.GPT:
        return {
            f"{name} input": n * d * b,
            f"{name} mean, 1/std": 2 * n * b,
            f"{name} output": n * d * b,
        }
    return {
        f"{name} input": n * d * w,
        f"{name} 1/rms": n * w,
        f"{name} normed": n * d * b,
        f"{name} output": n * d * b,
    }


def _attention(plan: Plan) -> Rows:
    m, n, (b, w) = plan.model, _tokens(plan), widths(plan)
    heads, kv = m.heads // plan.tp, plan.kv_here * m.head_dim
    q = n * heads * m.head_dim * b
    rows = {"q": q, "k, v": 2 * n * kv * b, "attention output": q}
    if m.dialect == Dialect.LLAMA:
        rows["cos, sin"] = 4 * plan.seq_here * m.head_dim * b
    if plan.cp > 1:
        return _across_ranks(plan, rows, heads, kv)
    if m.fused:
        return rows | {"log-sum-exp": n * heads * w}
    scores = n * heads * plan.seq
    rows["softmax"] = scores * b
    if m.dropout:
        rows |= {"softmax dropout": scores, "softmax dropped": scores * b}
    return rows


def _across_ranks(plan: Plan, rows: Rows, heads: int, kv: int) -> Rows:
    """Under context parallelism: the result of the tiles apart from what leaves for `o`; where
    heads are dealt out, several ranks may hold the same key/value head."""
    rows = rows | {"log-sum-exp": _tokens(plan) * heads * widths(plan)[1]}
    rows["k, v"] *= max(plan.context.ulysses * plan.model.head_dim // kv, 1)
    return rows | {"attention result": rows["attention output"]}


def _layer(plan: Plan, unit: str, load: Load) -> Rows:
    if plan.model.block:
        return {OWN: described(plan).saved}
    rows = _norm(plan, "attn norm") | _attention(plan) | _dropout_mask(plan, "attention dropout")
    rows |= _norm(plan, "mlp norm")
    last = _dropout_mask(plan, "mlp dropout")
    if not plan.model.experts:
        tensors = 4 if plan.model.dialect == Dialect.LLAMA else 2
        inner = _tokens(plan) * plan.model.mlp // plan.tp * widths(plan)[0]
        return rows | {"mlp": tensors * inner} | _leaf(plan) | last
    parts = {
        ROUTE: rows | expert_rows.route_rows(plan, load) | _leaf(plan),
        EXPERTS: expert_rows.experts_rows(plan, load),
        JOIN: expert_rows.join_rows(plan, load) | last,
    }
    found: Rows = {}
    for end, part in parts.items():
        if "." not in unit or unit.endswith(end):
            found |= part
    return found


def _leaf(plan: Plan) -> Rows:
    """The unit's bfloat16 input, held for its gradient beside a norm's float32 copy."""
    if plan.mixed and plan.model.dialect == Dialect.LLAMA:
        return {INPUT: _input(plan)}
    return {}


def _input(plan: Plan) -> int:
    return _outside(plan) * plan.model.hidden * widths(plan)[0]


def _head(plan: Plan) -> Rows:
    n, (_, w) = _tokens(plan), widths(plan)
    if plan.tp > 1:
        loss = {"softmax": n * plan.vocab_here * w, "target": 8 * n, "masks": 2 * n}
    else:
        loss = {"log-softmax": n * plan.model.vocab * w, "count": w}
    return _norm(plan, "norm") | _leaf(plan) | loss
