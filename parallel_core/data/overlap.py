"""How much of the gradients' communication a backward can hide, in closed form.

    T_b   seconds of the backward that the buckets run under (the last microbatch's)
    T_c   seconds of communication in all        K   buckets, here equal ones

    K=3   backward  |---1---|---2---|---3---|
          comm              |==1==| |==2==| |==3==|
                                            exposed: the last bucket starts when all else is over

Bucket j is complete at j T_b/K, and the comm lane works in order, so it and those after it end no
sooner than j T_b/K + (K-j+1) T_c/K. That is linear in j: the worst j is the last or the first,

    exposed = max(T_c/K,  T_c - T_b (1 - 1/K))

and never less than the last bucket. Each message also pays a latency L, so T_c = K L + W: few
buckets hide nothing, many are all latency. The order is that of Li et al. 2020, PyTorch
Distributed, arXiv:2006.15704, section 3.2.3; the formula follows from it as above.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean

from parallel_core.cost import Cost, Link
from parallel_core.data.bucketed import buckets
from parallel_core.data.step import specs_by_unit
from parallel_core.params import units
from parallel_core.plan import DPMethod, DType, Plan
from parallel_core.program import Instr, Op

MIB = 2**20


def exposed_equal(t_b: float, t_c: float, k: float) -> float:
    """Communication left uncovered by a backward of `t_b`, cut in `k` equal buckets; same unit.

    A fractional `k` draws the curve in between.

    >>> round(exposed_equal(100, 60, 6)), round(exposed_equal(100, 60, 1))
    (10, 60)
    """
    if k < 1:
        raise ValueError(f"k={k} must be at least 1; one bucket holds the whole gradient")
    return max(t_c / k, t_c - t_b * (1 - 1 / k))


def exposed_uneven(t_b: float, messages: Iterable[tuple[float, float]]) -> float:
    """The same for buckets of any size: (when complete, how long on the wire), in order.

    >>> round(exposed_uneven(100, [(100 * j / 6, 10) for j in range(1, 7)]))
    10
    """
    free = 0.0
    for ready, lasts in messages:
        free = max(free, ready) + lasts
    return max(free - t_b, 0.0)


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """A plan's three numbers, in seconds.

    `backward` is T_b, `wire` is W (all gradient bytes, no latency), `latency` is L (per message).
    """

    backward: float
    wire: float
    latency: float

    def comm(self, k: float) -> float:
        """T_c of k messages: what is exposed when none of them is hidden."""
        return k * self.latency + self.wire

    def exposed(self, k: float) -> float:
        """What of it stays exposed with k equal buckets."""
        return exposed_equal(self.backward, self.comm(k), k)

    def best(self, most: int) -> int:
        """The number of equal buckets, up to `most`, that leaves least exposed."""
        return min(range(1, most + 1), key=self.exposed)

    def link(self, plan: Plan) -> Link:
        """The link that gives these numbers to the all-reduce of `plan`'s gradients."""
        hops = Link(alpha=1.0, beta=1.0).seconds(Op.ALL_REDUCE, 0, plan.gradient_ranks)
        sent = Link(alpha=0.0, beta=1.0).seconds(
            Op.ALL_REDUCE, sum(gradient_bytes(plan)), plan.gradient_ranks
        )
        return Link(alpha=self.latency / hops, beta=sent / max(self.wire, 1e-9))


def overlap(plan: Plan, cost: Cost, link: Link) -> Overlap:
    """The three numbers of `plan` under `cost`; `link` carries the gradients over dp."""
    total = sum(gradient_bytes(plan))
    latency = link.seconds(Op.ALL_REDUCE, 0, plan.gradient_ranks)
    backward = sum(cost.seconds(0, Instr(op=Op.B, where=name)) for name in units(plan.model))
    wire = link.seconds(Op.ALL_REDUCE, total, plan.gradient_ranks) - latency
    return Overlap(backward=backward, wire=wire, latency=latency)


def gradient_bytes(plan: Plan) -> tuple[int, ...]:
    """Bytes of each unit's gradient, units in forward order."""
    width = DType(plan.dtype).bytes
    return tuple(sum(s.numel for s in specs) * width for specs in specs_by_unit(plan))


def messages_a_step(plan: Plan) -> int:
    """Gradient messages a rank sends in a step: one a bucket, or (naive) one a parameter."""
    if plan.gradient_ranks == 1:
        return 0
    if plan.dp_method == DPMethod.NAIVE:
        return sum(map(len, specs_by_unit(plan)))
    return len(buckets(plan))


def ladder(plan: Plan, most: int = 12) -> tuple[Plan, ...]:
    """`plan` bucketed in different numbers of buckets, from one a unit down to a single one.

    Units are not cut, so not every number can be had; at most `most` plans.
    """
    sizes = gradient_bytes(plan)
    caps = sorted({*sizes, *accumulate(reversed(sizes))})
    stride = -(-len(caps) // most)
    chosen = [*caps[: len(caps) - 1 : stride], caps[-1]]
    plans = [plan.but(dp_method="bucketed", bucket_mb=max(cap / MIB, 0.001)) for cap in chosen]
    return tuple({len(buckets(p)): p for p in plans}.values())


def fitted(backward: float, runs: Sequence[tuple[int, float]]) -> Overlap | None:
    """L and W of `T_c = K L + W` by least squares over (K, T_c) of runs; neither below zero.

    None where the runs do not differ in K: one point gives no slope.
    """
    if len({k for k, _ in runs}) < 2:
        return None
    mean_k, mean_t = fmean(k for k, _ in runs), fmean(t for _, t in runs)
    slope = sum((k - mean_k) * (t - mean_t) for k, t in runs)
    slope = max(slope / sum((k - mean_k) ** 2 for k, _ in runs), 0.0)
    wire = max(mean_t - slope * mean_k, 0.0)
    if wire == 0.0:  # the line through the origin that fits best
        slope = sum(k * t for k, t in runs) / sum(k * k for k, _ in runs)
    return Overlap(backward=backward, wire=wire, latency=slope)
