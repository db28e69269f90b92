"""Tokens/s and peak bytes of our ZeRO stages beside torch's, stage by stage.

    stage 0   DistributedDataParallel, nothing sharded on either side
    stage 1   DistributedDataParallel, and with it ZeroRedundancyOptimizer
    stage 2   fully_shard with reshard_after_forward=False (FSDP2)
    stage 3   fully_shard

Both live in the same rank processes and take turns (interleave.py), on the same units, weights,
batches and threads, with an optimizer step each. First comes a contest of memory, untimed, since
watching the allocator costs; then the contest of time. The bench fails if the two do not train the
same: a wrong step may be a fast one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from parallel_core.bench import Say, dp
from parallel_core.bench.comparable import must_hold
from parallel_core.bench.interleave import OURS, PEER, Block, a_step, merged
from parallel_core.bench.measurement import Measurement, Report, ratio_of
from parallel_core.fields import whole
from parallel_core.launch import Pool
from parallel_core.plan import Plan

TARGET = "parallel_core.bench.zero_ranks:contend"
PRELOAD = ("torch.nn.parallel", "torch.distributed.fsdp", "torch.distributed.optim")

DDP, ZRO, KEPT, FSDP = (
    "DistributedDataParallel",
    "ZeroRedundancyOptimizer",
    "fully_shard, kept",
    "fully_shard",
)
PEERS: Mapping[int, tuple[str, ...]] = {0: (DDP,), 1: (DDP, ZRO), 2: (KEPT,), 3: (FSDP,)}
"""Who does in torch what our stage does."""

STAGES = (1, 2, 3)
"""The stages of a bench that was not told one; stage 0 has a bench of its own (dp.py)."""

DEFAULTS: Mapping[str, Any] = {
    "dp": 2,
    "layers": 4,
    "hidden": 512,
    "heads": 8,
    "seq": 64,
    "global_batch": 8,
    "bucket_mb": 25.0,
}
"""Sizes that give steps of about 200 ms on two cores, with more training state than activations:
otherwise a contest of peak bytes would weigh those, which are alike on both sides."""

MOST_MEMORY = 1.0
"""The most memory that we allow ourselves, as a share of the peer's."""


@dataclass(frozen=True, kw_only=True)
class Race(dp.Race):
    """How long the two contend, against each peer."""

    rounds: int = whole(12, 1, 10_000, "rounds of four turns (ours, peer, peer, ours) a peer")
    memory_rounds: int = whole(6, 1, 1000, "such rounds, untimed, in which memory is watched")


def plans_of(**flat: Any) -> tuple[Plan, ...]:
    """The plans to contend with: every stage, or the one given. PlanError for what has no peer."""
    given = {**DEFAULTS, **flat}
    chosen = (given.pop("zero"),) if "zero" in given else STAGES
    plans = tuple(dp.plan_of(**given, zero=stage) for stage in chosen)
    for plan in plans:
        _comparable(plan)
    return plans


def _comparable(plan: Plan) -> None:
    rules = (
        ("pp", plan.pp, plan.pp == 1, "must be 1 to compare data parallelism alone", 1),
        ("tied", True, not plan.model.tied, "would tie two units of fully_shard together", False),
        ("shard", plan.shard, plan.shard in (None, plan.dp), "must be all ranks here", "none"),
        ("clip", plan.clip, plan.clip is None, "is not part of the contest", "none"),
        ("parameter_server", plan.parameter_server, plan.parameter_server == "off",
         "is no peer of ZeRO", "off"),
    )  # fmt: skip
    must_hold(rules)


def measure(plans: Sequence[Plan], chosen: Race, say: Say) -> Report:
    """Run every stage against each of its peers.

    Raises RunError if a rank fails, and Disagreement if the two did not train the same.
    """
    rows: dict[str, Measurement] = {}
    told: dict[str, Any] = {}
    with Pool(preload=PRELOAD) as pool:
        for plan, peer in [(each, peer) for each in plans for peer in PEERS[each.zero]]:
            name = f"{_ours(plan)} / {peer}"
            results = _run(pool, plan, {"peer": peer, "race": asdict(chosen)}, name, chosen, say)
            apart = dp.check_alike(results, peer)
            rows |= rows_of(plan, peer, results)
            told[name] = {"largest_difference": apart, **_state(results)}
            threads = results[0]["threads"]
    settings = {
        "plan": plans[0].flat(),
        "stages": [plan.zero for plan in plans],
        "rounds": chosen.rounds,
        "memory_rounds": chosen.memory_rounds,
        "steps_a_turn": chosen.turn_steps,
        "threads_a_rank": threads,
        "backend": "gloo",
        "gradient_norm": "both" if chosen.norm else "neither",
        "peer": dp.peer_settings(plans[0], chosen)
        | {"optimizer": f"{plans[0].optimizer} fused", "zero_grad": "set_to_none"},
        "contests": told,
    }
    title = f"dp={plans[0].dp}, {plans[0].model.dialect}"
    return Report("zero", title, rows, settings, _notes(chosen), tuple(_doubts(rows)))


def _run(
    pool: Pool, plan: Plan, args: dict[str, Any], name: str, chosen: Race, say: Say
) -> list[Any]:
    say(f"{name}: starting")
    turn, turns = 0, 4 * (chosen.rounds + chosen.memory_rounds)
    with pool.start(TARGET, plan.world_size, {"plan": plan.flat(), **args}) as run:
        for event in run.events():
            if event["event"] == "turn" and event["rank"] == 0:
                turn += 1
                say(f"{name}: turn {turn} of {turns}")
        return run.wait()


def rows_of(plan: Plan, peer: str, results: Sequence[Mapping[str, Any]]) -> dict[str, Measurement]:
    """The ranks' turns against one peer as rows; memory is that of the fullest rank."""
    blocks = merged([[Block(**block) for block in result["blocks"]] for result in results])
    ours, theirs = a_step(blocks, OURS), a_step(blocks, PEER)
    cpu, their_cpu = a_step(blocks, OURS, "cpu"), a_step(blocks, PEER, "cpu")
    peaks = {side: fullest([result["peaks"][side] for result in results]) for side in (OURS, PEER)}
    me, tokens, mib = _ours(plan), plan.tokens_per_step, 2.0**20
    rows = {f"{me} / {peer}": ratio_of(ours, theirs)}
    if min(peaks[PEER]) > 0:
        rows |= {
            f"{me} / {peer}: peak bytes": ratio_of(peaks[PEER], peaks[OURS]),
            f"{me} / {peer}: peak, ours": Measurement.of([p / mib for p in peaks[OURS]], "MiB"),
            f"{me} / {peer}: peak, theirs": Measurement.of([p / mib for p in peaks[PEER]], "MiB"),
        }
    return rows | {
        f"{me} / {peer}: processor time": ratio_of(their_cpu, cpu),
        f"{me} / {peer}: ours": Measurement.of([tokens / s for s in ours], "tokens/s"),
        f"{me} / {peer}: theirs": Measurement.of([tokens / s for s in theirs], "tokens/s"),
        f"{me} / {peer}: step, ours": Measurement.of([1e3 * s for s in ours], "ms"),
    }


def fullest(by_rank: Sequence[Sequence[float]]) -> list[float]:
    """Of each round the bytes of the rank that held the most."""
    return [max(each) for each in zip(*by_rank, strict=True)]


def _ours(plan: Plan) -> str:
    return f"ZeRO-{plan.zero}" if plan.zero else "plain"


def _state(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Bytes of the training state by kind on the fullest rank, from its storages."""
    return {
        "state_bytes": {
            side: max((result["state"][side] for result in results), key=lambda s: sum(s.values()))
            for side in (OURS, PEER)
        }
    }


def _notes(chosen: Race) -> tuple[str, ...]:
    norm = "both measure the gradient norm" if chosen.norm else "neither measures a gradient norm"
    return (
        f"like with like: {norm} and read the loss once a step; ours sums its loss over ranks,"
        " the peer reads its rank's own",
        "x is ours over theirs: of speed, of peak bytes, of processor time",
        "peak bytes are the allocator's own count in a step, what the side holds between steps"
        " included, on the fullest rank; activations are part of them",
        "a round is ours, peer, peer, ours (then peer first); its ratio pairs the two sides",
    )


def _doubts(rows: Mapping[str, Measurement]) -> Iterator[str]:
    speeds = {n: r for n, r in rows.items() if r.unit == "x" and ":" not in n}
    if slow := [f"{name} {row.low:.3f}" for name, row in speeds.items() if row.low < dp.FLOOR]:
        yield f"lower ends below the {dp.FLOOR} we hold ourselves to: {'; '.join(slow)}"
    full = [
        f"{name.split(':')[0]} {row.high:.3f}"
        for name, row in rows.items()
        if name.endswith("peak bytes") and row.high > MOST_MEMORY
    ]
    if full:
        yield f"more memory than the peer: {'; '.join(full)}"
    if not any(name.endswith("peak bytes") for name in rows):
        yield "this allocator does not say what it holds: no peak was measured"
    step = min(row.median for row in rows.values() if row.unit == "ms") / 1e3
    if step < dp.LONG_ENOUGH_S:
        yield (
            f"a step takes {1e3 * step:.0f} ms, less than {1e3 * dp.LONG_ENOUGH_S:.0f}: the ratio"
            " says more about latency than about training; give a larger --global-batch or --seq"
        )
    if (fewest := min(row.n for row in rows.values())) < 6:
        yield f"{fewest} rounds cannot bear a 95 % interval: the whole range is given"
