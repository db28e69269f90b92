"""One layer of experts by all-to-all, beside all-gather dispatch and beside a plain loop.

    all-to-all     moe.py over ep: counts, then rows to the ranks that hold their experts, and back
    all-gather     every rank gathers all tokens, works on those meant for its experts, and a
                   reduce-scatter brings each token the sum of what came of it
    grouped        moe.py on one process that has all tokens and all experts
    plain loop     the same process: a mask an expert, a batch indexed by it, results added in

All live in the same rank processes, have the same tokens, router and weights, one thread a rank,
and take turns, forward and backward. Before anything is timed, y and every gradient of the first
three are compared with those of the plain loop, which shares no code with them but the choice of
experts. Then the bytes that leave each rank are counted, and at last time, case by case: ranks,
tokens, choices a token, an even router and one that leans.

Two clocks, as in context.py: wall, and the processor time of the slowest rank's compute thread.
On a GPU, one kernel for all experts' products is held against one product an expert besides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from parallel_core.bench import Say
from parallel_core.bench.comparable import must_be, must_hold
from parallel_core.bench.dp import Disagreement
from parallel_core.bench.experts_rows import (
    GATHER,
    GROUPED,
    LOOP,
    SENT,
    gpu_rows,
    name_of,
    rows_of,
)
from parallel_core.bench.measurement import Measurement, Report
from parallel_core.expert.traffic import Spread, flat
from parallel_core.fields import PlanError, validate, whole
from parallel_core.launch import Pool
from parallel_core.plan import Plan

TARGET = "parallel_core.bench.experts_ranks:contend"
GPU_TARGET = "parallel_core.bench.experts_gpu:contend"

DEFAULTS: Mapping[str, Any] = {
    "experts": 16,
    "hidden": 128,
    "ffn": 128,
    "heads": 4,
    "layers": 1,
    "global_batch": 4,
}
"""Many small experts, as models of today have them; four sequences, so that 4 ranks have one."""

SWEEP: Mapping[str, tuple[Any, ...]] = {
    "ep": (2, 4),
    "seq": (64, 512),
    "top_k": (2, 8),
    "skew": (0.0, 2.0),
}
"""What is swept where nothing was given. The router's logits have deviation 1, so skew 2 is a rank
flooded and another nearly dry."""

ALONE: Mapping[str, tuple[Any, str]] = {
    "tp": (1, "must be 1: experts are compared alone"),
    "cp": (1, "must be 1: experts are compared alone"),
    "pp": (1, "must be 1: experts are compared alone"),
    "zero": (0, "must be 0: experts are compared alone"),
    "microbatches": (1, "must be 1: one layer runs once"),
    "shared_experts": (0, "must be 0: they send nothing, and cost all sides the same"),
    "balance": ("none", "must be none: no side adds losses or moves a bias"),
    "z_loss": (0.0, "must be 0: no side adds losses"),
    "dtype": ("float32", "must be float32 in this bench"),
}
"""Fields with the one value that the contest has, and why."""

ALLOWED = 1e-4
"""How far a float32 result may stand from the plain loop's, as a share of the largest entry."""


@dataclass(frozen=True, kw_only=True)
class Race:
    """How long they contend, a case."""

    rounds: int = whole(8, 1, 10_000, "rounds a case, in which every side has two turns")
    warmup: int = whole(2, 1, 1000, "untimed layers a side, and case")

    def __post_init__(self) -> None:
        validate(self)


def plans_of(**given: Any) -> tuple[Plan, ...]:
    """The cases: every value of SWEEP, but for the fields that were given.

    PlanError for what the sides cannot all do.
    """
    if "dp" in given and "ep" not in given:
        given["ep"] = given["dp"]
    swept = {name: values for name, values in SWEEP.items() if name not in given}
    plans = []
    for values in product(*swept.values()):
        fields = {**DEFAULTS, **given, **dict(zip(swept, values, strict=True))}
        plan = Plan.of(**{"dp": fields["ep"], **fields})
        must_be(plan, ALONE)
        must_hold(
            (
                ("ep", plan.ep, plan.ep > 1, "must be at least 2 to compare expert parallelism", 2),
                ("dp", plan.dp, plan.dp == plan.ep, "must be as many as ep: tokens are dealt out"
                 " once", plan.ep),
            )
        )  # fmt: skip
        plans.append(plan)
    if len({name_of(plan) for plan in plans}) < len(plans):
        raise PlanError("skew", given.get("skew"), "gives two cases one name", 0)
    return tuple(plans)


def even_bytes(plan: Plan) -> float:
    """Bytes that a rank sends by all-to-all where experts are chosen with equal chances.

    Dispatch and combine, forward and backward: k (R-1)/R copies of each of its tokens; and one
    count an expert, an int64.
    """
    n, m = plan.ep, plan.model
    spread = Spread(experts=m.experts, top_k=m.top_k, ranks=n, node=n)
    rows = float(flat(spread).all) * plan.tokens_per_step / n
    return 4 * rows * m.hidden * 4 + 8 * m.experts * (n - 1) / n


def gathered_bytes(plan: Plan) -> int:
    """The same by all-gather, whatever the router does: (R-1) times its tokens there, and their
    sum back; and the gates, one an expert and token, there alone and their gradient back."""
    n, m = plan.ep, plan.model
    return (n - 1) * plan.tokens_per_step // n * 4 * (4 * m.hidden + 2 * m.experts)


def measure(plans: Sequence[Plan], chosen: Race, say: Say) -> Report:
    """Run every case.

    Raises RunError if a rank fails, and Disagreement if a side computed something else, or a
    message is missing in the count.
    """
    rows: dict[str, Measurement] = {}
    cases: list[dict[str, Any]] = []
    with Pool() as pool:
        for ranks in sorted({plan.ep for plan in plans}):
            every = [plan for plan in plans if plan.ep == ranks]
            say(f"{ranks} ranks: starting")
            args = {"plans": [plan.flat() for plan in every], "race": asdict(chosen)}
            with pool.start(TARGET, ranks, args) as run:
                for event in run.events():
                    if event["event"] == "turn" and event["rank"] == 0:
                        say(f"{ranks} ranks, case {event['case'] + 1} of {len(every)}:"
                            f" round {event['number'] + 1} of {chosen.rounds}")  # fmt: skip
                results = run.wait()
            for number, plan in enumerate(every):
                told = [result["cases"][number] for result in results]
                cases.append(_case(plan, told))
                rows |= rows_of(plan, told)
        say("one kernel, if there is a GPU")
        with pool.start(GPU_TARGET, 1, {"rounds": chosen.rounds}) as run:
            gpu = run.wait()[0]
    rows |= gpu_rows(gpu)
    settings = {
        "plan": plans[0].flat(),
        "cases": cases,
        "rounds": chosen.rounds,
        "threads_a_rank": results[0]["threads"],
        "backend": "gloo",
        "gpu": gpu["device"],
    }
    m = plans[0].model
    title = f"a layer of {m.experts} experts, D={m.hidden}, F={m.mlp}, forward and backward"
    notes = (*_notes(gpu), *map(_in_words, cases))
    return Report("ep", title, rows, settings, notes, tuple(_doubts(rows)))


def _case(plan: Plan, told: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a case was, apart from time. Disagreement where a result or a count is wrong."""
    name = name_of(plan)
    apart = {side: max(t["apart"][side] for t in told) for side in told[0]["apart"]}
    for side, error in apart.items():
        if not error <= ALLOWED:
            raise Disagreement(
                f"{name}: {side} is {error:.2g} from the plain loop where {ALLOWED:g} is allowed,"
                " so its speed says nothing"
            )
    sent = {side: [t["sent"][side] for t in told] for side in SENT}
    if any(size != gathered_bytes(plan) for size in sent[GATHER]):
        raise Disagreement(
            f"{name}: all-gather sent {sent[GATHER]} bytes a rank, not {gathered_bytes(plan)}"
        )
    return {
        "name": name,
        "ep": plan.ep,
        "tokens": plan.tokens_per_step,
        "top_k": plan.model.top_k,
        "skew": plan.model.skew,
        "rank_loads": told[0]["rank_loads"],
        "bytes_sent": sent,
        "bytes_sent_if_even": even_bytes(plan),
        "largest_difference": apart,
    }


def _in_words(case: Mapping[str, Any]) -> str:
    kib = {side: max(sizes) / 1024 for side, sizes in case["bytes_sent"].items()}
    loads = ", ".join(f"{load:,}" for load in case["rank_loads"])
    return (
        f"{case['name']}: rows a rank {loads}; the rank that sends most sends "
        + ", ".join(f"{size:,.0f} KiB by {side}" for side, size in kib.items())
        + f" ({case['bytes_sent_if_even'] / 1024:,.0f} by all-to-all were all even)"
    )


def _notes(gpu: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        "like with like: the same tokens, router, weights and gradient, one thread a rank; y and"
        f" every gradient were compared with those of the {LOOP}",
        "x is the first's speed over the second's",
        "own device is the processor time of the slowest rank's compute thread: no waiting, and of"
        " messages only what that thread copies",
        f"{GROUPED} and {LOOP} are rank 0 with all tokens and all experts, the others idle",
        "a round is every side and then every side in reverse; its ratios pair the sides",
        f"one kernel for all products: measured on {gpu['device']}"
        if gpu["device"]
        else "no GPU here: one kernel for all products was not measured",
    )


def _doubts(rows: Mapping[str, Measurement]) -> Iterator[str]:
    pair = f"{GROUPED} / {LOOP}: own device"
    for name, row in rows.items():
        if name.endswith(pair) and row.high < 1:
            yield f"{name}: at most {row.high:.3f}; the plain loop is faster here"
    if (fewest := min(row.n for row in rows.values())) < 6:
        yield f"{fewest} rounds cannot bear a 95 % interval: the whole range is given"
