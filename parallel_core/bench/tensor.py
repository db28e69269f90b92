"""Tokens/s and peak bytes of our tensor parallelism beside torch's, with and without sp.

The peer is DTensor's parallelize_module on the same model (tensor_peer.py): ColwiseParallel,
RowwiseParallel, SequenceParallel, the vocabulary cut in embedding, head and loss. Both live in the
same rank processes and take turns (interleave.py), from the same weights, on the same batches and
threads, with an optimizer step each. First comes a contest of memory, untimed, since watching the
allocator costs; then the contest of time. The bench fails if the two do not train the same: a
wrong step may be a fast one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from parallel_core.bench import Say
from parallel_core.bench.comparable import must_be, must_hold
from parallel_core.bench.dp import FLOOR, LONG_ENOUGH_S, check_alike
from parallel_core.bench.interleave import OURS, PEER, Block, a_step, merged
from parallel_core.bench.measurement import Measurement, Report, ratio_of
from parallel_core.bench.zero import MOST_MEMORY, fullest
from parallel_core.fields import switch, validate, whole
from parallel_core.launch import Pool
from parallel_core.plan import Plan

TARGET = "parallel_core.bench.tensor_ranks:contend"
PRELOAD = ("torch.distributed.tensor.parallel",)
TORCH = "parallelize_module"

DEFAULTS: Mapping[str, Any] = {
    "tp": 2,
    "layers": 4,
    "hidden": 512,
    "heads": 8,
    "seq": 256,
    "global_batch": 2,
}
"""Sizes that give steps well over 200 ms on two cores, most of it in matrices."""

ALONE: Mapping[str, tuple[Any, str]] = {
    "dp": (1, "must be 1: tensor parallelism is compared alone"),
    "pp": (1, "must be 1: tensor parallelism is compared alone"),
    "zero": (0, "must be 0: tensor parallelism is compared alone"),
    "parameter_server": ("off", "is no peer of tensor parallelism"),
    "recompute": ("none", "must be none: the peer keeps all that its forward saves"),
    "offload": (False, "must be off: the peer keeps all that its forward saves"),
    "dropout": (0.0, "must be 0 in this bench: torch draws other masks"),
    "clip": (None, "is not part of the contest"),
}
"""Fields with the one value that the contest has, and why."""


@dataclass(frozen=True, kw_only=True)
class Race:
    """How long the two contend, with sp and without."""

    rounds: int = whole(16, 1, 10_000, "rounds of four turns (ours, peer, peer, ours)")
    memory_rounds: int = whole(6, 1, 1000, "such rounds, untimed, in which memory is watched")
    turn_steps: int = whole(1, 1, 1000, "steps a turn")
    warmup: int = whole(4, 3, 1000, "untimed steps a side before the first turn")
    norm: bool = switch(True, "both sides measure the gradient norm each step")

    def __post_init__(self) -> None:
        validate(self)


def plans_of(**flat: Any) -> tuple[Plan, ...]:
    """The plans to contend with: without sp and with it, or as given. PlanError for what has no
    fair peer."""
    given = {**DEFAULTS, **flat}
    chosen = (given.pop("sp"),) if "sp" in given else (False, True)
    plans = tuple(Plan.of(**given, sp=sp) for sp in chosen)
    for plan in plans:
        _comparable(plan)
    return plans


def _comparable(plan: Plan) -> None:
    must_be(plan, ALONE)
    m = plan.model
    rules = (
        ("tp", plan.tp, plan.tp > 1, "must be at least 2 to compare tensor parallelism", 2),
        ("kv_heads", m.kv_heads, plan.kv_copies == 1, "must be tp or more: torch would cut one head"
         " in two", plan.tp),
        ("vocab", m.vocab, m.vocab % plan.tp == 0, "must divide by tp here: ours pads it, torch"
         " cuts it unevenly", plan.vocab_here * plan.tp),
        ("dtype", plan.dtype, not plan.mixed, "has float32 masters here, none there", "float32"),
    )  # fmt: skip
    must_hold(rules)


def measure(plans: Sequence[Plan], chosen: Race, say: Say) -> Report:
    """Run both under each plan.

    Raises RunError if a rank fails, and Disagreement if the two did not train the same.
    """
    rows: dict[str, Measurement] = {}
    told: dict[str, Any] = {}
    with Pool(preload=PRELOAD) as pool:
        for plan in plans:
            results = _run(pool, plan, chosen, say)
            # every rank has the whole loss, on both sides: one speaks for all
            apart = check_alike(results[:1], TORCH)
            rows |= rows_of(plan, results)
            told[contest(plan)] = {"largest_difference": apart, **_state(results)}
    settings = {
        "plan": plans[0].flat(),
        "sp": [plan.sp for plan in plans],
        "rounds": chosen.rounds,
        "memory_rounds": chosen.memory_rounds,
        "steps_a_turn": chosen.turn_steps,
        "threads_a_rank": results[0]["threads"],
        "backend": results[0]["backend"],
        "gradient_norm": "both" if chosen.norm else "neither",
        "peer": {
            "loss_parallel": True,
            "optimizer": f"{plans[0].optimizer} fused",
            "zero_grad": "set_to_none",
        },
        "contests": told,
    }
    title = f"tp={plans[0].tp}, {plans[0].model.dialect}"
    return Report("tp", title, rows, settings, _notes(plans, chosen), tuple(_doubts(rows)))


def _run(pool: Pool, plan: Plan, chosen: Race, say: Say) -> list[Any]:
    say(f"{plan.layout}: starting")
    turn, turns = 0, 4 * (chosen.rounds + chosen.memory_rounds)
    args = {"plan": plan.flat(), "race": asdict(chosen)}
    with pool.start(TARGET, plan.world_size, args) as run:
        for event in run.events():
            if event["event"] == "turn" and event["rank"] == 0:
                turn += 1
                say(f"{plan.layout}: turn {turn} of {turns}")
        return run.wait()


def contest(plan: Plan) -> str:
    """The name of a plan's contest."""
    return f"{'tp + sp' if plan.sp else 'tp'} / {TORCH}"


def rows_of(plan: Plan, results: Sequence[Mapping[str, Any]]) -> dict[str, Measurement]:
    """The ranks' turns under one plan as rows; memory is that of the fullest rank."""
    blocks = merged([[Block(**block) for block in result["blocks"]] for result in results])
    ours, theirs = a_step(blocks, OURS), a_step(blocks, PEER)
    cpu, their_cpu = a_step(blocks, OURS, "cpu"), a_step(blocks, PEER, "cpu")
    peaks = {side: fullest([result["peaks"][side] for result in results]) for side in (OURS, PEER)}
    name, tokens, mib = contest(plan), plan.tokens_per_step, 2.0**20
    rows = {name: ratio_of(ours, theirs)}
    if min(peaks[PEER]) > 0:
        rows |= {
            f"{name}: peak bytes": ratio_of(peaks[PEER], peaks[OURS]),
            f"{name}: peak, ours": Measurement.of([p / mib for p in peaks[OURS]], "MiB"),
            f"{name}: peak, theirs": Measurement.of([p / mib for p in peaks[PEER]], "MiB"),
        }
    return rows | {
        f"{name}: processor time": ratio_of(their_cpu, cpu),
        f"{name}: ours": Measurement.of([tokens / s for s in ours], "tokens/s"),
        f"{name}: theirs": Measurement.of([tokens / s for s in theirs], "tokens/s"),
        f"{name}: step, ours": Measurement.of([1e3 * s for s in ours], "ms"),
    }


def _state(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Bytes that each side keeps between steps, on the fullest rank."""
    keeps = {side: max(result["keeps"][side] for result in results) for side in (OURS, PEER)}
    return {"kept_bytes": keeps}


def _notes(plans: Sequence[Plan], chosen: Race) -> tuple[str, ...]:
    norm = "both measure the gradient norm" if chosen.norm else "neither measures a gradient norm"
    again = (
        "with sp our forward keeps the rank's shard of what enters a region, and our backward"
        " gathers it again: a message more a region, where the peer keeps all of it",
    )
    return (
        f"like with like: {norm} and read the loss once a step",
        "both cut the vocabulary in embedding, head and loss, and send the same messages forward",
        *(again if any(plan.sp for plan in plans) else ()),
        "x is ours over theirs: of speed, of peak bytes, of processor time",
        "peak bytes are the allocator's own count in a step, what the side holds between steps"
        " included, on the fullest rank; with one microbatch the peer has no gradients while its"
        " forward runs, where ours have a buffer that is always there",
        "ours runs with its recorder on and emits its notes between steps",
        "a round is ours, peer, peer, ours (then peer first); its ratio pairs the two sides",
    )


def _doubts(rows: Mapping[str, Measurement]) -> Iterator[str]:
    for name, row in rows.items():
        if row.unit == "x" and ":" not in name and row.low < FLOOR:
            yield f"{name}: the lower end {row.low:.3f} is below the {FLOOR} we hold ourselves to"
        if name.endswith("peak bytes") and row.high > MOST_MEMORY:
            yield f"more memory than the peer: {name.split(':')[0]} {row.high:.3f}"
    if not any(name.endswith("peak bytes") for name in rows):
        yield "this allocator does not say what it holds: no peak was measured"
    step = min(row.median for row in rows.values() if row.unit == "ms") / 1e3
    if step < LONG_ENOUGH_S:
        yield (
            f"a step takes {1e3 * step:.0f} ms, less than {1e3 * LONG_ENOUGH_S:.0f}: the ratio says"
            " more about latency than about training; give a larger --global-batch or --seq"
        )
    if (fewest := min(row.n for row in rows.values())) < 6:
        yield f"{fewest} rounds cannot bear a 95 % interval: the whole range is given"
