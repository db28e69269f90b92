"""What a schedule is asked (a Job), and what the table says of each (a Schedule)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from parallel_core.fields import PlanError
from parallel_core.pipeline.order import Order
from parallel_core.program import Op


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds (or beats) a rank needs for one microbatch, over all its stages together.

    `f`, `i`, `w` hold one number a rank: the forward, the input half of the backward, the weight
    half. `comm` is the latency of a message between neighbouring stages; nobody is busy with it.
    """

    f: tuple[float, ...]
    i: tuple[float, ...]
    w: tuple[float, ...]
    comm: float = 0.0

    @classmethod
    def even(
        cls,
        p: int,
        *,
        tf: float = 1.0,
        ti: float = 1.0,
        tw: float = 1.0,
        tcomm: float = 0.0,
        slow: Mapping[int, float] | None = None,
    ) -> Times:
        """The same on every rank, but `slow[rank]` times as long on some.

        >>> Times.even(3, slow={1: 1.5}).f
        (1.0, 1.5, 1.0)
        """
        by = [(slow or {}).get(rank, 1.0) for rank in range(p)]
        f, i, w = (tuple(t * factor for factor in by) for t in (tf, ti, tw))
        return cls(f=f, i=i, w=w, comm=tcomm)

    def whole(self, rank: int, op: Op) -> float:
        """What `op` of one microbatch takes over all stages of `rank`; 0 for what computes
        nothing."""
        match op:
            case Op.F:
                return self.f[rank]
            case Op.I:
                return self.i[rank]
            case Op.W:
                return self.w[rank]
            case Op.B:
                return self.i[rank] + self.w[rank]
        return 0.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """p ranks, m microbatches, v stages a rank; times and cap matter to the automatic ones only.

    `cap` is the memory of a rank: microbatches it may hold from their F to their W (or B).
    """

    p: int
    m: int
    v: int = 1
    times: Times | None = None
    cap: float | None = None

    @property
    def timed(self) -> Times:
        """The times, one beat each where none are given."""
        return self.times or Times.even(self.p)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A line of the table. `order` refuses what the method does not allow with a PlanError.

    `virtual` lists the numbers of stages a rank that it works with (() for any from 2 on).
    """

    name: str
    title: str
    source: str
    order: Callable[[Job], Order]
    virtual: tuple[int, ...] = (1,)
    asynchronous: bool = False  # weights change inside the step; stale ones are kept
    copies: int = 1  # of the weights
    pairs: bool = False  # an F and the B behind it overlap, piece by piece

    @property
    def fewest(self) -> int:
        """The number of stages a rank where the reader names none."""
        return min(self.virtual, default=2)

    def of(self, job: Job) -> Order:
        """The order of a job; raises PlanError naming the rule it breaks."""
        if self.virtual and job.v not in self.virtual:
            rule = f"does not fit {self.name}, which puts {self.virtual[0]} on a rank"
            raise PlanError("virtual_stages", job.v, rule, self.virtual[0])
        if not self.virtual and job.v < 2:
            raise PlanError("virtual_stages", job.v, f"is too few for {self.name}", 2)
        return self.order(job)
