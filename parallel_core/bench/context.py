"""Our zigzag ring beside our contiguous one, torch's rings, and the whole on one process.

    zigzag, ring          context/ring.py, the next hop under way while a tile is computed
    torch zigzag, ring    torch's ring template, with its load balance and without, each with both
                          of its ways to move keys and values: hop by hop, or gathered at once
    one process           the whole sequence on rank 0, while the others wait

The contest is the attention of one layer, forward and backward, on the same q, k, v. All live in
the same rank processes, compute tiles with the same kernel on one thread, and take turns. First
every side's result is compared with that of one process, then comes memory, untimed, then time;
at last zigzag and ring train whole steps by turns.

Two clocks. Wall time is that of the slowest rank, with what cores and messages share. *Own device*
is the processor time of the slowest rank's compute thread: what the layer would take if every rank
had a processor of its own and messages cost nothing but their copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from parallel_core.bench import Say
from parallel_core.bench.context_rows import RING, TORCH, ZIGZAG, lost, rows_of, step_rows
from parallel_core.bench.dp import FLOOR, LONG_ENOUGH_S, Disagreement, check_alike
from parallel_core.bench.measurement import Measurement, Report
from parallel_core.context.layout import in_step, work
from parallel_core.fields import PlanError, validate, whole
from parallel_core.launch import Pool
from parallel_core.plan import Plan

TARGET = "parallel_core.bench.context_ranks:contend"
PRELOAD = ("torch.distributed.tensor.experimental._context_parallel._attention",)

DEFAULTS: Mapping[str, Any] = {
    "cp": 2,
    "layers": 2,
    "hidden": 256,
    "heads": 4,
    "seq": 4096,
    "global_batch": 1,
}
"""Sizes at which a layer's attention takes well over 200 ms on two cores."""

ALONE: Mapping[str, tuple[Any, str]] = {
    "dp": (1, "must be 1: context parallelism is compared alone"),
    "tp": (1, "must be 1: context parallelism is compared alone"),
    "pp": (1, "must be 1: context parallelism is compared alone"),
    "zero": (0, "must be 0: context parallelism is compared alone"),
    "cp_method": ("zigzag", "is no choice here: zigzag and the contiguous ring contend"),
    "dtype": ("float32", "must be float32: torch's ring sums in it"),
}
"""Fields with the one value that the contest has, and why."""

ALLOWED = 1e-4
"""How far a float32 result may stand from one process's, as a share of the largest entry."""

CROWDED = 2.5
"""Wall time over own-device time from which the wall says more about the machine than the ring."""


@dataclass(frozen=True, kw_only=True)
class Race:
    """How long they contend."""

    rounds: int = whole(12, 1, 10_000, "rounds in which every side has two turns, a layer each")
    memory_rounds: int = whole(6, 1, 1000, "such rounds, untimed, in which memory is watched")
    step_rounds: int = whole(6, 0, 1000, "rounds of whole training steps, zigzag and ring")
    warmup: int = whole(2, 1, 1000, "untimed layers, or steps, a side")

    def __post_init__(self) -> None:
        validate(self)


def plan_of(**flat: Any) -> Plan:
    """The plan to contend with: the bench's sizes, with the fields that were given.

    PlanError for what torch's ring cannot do.
    """
    plan = Plan.of(**{**DEFAULTS, **flat})
    fields = plan.flat()
    for name, (value, rule) in ALONE.items():
        if fields.get(name, value) != value:
            raise PlanError(name, fields[name], rule, value)
    m, unit = plan.model, 2 * plan.cp
    rules = (
        ("cp", plan.cp, plan.cp > 1, "must be at least 2 to compare context parallelism", 2),
        ("kv_heads", m.kv_heads, m.kv_heads in (None, m.heads), "must be as many as heads: torch's"
         " ring shares none", m.heads),
        ("seq", plan.seq, plan.seq % unit == 0, "must divide by 2 cp: torch's ring does not pad",
         max(round(plan.seq / unit), 1) * unit),
    )  # fmt: skip
    for field, given, holds, rule, near in rules:
        if not holds:
            raise PlanError(field, given, rule, near)
    return plan


def predicted(plan: Plan) -> float:
    """What contiguous takes over zigzag by counted work, when all wait for the slowest at each hop.

    >>> predicted(plan_of()), predicted(plan_of(cp=4))
    (1.5, 1.75)
    """
    zigzag = plan.context
    times = [in_step(work(layout)) for layout in (replace(zigzag, zigzag=False), zigzag)]
    return float(times[0] / times[1])


def measure(plan: Plan, chosen: Race, say: Say) -> Report:
    """Run all.

    Raises RunError if a rank fails, and Disagreement if a side computed something else.
    """
    say(f"{plan.layout}: starting")
    args = {"plan": plan.flat(), "race": asdict(chosen)}
    with Pool(preload=PRELOAD) as pool, pool.start(TARGET, plan.world_size, args) as run:
        for event in run.events():
            if event["event"] == "turn" and event["rank"] == 0:
                say(f"{event['what']}: turn {event['number']} of {event['of']}")
        results = run.wait()
    apart: dict[str, Any] = {"layer": _check(results)}
    rows = rows_of(results)
    if chosen.step_rounds:
        # every rank has the whole loss, on both sides: one speaks for all
        apart["step"] = check_alike(results[:1], "the contiguous ring")
        rows |= step_rows(plan.tokens_per_step, results)
    settings = {
        "plan": plan.flat(),
        "rounds": chosen.rounds,
        "memory_rounds": chosen.memory_rounds,
        "step_rounds": chosen.step_rounds,
        "threads_a_rank": results[0]["threads"],
        "backend": "gloo",
        "predicted_ring_over_zigzag": predicted(plan),
        "largest_difference": apart,
    }
    m = plan.model
    sizes = f"S={plan.seq}, B={plan.rows_per_microbatch}, {m.heads} heads of {m.head_dim}"
    title = f"cp={plan.cp}, attention of one layer, {sizes}"
    doubts = (*_doubts(rows), *_unread(*lost(results)))
    return Report("cp", title, rows, settings, _notes(plan), doubts)


def _check(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How far each side's a, dq, dk, dv stand from one process's; Disagreement if too far."""
    found = {side: [r["apart"][side] for r in results] for side in results[0]["apart"]}
    for side, errors in found.items():
        if odd := [error for error in errors if not error <= ALLOWED]:
            raise Disagreement(
                f"{side} is {odd[0]:.2g} from one process where {ALLOWED:g} is allowed, so its"
                " speed says nothing"
            )
    return {side: max(errors) for side, errors in found.items()}


def _notes(plan: Plan) -> tuple[str, ...]:
    return (
        "like with like: the same q, k, v and gradient, one kernel for tiles, one thread a rank,"
        " an autograd function each; every result was compared with one process's",
        f"by counted work the contiguous ring takes {predicted(plan):g} times zigzag",
        "x is ours over theirs: of speed, of peak bytes",
        "own device is the processor time of the slowest rank's compute thread: no waiting, and"
        " of messages only what that thread copies",
        "one process is one rank with the whole sequence, the others idle",
        "peak bytes are q, k, v and the gradient handed in, and what a turn adds at most by the"
        " allocator's own count, on the fullest rank; kept bytes are q, k, v and what the forward"
        " leaves for the backward, once for every layer of a model",
        "a round is every side and then every side in reverse; its ratios pair the sides",
    )


def _doubts(rows: Mapping[str, Measurement]) -> Iterator[str]:
    for ours, peers in TORCH.items():
        for name in (f"{ours} / {peer}" for peer in peers):
            if (low := rows[name].low) < FLOOR:
                yield f"{name}: the lower end {low:.3f} is below the {FLOOR} we hold ourselves to"
    gain = rows[f"{ZIGZAG} / {RING}: own device"]
    if gain.low <= 1:
        yield f"zigzag is not surely faster than the contiguous ring: from {gain.low:.3f}"
    wall, own = rows[f"{ZIGZAG}: layer"].median, rows[f"{ZIGZAG}: layer, own device"].median
    if wall > CROWDED * own:
        yield (
            f"a layer took {wall:.0f} ms by the wall and {own:.0f} ms of its slowest thread's"
            " processor: ranks shared their cores, with each other or with somebody else, so trust"
            " the rows of the own device"
        )
    layer = min(rows[f"{side}: layer"].median for side in (ZIGZAG, RING)) / 1e3
    if layer < LONG_ENOUGH_S:
        yield (
            f"a layer takes {1e3 * layer:.1f} ms, less than {1e3 * LONG_ENOUGH_S:.0f}: the ratio"
            " says more about latency than about attention; give a larger --seq or --hidden"
        )
    if (fewest := min(row.n for row in rows.values())) < 6:
        yield f"{fewest} rounds cannot bear a 95 % interval: the whole range is given"


def _unread(nothing: int, readings: int) -> Iterator[str]:
    """What became of readings of memory that showed nothing."""
    if nothing == readings:
        yield "this allocator does not say what it holds: no peak was measured"
    elif nothing:
        yield (
            f"{nothing} of {readings} readings of memory showed nothing, as when other memory is"
            " given back meanwhile: those rounds are left out of their side's rows"
        )
