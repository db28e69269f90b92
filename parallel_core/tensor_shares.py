"""Where a tensor-parallel task's messages stand among its own work, in shares of its FLOPs.

    F layer   enter  q k v  attention o  leave  enter  gate up  down  leave
    B layer   dleave  down  again  gate up  denter  dleave  o  attention  again  q k v  denter

Each product of a backward is two, for dx and for dw. Without sequence parallelism a forward only
leaves and a backward only comes out again (denter), by all-reduce.

Norms, nonlinearities and dropout are nothing beside the matrix products, and are not counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from parallel_core.plan import Dialect, Plan, Recompute

ENTER, LEAVE, DLEAVE, AGAIN, DENTER = "enter", "leave", "dleave", "again", "denter"
"""What a message is for: x into a region, y out of it, dy into it, x once more, dx out of it."""

NUMBER = "number"
"""A number a token: the cross-entropy's."""

GRAIN = 1000
"""Shares are told to a thousandth: a program's text holds them exactly."""


@dataclass(frozen=True)
class Work:
    """FLOPs of one layer's forward on one rank."""

    qkv: float
    core: float
    out: float
    into: float
    down: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.qkv + self.core + self.out + self.into + self.down


def work(plan: Plan) -> Work:
    """The products of a layer for one microbatch, on one rank."""
    m, t = plan.model, plan.tp
    token = 2.0 * plan.rows_per_microbatch * plan.seq
    kv = max(m.kv // t, 1) * m.head_dim
    inner = token * m.hidden * m.mlp / t
    return Work(
        qkv=token * m.hidden * (m.hidden / t + 2 * kv),
        core=2 * token * plan.seq * m.hidden / t,
        out=token * m.hidden * m.hidden / t,
        into=inner * (2 if m.dialect == Dialect.LLAMA else 1),
        down=inner,
    )


Stop = tuple[str, float, float]
"""A message: what it is for, FLOPs before it (since the message before), FLOPs under it."""


def layer(plan: Plan, kind: str, *, forward: bool) -> list[Stop]:
    """The messages of a layer's task in order, with shares of its work."""
    w = work(plan)
    ahead = _forward(plan, w)
    if forward:
        return _shares(plan, ahead, w.total)
    again = w.core if kind == Recompute.SELECTIVE else 0.0
    whole = kind == Recompute.FULL
    back = _backward(plan, w, again, keeps_whole=whole and not plan.overlap_tp)
    total = 2 * w.total + again + (w.total if whole else 0.0)
    return _shares(plan, [*ahead, *back] if whole else back, total)


def head(plan: Plan, *, forward: bool) -> list[Stop]:
    """The messages of the head's task: its one product, and the cross-entropy."""
    if forward:
        first = (ENTER, 0.0, 1.0) if plan.overlap_tp else (ENTER, 0.0, 0.0)
        product = 0.0 if plan.overlap_tp else 1.0
        return _shares(plan, [first, (NUMBER, product, 0.0), *[(NUMBER, 0.0, 0.0)] * 2], 1.0)
    if plan.overlap_tp:
        return _shares(plan, [(AGAIN, 0.0, 1.0), (DENTER, 0.0, 1.0)], 2.0)
    return _shares(plan, [(AGAIN, 0.0, 0.0), (DENTER, 2.0, 0.0)], 2.0)


def _forward(plan: Plan, w: Work) -> list[Stop]:
    if plan.overlap_tp:
        return [
            (ENTER, 0.0, w.qkv), (LEAVE, w.core + w.out, 0.0),
            (ENTER, 0.0, w.into), (LEAVE, w.down, 0.0),
        ]  # fmt: skip
    return [
        (ENTER, 0.0, 0.0), (LEAVE, w.qkv + w.core + w.out, 0.0),
        (ENTER, 0.0, 0.0), (LEAVE, w.into + w.down, 0.0),
    ]  # fmt: skip


def _backward(plan: Plan, w: Work, again: float, *, keeps_whole: bool) -> list[Stop]:
    """`keeps_whole`: what had entered is still there, since it was computed a moment ago."""
    core = 2 * w.core + again
    if plan.overlap_tp:
        return [
            (DLEAVE, 0.0, w.down), (AGAIN, w.down, w.into), (DENTER, 0.0, w.into),
            (DLEAVE, 0.0, w.out), (AGAIN, w.out + core, w.qkv), (DENTER, 0.0, w.qkv),
        ]  # fmt: skip
    if keeps_whole or not plan.sp:
        return [
            (DLEAVE, 0.0, 0.0), (DENTER, 2 * (w.down + w.into), 0.0),
            (DLEAVE, 0.0, 0.0), (DENTER, 2 * (w.out + w.qkv) + core, 0.0),
        ]  # fmt: skip
    return [
        (DLEAVE, 0.0, 0.0), (AGAIN, 2 * w.down, 0.0), (DENTER, 2 * w.into, 0.0),
        (DLEAVE, 0.0, 0.0), (AGAIN, 2 * w.out + core, 0.0), (DENTER, 2 * w.qkv, 0.0),
    ]  # fmt: skip


def _shares(plan: Plan, stops: Iterable[Stop], total: float) -> list[Stop]:
    """The messages that there are, as shares of `total` to the grain. Work before one that there
    is not belongs to the next."""
    silent = () if plan.sp else (ENTER, DLEAVE, AGAIN)
    found, owed = [], 0.0
    for name, before, under in stops:
        owed += before
        if name not in silent:
            found.append((name, _grain(owed / total), _grain(under / total)))
            owed = 0.0
    return found


def _grain(share: float) -> float:
    return round(share * GRAIN) / GRAIN
