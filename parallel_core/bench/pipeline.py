"""Tokens/s of our pipelines beside torch.distributed.pipelining's, schedule by schedule.

Both live in the same rank processes and take turns (interleave.py): the same stages of the same
model, weights, batches, microbatches and threads, and an optimizer step each. The bench fails if
they do not train the same: a wrong step may be a fast one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from parallel_core.bench import Say
from parallel_core.bench.comparable import must_hold
from parallel_core.bench.dp import EARLY, EARLY_STEPS, FLOOR, LATE, LONG_ENOUGH_S, Disagreement
from parallel_core.bench.interleave import OURS, PEER, Block, a_step, merged
from parallel_core.bench.measurement import Measurement, Report, ratio_of
from parallel_core.fields import PlanError, validate, whole
from parallel_core.launch import Pool
from parallel_core.plan import Plan

TARGET = "parallel_core.bench.pipeline_ranks:contend"
PRELOAD = ("torch.distributed.pipelining",)

PEERS: Mapping[str, str] = {
    "gpipe": "ScheduleGPipe",
    "1f1b": "Schedule1F1B",
    "interleaved": "ScheduleInterleaved1F1B",
    "zb-v": "ScheduleZBVZeroBubble",
    "dualpipe-v": "ScheduleDualPipeV",
}
"""Our schedules, and torch's classes for the same."""

DEFAULTS: Mapping[str, Any] = {
    "pp": 2,
    "layers": 4,
    "hidden": 256,
    "heads": 8,
    "seq": 128,
    "microbatches": 8,
    "global_batch": 16,
}
"""Sizes that give steps well over 200 ms on two cores, and a layer to each of four stages."""

GRADIENT = 1e-4
"""How far apart the gradients of the first step may be, as a share of a tensor's largest."""


@dataclass(frozen=True, kw_only=True)
class Race:
    """How long the two contend, at each schedule."""

    rounds: int = whole(16, 1, 10_000, "rounds of four turns (ours, peer, peer, ours) a schedule")
    turn_steps: int = whole(1, 1, 1000, "steps a turn")
    warmup: int = whole(3, 1, 1000, "untimed steps a side before the first turn")

    def __post_init__(self) -> None:
        validate(self)


def plans_of(**flat: Any) -> tuple[Plan, ...]:
    """The plans to contend with: one a schedule, or the one whose schedule was given."""
    given = {**DEFAULTS, **flat}
    name = given.pop("schedule", None)
    if name is not None and name not in PEERS:
        rule = f"has no peer in torch; those that have: {', '.join(PEERS)}"
        raise PlanError("schedule", name, rule, "1f1b")
    plans = tuple(Plan.of(**given, schedule=each) for each in PEERS if name in (None, each))
    for plan in plans:
        _comparable(plan)
    return plans


def _comparable(plan: Plan) -> None:
    alone = "must be 1: torch's pipelines are compared without data parallelism"
    rules = (
        ("pp", plan.pp, plan.pp > 1, "must be at least 2 to compare pipelines", 2),
        ("dp", plan.dp, plan.dp == 1, alone, 1),
        ("tied", True, not plan.model.tied, "has no peer: torch's stages share no weights", False),
        ("dropout", plan.model.dropout, not plan.model.dropout, "must be 0 in this bench", 0.0),
        ("dtype", plan.dtype, not plan.mixed, "has float32 masters here, none there", "float32"),
    )
    must_hold(rules)


def measure(plans: Sequence[Plan], chosen: Race, say: Say) -> Report:
    """Run both under each plan, and say how much faster ours is.

    Raises RunError if a rank fails, and Disagreement if the two did not train the same.
    """
    rows: dict[str, Measurement] = {}
    apart: dict[str, dict[str, float]] = {}
    threads = 1
    with Pool(preload=PRELOAD) as pool:
        for plan in plans:
            turn, args = 0, {"plan": plan.flat(), "race": asdict(chosen)}
            say(f"{plan.layout}: starting")
            with pool.start(TARGET, plan.world_size, args) as run:
                for event in run.events():
                    if event["event"] == "turn" and event["rank"] == 0:
                        turn += 1
                        say(f"{plan.layout}: turn {turn} of {4 * chosen.rounds}")
                results = run.wait()
            apart[plan.schedule] = check_alike(plan, results)
            rows |= rows_of(plan, results)
            threads = results[0]["threads"]
    settings = {
        "plan": plans[0].flat(),
        "rounds": chosen.rounds,
        "steps_a_turn": chosen.turn_steps,
        "threads_a_rank": threads,
        "backend": "gloo",
        "peer": {"optimizer": f"{plans[0].optimizer} fused", "zero_grad": "set_to_none"},
        "peers": {plan.schedule: PEERS[plan.schedule] for plan in plans},
        "largest_difference": apart,
    }
    title = f"pp={plans[0].pp}, m={plans[0].microbatches}, {plans[0].model.dialect}"
    return Report("pipeline", title, rows, settings, _notes(apart), tuple(_doubts(rows)))


def rows_of(plan: Plan, results: Sequence[Mapping[str, Any]]) -> dict[str, Measurement]:
    """The ranks' blocks under one plan as rows."""
    name, peer_name = plan.schedule, PEERS[plan.schedule]
    blocks = merged([[Block(**block) for block in result["blocks"]] for result in results])
    ours, peer = a_step(blocks, OURS), a_step(blocks, PEER)
    cpu, peer_cpu = a_step(blocks, OURS, "cpu"), a_step(blocks, PEER, "cpu")
    tokens = plan.tokens_per_step
    return {
        f"{name}: ours / {peer_name}": ratio_of(ours, peer),
        f"{name}: ours": Measurement.of([tokens / s for s in ours], "tokens/s"),
        f"{name}: {peer_name}": Measurement.of([tokens / s for s in peer], "tokens/s"),
        f"{name}: step, ours": Measurement.of([1e3 * s for s in ours], "ms"),
        f"{name}: step, {peer_name}": Measurement.of([1e3 * s for s in peer], "ms"),
        f"{name}: processor time, ours / {peer_name}": ratio_of(peer_cpu, cpu),
    }


def check_alike(plan: Plan, results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The largest relative differences of the two sides: of the losses, over all steps, and of
    the first step's gradients. Raises Disagreement where one is too large.
    """
    mine = results[0]["losses"][OURS]
    theirs = next(losses for result in results if (losses := result["losses"][PEER]))
    largest = 0.0
    for step, (loss, other) in enumerate(zip(mine, theirs, strict=True)):
        apart, allowed = abs(loss - other) / abs(other), EARLY if step < EARLY_STEPS else LATE
        _agree(plan, f"step {step}: our loss {loss:.6g}, torch's {other:.6g}", apart, allowed)
        largest = max(largest, apart)
    for result in results:
        for name, apart in result["gradients"].items():
            _agree(plan, f"the first step's gradients of {name}", apart, GRADIENT)
    gradients = max(max(result["gradients"].values()) for result in results)
    return {"loss": largest, "gradients": gradients}


def _agree(plan: Plan, what: str, apart: float, allowed: float) -> None:
    if not apart <= allowed:
        raise Disagreement(
            f"{plan.schedule}: {what}: {apart:.2g} apart where {allowed:g} is allowed, so their"
            " speeds say nothing"
        )


def _notes(apart: Mapping[str, Mapping[str, float]]) -> tuple[str, ...]:
    largest = {what: max(each[what] for each in apart.values()) for what in ("loss", "gradients")}
    return (
        f"both train the same: largest relative difference of a loss {largest['loss']:.2g},"
        f" of a gradient of the first step {largest['gradients']:.2g}",
        "like with like: neither measures a gradient norm, both read the loss once a step; ours"
        " sums its loss over ranks, the peer's last stage reads its own",
        "ours runs with its recorder on and emits its notes between steps",
        "a round is ours, peer, peer, ours (then peer first); its ratio pairs the two sides",
    )


def _doubts(rows: Mapping[str, Measurement]) -> Iterator[str]:
    step = min(row.median for row in rows.values() if row.unit == "ms") / 1e3
    if step < LONG_ENOUGH_S:
        yield (
            f"a step takes {1e3 * step:.0f} ms, less than {1e3 * LONG_ENOUGH_S:.0f}: the ratio says"
            " more about latency than about training; give a larger --global-batch or --seq"
        )
    ratios = {name: row for name, row in rows.items() if row.unit == "x" and "time" not in name}
    rounds = min(row.n for row in ratios.values())
    if rounds < 6:
        yield f"{rounds} rounds cannot bear a 95 % interval: the whole range is given"
    for name, row in ratios.items():
        if row.low < FLOOR:
            yield f"{name}: the lower end {row.low:.3f} is below the {FLOOR} we hold ourselves to"
