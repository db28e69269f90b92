"""Pass-KV beside pass-Q: a prompt of which a part is cached, one layer's attention, on real ranks.

The share of new tokens goes from little to all of them, for several numbers of key/value heads. At
few new tokens queries are the smaller message, at many keys and values hide behind the tiles: where
their times cross is measured, in each round anew, and printed beside the published rule
(context/crossover.py) for this machine's own rates.

A laptop computes slowly and its processes' messages are fast, so that nothing needs to hide. The
wire is therefore slowed to some FLOPs a byte: a message lasts at least as long as so many FLOPs of
tiles, and who waits for it does no work. At 0 the wire is this machine's own. Both rates are then
measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean, median
from typing import Any

from parallel_core.bench import Say
from parallel_core.bench.context_crossover_cases import (
    SIDES,
    Case,
    Sweep,
    cases,
    flops,
    order_of,
    shape_of,
)
from parallel_core.bench.context_rows import slowest
from parallel_core.bench.dp import Disagreement
from parallel_core.bench.measurement import Measurement, Report
from parallel_core.context import METHODS
from parallel_core.context.crossover import Ring, q_sends_less_up_to
from parallel_core.launch import Pool
from parallel_core.plan import DType, Plan

ALLOWED = 1e-4
"""How far the two results may stand apart, as a share of the largest entry."""


def measure(plan: Plan, chosen: Sweep, say: Say) -> Report:
    """Run all; RunError if a rank fails, Disagreement if the two results or a byte differ."""
    say(f"{plan.layout}: starting")
    with Pool() as pool, pool.start(*order_of(plan, chosen)) as run:
        for event in run.events():
            if event["event"] == "turn" and event["rank"] == 0:
                say(f"round {event['number']} of {event['of']}")
        results = run.wait()
    return report(plan, chosen, results)


def report(plan: Plan, chosen: Sweep, results: Sequence[Mapping[str, Any]]) -> Report:
    """What the ranks told, as rows: times a case, and where they cross."""
    _check(plan, results)
    rates = results[0]["rates"]
    rows, found = dict[str, Measurement](), []
    for kv, some in _by_group(plan).items():
        times = {case: _seconds(results, case) for case in some}
        rate = _rate(plan, some, results)
        ring = Ring(n=plan.cp, heads=plan.model.heads, kv_heads=kv, flops=rate,
                    bytes_per_s=rates["bytes_per_s"], width=DType(plan.dtype).bytes)  # fmt: skip
        name = f"{kv} of {plan.model.heads} heads"
        for case, (over_kv, over_q) in times.items():
            ratios = [q / k for q, k in zip(over_q, over_kv, strict=True)]
            row = Measurement.of(ratios, "x")
            rows[f"{name}, {100 * case.share:.3g} % new"] = row
            found.append(_told(plan, case, (over_kv, over_q), row))
        crossings = [100 * share for share in _crossings(times)]
        rows[f"{name}: times cross at"] = Measurement.of(crossings, "% new")
        found[-1]["group"] = _group(plan, ring, rows[f"{name}: times cross at"])
    settings = {"plan": plan.flat(), "rounds": chosen.rounds, "flops_a_byte": chosen.flops_a_byte,
                "rates": rates, "cases": found}  # fmt: skip
    m = plan.model
    sizes = f"{plan.seq} tokens, {m.heads} heads of {m.head_dim}"
    title = f"pass-Q against pass-KV, cp={plan.cp}, prefill of one layer, {sizes}"
    groups = [case["group"] for case in found if "group" in case]
    return Report("cp", title, rows, settings, _notes(groups, chosen), tuple(_doubts(groups)))


def _by_group(plan: Plan) -> dict[int, list[Case]]:
    groups: dict[int, list[Case]] = {}
    for case in cases(plan):
        groups.setdefault(case.kv_heads, []).append(case)
    return groups


def _seconds(results: Sequence[Mapping[str, Any]], case: Case) -> tuple[list[float], list[float]]:
    """Of pass-KV and of pass-Q, on the slowest rank, a number a round: the faster of two turns,
    since a neighbour on the same cores only ever makes one slower."""
    rounds: dict[tuple[str, int], list[float]] = {}
    for block in slowest([result["blocks"][case.name] for result in results]):
        rounds.setdefault((block.side, block.round), []).append(block.seconds)
    over_kv, over_q = (
        [min(turns) for (whose, _), turns in rounds.items() if whose == side] for side in SIDES
    )
    return over_kv, over_q


def _rate(plan: Plan, some: Sequence[Case], results: Sequence[Mapping[str, Any]]) -> float:
    """FLOPs a second of the slowest rank's tiles, median over the cases."""
    slow = {case: max(float(result["tiles"][case.name]) for result in results) for case in some}
    return median(flops(plan, case) / seconds for case, seconds in slow.items())


def _crossings(times: Mapping[Case, tuple[list[float], list[float]]]) -> list[float]:
    """In each round the share of new tokens from which on pass-KV is the faster."""
    shares = [case.share for case in times]
    rounds = zip(
        *([q / k for k, q in zip(*both, strict=True)] for both in times.values()), strict=True
    )
    return [crossing(shares, ratios) for ratios in rounds]


def crossing(shares: Sequence[float], ratios: Sequence[float]) -> float:
    """Where pass-Q over pass-KV rises to 1; both axes logarithmic between two points. The first
    share where pass-KV is the faster from the start, the last where it never is.

    The ratio rises with the share: a point that falls below the one before it was disturbed, and
    the two count as their mean (isotonic regression).

    >>> crossing([0.25, 0.5, 1.0], [0.5, 0.5, 2.0])
    0.7071067811865476
    """
    logs = rising([math.log(ratio) for ratio in ratios])
    if logs[0] >= 0:
        return shares[0]
    for at in range(1, len(shares)):
        low, high = logs[at - 1], logs[at]
        if high >= 0:
            part = -low / (high - low)
            return float(shares[at - 1] * (shares[at] / shares[at - 1]) ** part)
    return shares[-1]


def rising(values: Sequence[float]) -> list[float]:
    """The series that never falls and stands nearest, by least squares.

    >>> rising([1.0, 4.0, 2.0, 5.0])
    [1.0, 3.0, 3.0, 5.0]
    """
    blocks: list[list[float]] = []
    for value in values:
        blocks.append([value])
        while len(blocks) > 1 and fmean(blocks[-2]) > fmean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    return [fmean(block) for block in blocks for _ in block]


def _told(
    plan: Plan, case: Case, seconds: tuple[list[float], list[float]], ratio: Measurement
) -> dict[str, Any]:
    """A case as JSON: bytes exactly, times with their doubt."""
    shape = shape_of(plan, case)
    moves = {side: METHODS[method].moves(shape, False) for side, method in SIDES.items()}
    times = zip(SIDES, seconds, strict=True)
    return {
        "kv_heads": case.kv_heads, "new": case.new, "cached": case.cached, "share": case.share,
        "hop_bytes": {side: each[0].bytes for side, each in moves.items()},
        "ms": {side: asdict(Measurement.of([1e3 * s for s in some], "ms")) for side, some in times},
        "ratio": asdict(ratio),
    }  # fmt: skip


def _group(plan: Plan, ring: Ring, crosses: Measurement) -> dict[str, Any]:
    """Where the times of one number of key/value heads cross, beside where each rule says."""
    shape = shape_of(plan, Case(kv_heads=ring.kv_heads, new=plan.seq, cached=0))
    return {
        "kv_heads": ring.kv_heads,
        "heads": ring.heads,
        "flops": ring.flops,
        "crosses": asdict(crosses),
        "q_is_smaller": 100 * min(ring.q_is_smaller_up_to, 1.0),
        "q_sends_less": 100 * min(float(q_sends_less_up_to(shape)), 1.0),
        "rule": 100 * ring.border(plan.seq),
        "rule_with_the_way_home": 100 * ring.border_with_the_way_home(plan.seq),
        "ends": [100 * case.share for case in (cases(plan)[0], cases(plan)[-1])],
    }


def _check(plan: Plan, results: Sequence[Mapping[str, Any]]) -> None:
    """Disagreement if a result or a message is another than it must be."""
    for result in results:
        if not result["apart"] <= ALLOWED:
            raise Disagreement(f"pass-KV and pass-Q are {result['apart']:.2g} apart where"
                               f" {ALLOWED:g} is allowed")  # fmt: skip
        for case in cases(plan):
            for side, method in SIDES.items():
                moves = METHODS[method].moves(shape_of(plan, case), False)
                told = [[move.op.value, move.axis, move.bytes] for move in moves]
                if (counted := result["counted"][case.name][side]) != told:
                    raise Disagreement(f"{side}, {case}: {counted} was sent, not {told}")


def _notes(groups: Sequence[Mapping[str, Any]], chosen: Sweep) -> tuple[str, ...]:
    wire = "this machine's own wire" if not chosen.flops_a_byte else (
        f"the wire is slowed to {chosen.flops_a_byte:g} FLOPs a byte: measured tiles, emulated link"
    )  # fmt: skip
    lines = (
        f"{each['kv_heads']} of {each['heads']} heads: times cross at"
        f" {each['crosses']['median']:.3g} % new; the rule says {each['rule']:.3g} %, with the way"
        f" home {each['rule_with_the_way_home']:.3g} %; q is the smaller hop up to"
        f" {each['q_is_smaller']:.3g} %, and fewer bytes in all up to {each['q_sends_less']:.3g} %"
        for each in groups
    )
    return (
        "x is pass-Q's time over pass-KV's, the faster of two turns each: below 1, pass-Q wins",
        wire,
        "every message was counted, and has the bytes predicted; the two results are equal",
        *lines,
        "rule: Yang et al. 2024, arXiv:2411.01783, algorithm 1, with the rates measured here",
    )


def _doubts(groups: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for each in groups:
        at, ends = each["crosses"], each["ends"]
        if at["low"] <= ends[0] or at["high"] >= ends[1]:
            yield (
                f"{each['kv_heads']} of {each['heads']} heads: in some rounds the times do not"
                " cross inside the sweep, and its end stands for them"
            )
    if (fewest := min(each["crosses"]["n"] for each in groups)) < 6:
        yield f"{fewest} rounds cannot bear a 95 % interval: the whole range is given"
