"""Tokens/s of our bucketed data parallelism beside torch's DistributedDataParallel.

Both live in the same rank processes and take turns (interleave.py), on the same model, weights,
batches and threads. The bench fails if they do not train the same: a wrong step may be a fast one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from parallel_core.bench import Say
from parallel_core.bench.comparable import must_hold
from parallel_core.bench.interleave import OURS, PEER, Block, a_step, merged
from parallel_core.bench.measurement import Measurement, Report, ratio_of
from parallel_core.fields import real, switch, validate, whole
from parallel_core.launch import Pool
from parallel_core.plan import Plan

TARGET = "parallel_core.bench.dp_ranks:contend"
PRELOAD = ("torch.nn.parallel",)

DEFAULTS: Mapping[str, Any] = {
    "dp": 2,
    "layers": 6,
    "hidden": 256,
    "heads": 8,
    "seq": 128,
    "global_batch": 16,
    "bucket_mb": 25.0,
}
"""Sizes that give steps well over 200 ms on two cores, and the bucket size that is best there for
both sides: ranks that share cores gain nothing by overlap, and each message costs."""

LONG_ENOUGH_S = 0.2
"""Shorter steps measure latencies and schedulers more than training."""

FLOOR = 0.97
"""The lower end of the ratio's interval that we hold ourselves to."""

EARLY_STEPS = 3
EARLY, LATE = 1e-4, 5e-2
"""How far losses and norms may stand apart, relative: in the first steps, and once rounding has
grown (AdamW turns the sign of a gradient that is rounding noise into a whole step)."""


@dataclass(frozen=True, kw_only=True)
class Race:
    """How long the two contend, and at what settings the peer runs."""

    rounds: int = whole(24, 1, 10_000, "rounds of four turns (ours, peer, peer, ours)")
    turn_steps: int = whole(1, 1, 1000, "steps a turn")
    warmup: int = whole(4, 3, 1000, "untimed steps a side before the first turn")
    peer_bucket_mb: float = real(25.0, 0.001, 4096.0, "DistributedDataParallel's bucket_cap_mb")
    norm: bool = switch(True, "both sides measure the gradient norm each step")

    def __post_init__(self) -> None:
        validate(self)


def plan_of(**flat: Any) -> Plan:
    """The plan to contend with: the bench's sizes, with the fields that were given."""
    plan = Plan.of(**{**DEFAULTS, **flat})
    masters = "has float32 masters here and none in DistributedDataParallel: not comparable"
    must_hold(
        (
            ("dp", plan.dp, plan.dp > 1, "must be at least 2 to compare data parallelism", 2),
            ("dtype", plan.dtype, not plan.mixed, masters, "float32"),
            ("dropout", plan.model.dropout, not plan.model.dropout, "must be 0 in this bench", 0.0),
        )
    )
    return plan


def peer_settings(plan: Plan, chosen: Race) -> dict[str, Any]:
    """What DistributedDataParallel is made with.

    The graph is declared static, as its documentation advises, unless gradients accumulate: torch
    2.13 fails an internal assertion where a static graph meets no_sync.
    """
    return {
        "bucket_cap_mb": chosen.peer_bucket_mb,
        "gradient_as_bucket_view": True,
        "static_graph": plan.microbatches == 1,
    }


def measure(plan: Plan, chosen: Race, say: Say) -> Report:
    """Run both, and say how much faster ours is.

    Raises RunError if a rank fails, and Disagreement if the two did not train the same.
    """
    args = {"plan": plan.flat(), "race": asdict(chosen)}
    turn = 0
    say(f"{plan.layout}: starting")
    with Pool(preload=PRELOAD) as pool, pool.start(TARGET, plan.world_size, args) as run:
        for event in run.events():
            if event["event"] == "turn" and event["rank"] == 0:
                turn += 1
                say(f"{plan.layout}: turn {turn} of {4 * chosen.rounds}")
        return digest(plan, chosen, run.wait())


class Disagreement(RuntimeError):
    """The contenders did not train the same, so their speeds must not be compared."""


def digest(plan: Plan, chosen: Race, results: Sequence[Mapping[str, Any]]) -> Report:
    """The ranks' blocks and losses as a report."""
    apart = check_alike(results)
    blocks = merged([[Block(**block) for block in result["blocks"]] for result in results])
    ours, peer = a_step(blocks, OURS), a_step(blocks, PEER)
    cpu, peer_cpu = a_step(blocks, OURS, "cpu"), a_step(blocks, PEER, "cpu")
    rows = {
        "ours / DistributedDataParallel": ratio_of(ours, peer),
        "ours": Measurement.of([plan.tokens_per_step / s for s in ours], "tokens/s"),
        "DistributedDataParallel": Measurement.of(
            [plan.tokens_per_step / s for s in peer], "tokens/s"
        ),
        "step, ours": Measurement.of([1e3 * s for s in ours], "ms"),
        "step, DistributedDataParallel": Measurement.of([1e3 * s for s in peer], "ms"),
        "processor time, ours / DistributedDataParallel": ratio_of(peer_cpu, cpu),
    }
    settings = {
        "plan": plan.flat(),
        "rounds": chosen.rounds,
        "steps_a_turn": chosen.turn_steps,
        "threads_a_rank": results[0]["threads"],
        "backend": "gloo",
        "gradient_norm": "both" if chosen.norm else "neither",
        "peer": peer_settings(plan, chosen)
        | {"optimizer": f"{plan.optimizer} fused", "zero_grad": "set_to_none"},
        "largest_difference": apart,
    }
    return Report(
        "dp", f"{plan.layout}, {plan.model.dialect}", rows, settings, _notes(chosen), _doubts(rows)
    )


def check_alike(
    results: Sequence[Mapping[str, Any]], name: str = "DistributedDataParallel"
) -> float:
    """The largest relative difference of the two sides' losses and norms, over all steps.

    Raises Disagreement where one is too large. Our loss is that of the global batch; a rank of the
    peer knows its own rows' part of it, so the parts are added. Norms are the same on every rank.
    """
    first = results[0]
    parts = zip(*(result["losses"][PEER] for result in results), strict=True)
    pairs = {
        "loss": zip(first["losses"][OURS], map(math.fsum, parts), strict=True),
        "gradient norm": zip(first["norms"][OURS], first["norms"][PEER], strict=True),
    }
    largest = 0.0
    for what, both in pairs.items():
        for step, (mine, theirs) in enumerate(both):
            apart = abs(mine - theirs) / abs(theirs)
            allowed = EARLY if step < EARLY_STEPS else LATE
            if not apart <= allowed:
                raise Disagreement(
                    f"step {step}: our {what} {mine:.6g}, {name}'s {theirs:.6g}: "
                    f"{apart:.2g} apart where {allowed:g} is allowed, so their speeds say nothing"
                )
            largest = max(largest, apart)
    return largest


def _notes(chosen: Race) -> tuple[str, ...]:
    norm = "both measure the gradient norm" if chosen.norm else "neither measures a gradient norm"
    return (
        f"like with like: {norm} and read the loss once a step; ours sums its loss over ranks,"
        " the peer reads its rank's own",
        "ours runs with its recorder on and emits its notes between steps",
        "a round is ours, peer, peer, ours (then peer first); its ratio pairs the two sides",
    )


def _doubts(rows: Mapping[str, Measurement]) -> tuple[str, ...]:
    doubts = []
    ratio = rows["ours / DistributedDataParallel"]
    step = min(row.median for row in rows.values() if row.unit == "ms") / 1e3
    if step < LONG_ENOUGH_S:
        doubts.append(
            f"a step takes {1e3 * step:.0f} ms, less than {1e3 * LONG_ENOUGH_S:.0f}: the ratio says"
            " more about latency than about training; give a larger --global-batch or --seq"
        )
    if ratio.n < 6:
        doubts.append(f"{ratio.n} rounds cannot bear a 95 % interval: the whole range is given")
    if ratio.low < FLOOR:
        doubts.append(f"the lower end {ratio.low:.3f} is below the {FLOOR} we hold ourselves to")
    return tuple(doubts)
