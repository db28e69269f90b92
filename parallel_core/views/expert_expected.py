"""What a plan's routers would decide at the first step: loads before anything has run.

A token's normed input has as much energy as it has features, and a router's weights are drawn
around zero: so its first logits are normal, with the standard deviation of a weight times the root
of the width, around whatever the router is made to lean to. Tokens are drawn one by one from that,
and chosen for by the rules of expert/routing.py, in numpy. Real text repeats its words, so a run's
tokens are fewer than they seem: its loads scatter more.
"""

from __future__ import annotations

import math
from collections import defaultdict
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from parallel_core.choices import RouterKind, Score
from parallel_core.expert import capacity
from parallel_core.model_shape import ModelShape
from parallel_core.params import param_specs
from parallel_core.plan import Plan
from parallel_core.routing_record import Routed, RoutingRecord

MOST = 1 << 22
"""Tokens times experts of a step that are drawn."""

SHOWN = 64
"""Tokens of a rank that are told one by one, as in a run."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@lru_cache(maxsize=16)
def expected(plan: Plan) -> RoutingRecord | None:
    """Step 0 and layer 0 of a run of this plan; None where its tokens are too many to draw."""
    m = plan.model
    if plan.tokens_per_step * m.experts > MOST:
        return None
    spec = next(spec for spec in param_specs(plan) if spec.name.endswith("router.weight"))
    spread = (spec.std or 0.0) * math.sqrt(m.hidden)
    lean = np.linspace(m.skew, -m.skew, m.experts)
    draw = np.random.default_rng(plan.seed)
    record = RoutingRecord(plan)
    for ranks in _sharing(plan):
        for mb in range(plan.microbatches):
            both = [
                choices(lean + spread * draw.standard_normal((plan.seq, m.experts)), m)
                for _ in range(plan.rows_per_microbatch)
            ]
            for i, rank in enumerate(ranks):
                here = [s for s in plan.context.positions(i) if s < plan.seq]
                mine = [(asked[here], kept[here]) for asked, kept in both]
                record.rows.append(_told(rank, mb, mine))
    return record


def _sharing(plan: Plan) -> list[list[int]]:
    """The ranks of the first stage and tensor rank, those together that cut the same sequences."""
    found: dict[int, list[int]] = defaultdict(list)
    for rank in range(plan.world_size):
        place = plan.mesh.coordinate(rank)
        if not place.get("tp", 0) and not place.get("pp", 0):
            found[plan.batch_place(rank)].append(rank)
    return list(found.values())


def _told(rank: int, mb: int, both: list[tuple[Bools, Bools]]) -> Routed:
    asked = sum(one[0].sum(0) for one in both)
    kept = sum(one[1].sum(0) for one in both)
    tokens: list[tuple[int, int, int]] = []
    if mb == 0:
        wants, went = (each[:SHOWN] for each in both[0])
        tokens = [(int(s), int(e), int(went[s, e])) for s, e in np.argwhere(wants)]
    return Routed(
        rank=rank, step=0, mb=mb, layer=0, tokens=tuple(tokens),
        asked=tuple(int(n) for n in np.atleast_1d(asked)),
        kept=tuple(int(n) for n in np.atleast_1d(kept)),
    )  # fmt: skip


def choices(logits_se: Floats, m: ModelShape) -> tuple[Bools, Bools]:
    """One sequence: logits [S, E] -> (the experts a token asks for, those that take it)."""
    scores = _scores(logits_se, m)
    seq, experts = scores.shape
    room = capacity.places(seq, experts=experts, top_k=m.top_k, factor=m.capacity)
    if m.router == RouterKind.EXPERT_CHOICE:
        kept = np.zeros_like(scores, dtype=np.bool_)
        best = np.argsort(-scores, axis=0, kind="stable")[:room]
        np.put_along_axis(kept, best, True, axis=0)
        return kept, kept
    best = np.argsort(-_in_reach(scores, m), axis=1, kind="stable")[:, : m.top_k]
    asked = np.zeros_like(scores, dtype=np.bool_)
    np.put_along_axis(asked, best, True, axis=1)
    if m.router == RouterKind.DROPLESS:
        return asked, asked
    kept, taken = np.zeros_like(asked), np.zeros(experts, dtype=np.int64)
    for column in best.T:  # all first choices before any second one
        wants = np.eye(experts, dtype=np.int64)[column]
        line = taken + np.cumsum(wants, axis=0)
        kept |= wants.astype(np.bool_) & (line <= room)
        taken = line[-1]
    return asked, kept


def _scores(logits_se: Floats, m: ModelShape) -> Floats:
    if m.score == Score.SIGMOID:
        return np.asarray(1 / (1 + np.exp(-logits_se)))
    powers = np.exp(logits_se - logits_se.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def _in_reach(scores_se: Floats, m: ModelShape) -> Floats:
    """The scores of the best groups alone; a group is worth its two best experts together."""
    reach = m.group_limit or m.expert_groups
    if m.expert_groups == 1 or reach == m.expert_groups:
        return scores_se
    parts = scores_se.reshape(len(scores_se), m.expert_groups, -1)
    worth = np.sort(parts, axis=-1)[..., -2:].sum(-1)
    far = np.argsort(-worth, axis=1, kind="stable")[:, reach:]
    near = parts.copy()
    np.put_along_axis(near, far[..., None], -math.inf, axis=1)
    return near.reshape(scores_se.shape)
