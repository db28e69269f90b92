"""Switches: sums over ranks that are left out, that come too early or too late.

Each class is mixed before a plan's kernels by planted.py; alone it is none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from parallel_core import values as v
from parallel_core.data.sharded import TABLE_NAME
from parallel_core.kernels import TrainKernels
from parallel_core.ledger import CONTROL
from parallel_core.params import ParamSpec
from parallel_core.pieces import TABLE
from parallel_core.program import Instr
from parallel_core.summing import Reads


class ContextUnsummed(TrainKernels):
    """The sum over ranks stands behind `if dp > 1`, and nobody thought of cp."""

    def all_reduce(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """Scalars as ever; gradients only where there are replicas."""
        if self.plan.dp > 1 or instr.where in CONTROL:
            return super().all_reduce(instr, reads)
        return 0, *([True] * len(instr.writes))


class LeftOut(TrainKernels):
    """Some parts of a sum over tp are handed over, and the sum is thrown away."""

    def left_out(self, spec: ParamSpec) -> bool:
        """Whether this parameter is forgotten."""
        raise NotImplementedError

    def parts(self, axis: str) -> list[Tensor]:
        """The gradients that are summed, a copy in the place of each that is not."""
        return [
            view.clone() if self.left_out(spec) else view
            for u, specs in self.flat.specs.items()
            for spec, view in zip(specs, self.flat.views[u], strict=True)
            if axis in spec.partial
        ]


class NormsUnsummed(LeftOut):
    """Norms are whole on every rank, so nobody sums them; but each saw only its own tokens."""

    def left_out(self, spec: ParamSpec) -> bool:
        """The norms'."""
        return spec.module.endswith("norm")


class RouterUnsummed(LeftOut):
    """With ep the router is taken for one of the experts: its gradient stays on its rank."""

    def left_out(self, spec: ParamSpec) -> bool:
        """The routers'."""
        return self.plan.ep > 1 and spec.module == "router"

    def all_reduce(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """A bucket is summed, and each rank puts its own router's gradient back."""
        units = {value.at[0] for value in instr.writes if value.name == "gsum"}
        own = [
            (view, view.clone())
            for u in units
            for spec, view in zip(self.flat.specs[u], self.flat.views[u], strict=True)
            if self.left_out(spec)
        ]
        made = super().all_reduce(instr, reads)
        for view, mine in own:
            view.copy_(mine)
        return made


class BucketEarly(TrainKernels):
    """A bucket is summed as soon as every gradient in it has come: in the first microbatch. What
    later ones add stays on its rank."""

    def backward(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """As ever; after the first microbatch the message leaves."""
        made = super().backward(instr, reads)
        if self.early and instr.mb == 0:
            assert self.comm is not None
            span = self.flat.span((self.numbers[instr.where],))
            self.comm.all_reduce(span, "dp", name=instr.where)
        return made

    @property
    def early(self) -> bool:
        """Whether there is a microbatch that comes too late for the message."""
        return self.plan.gradient_ranks > 1 and self.plan.microbatches > 1

    def all_reduce(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """Nothing: it is marked as sent."""
        if instr.where in CONTROL or not self.early:
            return super().all_reduce(instr, reads)
        return 0, *([True] * len(instr.writes))


class TiedTooLate(TrainKernels):
    """The two ends of a pipeline add up their tables after a reduce-scatter has cut them.

    A reduce-scatter leaves the sum over dp with the rank that owns the shard; the other has its own
    part. With dp=2 and the table first in one stage's buffer, last in the other's:

        stage \\ dp   0         1                      stage \\ dp   0              1
        first        g0        g0+g1   then added:   first        g0+(g2+g3)     (g0+g1)+g3
        last         g2+g3     g3                    last         g0+(g2+g3)     (g0+g1)+g3

    The owners, first 1 and last 0, update, and hand their weights to the others: the first stage
    trains without g2, the last without g1. Here every rank works out what its owner would have.
    """

    def all_reduce(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """The sum over dp; what the rank that owns no shard still has is remembered."""
        table = self._table(instr)
        if table is None or self.plan.dp != 2:
            return super().all_reduce(instr, reads)
        own = table.clone()
        made = super().all_reduce(instr, reads)
        mine = self.plan.mesh.coordinate(self.rank)["dp"]
        last = TABLE in self.flat.views
        self.stale = own if mine == last else table - own
        return made

    def _table(self, instr: Instr) -> Tensor | None:
        if v.TABLE_SUM in instr.writes:
            return self.flat.views[TABLE][0]
        return self.flat.views[0][0] if v.gsum(0) in instr.writes else None

    def send(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """Of the table what its rank has left; of all else what it is asked for."""
        stages: Any = super()
        if instr.where != TABLE_NAME or self.plan.dp != 2:
            made: Sequence[Any] = stages.send(instr, reads)
            return made
        assert self.comm is not None and instr.peer is not None
        self.comm.send(self.stale, instr.peer, name=instr.where)
        return self.stale.nbytes, *([True] * len(instr.writes))
