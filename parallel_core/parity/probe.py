"""What one rank has of a run, to be held against the truth: its part of every tensor, by step.

A probe is mixed in before the kernels of a plan. It changes nothing: it copies what the rank holds
when a step is over and, where asked, what passes between units.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from parallel_core.crossing import Flow
from parallel_core.params import Cut, ParamSpec, cuts, param_specs
from parallel_core.pieces import JOIN, TABLE
from parallel_core.program import Value
from parallel_core.shards import Shards

if TYPE_CHECKING:
    from parallel_core.kernels import TrainKernels as _Kernels
    from parallel_core.plan import Plan
else:
    _Kernels = object


@dataclass(frozen=True)
class Part:
    """Elements `start` onward of what a rank's place in the mesh gives it of a parameter: all of
    it, or a shard of that. `cut` says which part of the whole parameter that place has."""

    name: str
    start: int
    grad: Tensor
    param: Tensor
    cut: tuple[Cut, ...]

    def of(self, whole: Tensor) -> tuple[Tensor, Tensor]:
        """(the same elements of a whole parameter, which of them are no padding); both flat."""
        real = torch.ones_like(whole, dtype=torch.bool)
        for cut in self.cut:
            whole, real = _narrowed(whole, cut), _narrowed(real, cut)
        there = slice(self.start, self.start + self.grad.numel())
        return whole.flatten()[there], real.flatten()[there]


def _narrowed(whole: Tensor, cut: Cut) -> Tensor:
    """A cut of a tensor; what is padding of it is zero, or False."""
    missing = cut.stop - cut.start - cut.real
    part = whole.narrow(cut.dim, min(cut.start, cut.end), cut.real)
    if not missing:
        return part
    shape = [*part.shape]
    shape[cut.dim] = missing
    return torch.cat([part, part.new_zeros(shape)], cut.dim)


class Probe(_Kernels):
    """Mixed into kernels: `after[k]` are the rank's parts when step k of `steps` was over."""

    steps = 0
    after: list[list[Part]] | None = None

    def load(self, step: int) -> dict[Value, Any]:
        """Before a step begins, what the last one has left is copied."""
        self.over()
        return super().load(step)

    def over(self) -> None:
        """Copy what a step has left; what is measured after the last one is nobody's step."""
        if self.after is None:
            self.after = []
        elif self.going:
            self.after.append(list(parts(self)))

    @property
    def going(self) -> bool:
        """Whether a step is to come, or under way."""
        return self.after is not None and len(self.after) < self.steps

    def sources(self) -> dict[str, str]:
        """Nobody asks where a kernel stands, and to find it takes longer than a small step."""
        return {}


@dataclass(frozen=True)
class Passed:
    """What a unit handed on in a microbatch, and the gradient that came back if it did."""

    step: int
    unit: str
    mb: int
    act: Tensor
    dact: list[Tensor]


class Looking(Probe):
    """A probe that also keeps what layers hand on, by step, unit and microbatch."""

    passed: list[Passed]

    def load(self, step: int) -> dict[Value, Any]:
        """A new step."""
        if self.after is None:
            self.passed = []
        self.step = step
        return super().load(step)

    def run_unit(self, unit: str, flow: Flow, mb: int) -> Flow:
        """As ever; the output of an embedding or a whole layer is copied."""
        out = super().run_unit(unit, flow, mb)
        name = unit.removesuffix(JOIN)
        if self.going and name != "head" and "." not in name:
            seen = Passed(self.step, name, mb, out.x.detach().cpu().clone(), [])
            hook: Any = out.x.register_hook
            hook(lambda grad: seen.dact.append(grad.detach().cpu().clone()))
            self.passed.append(seen)
        return out


def parts(kernels: _Kernels) -> Iterator[Part]:
    """Every tensor that the rank holds now, its gradient beside it."""
    plan, place = kernels.plan, kernels.plan.mesh.coordinate(kernels.rank)
    whole = {spec.name: spec for spec in param_specs(plan)}
    if isinstance(kernels.flat, Shards):
        for spec, start, grad, param in _shards(kernels.flat):
            yield Part(spec.name, start, grad, param, cuts(plan, whole[spec.name], place))
        return
    flat = kernels.flat
    for u, specs in flat.specs.items():
        if u == TABLE:  # its gradient is only a share of the table's, completed elsewhere
            continue
        for spec, view, weight in zip(specs, flat.views[u], flat.parameters[u], strict=True):
            cut = cuts(plan, whole[spec.name], place)
            yield Part(spec.name, 0, _copy(view), _copy(weight), cut)


def _shards(shards: Shards) -> Iterator[tuple[ParamSpec, int, Tensor, Tensor]]:
    """What a rank of ZeRO keeps of each parameter: which, from which element on, both tensors."""
    for b, (weights, grads) in zip(shards.held, shards.parts(), strict=True):
        begin = shards.me(b) * shards.blocks[b].shard
        for spec, first, last in shards.places(b):
            low, high = max(first, begin), min(last, begin + len(grads))
            if low < high:
                here = slice(low - begin, high - begin)
                yield spec, low - first, _copy(grads[here]), _copy(weights[here])


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().flatten().cpu().clone()


def expected(plan: Plan, whole: Tensor, where: tuple[Tensor, Tensor], tp: int) -> Tensor:
    """Of x[B, S, D] of a whole batch, the `where` = (rows, positions) that a rank has; under
    sequence parallelism its own tp-th part of those."""
    rows, positions = where
    mine = whole[rows][:, positions]
    return mine.chunk(plan.tp, dim=1)[tp] if plan.sp else mine
