"""Worker functions for the tests of experts, some with a mistake planted on purpose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from parallel_core import crossing, moe, runtime
from parallel_core.crossing import Flow, Skip
from parallel_core.expert.routing import Choice, Rules
from parallel_core.expert_kernels import ExpertKernels
from parallel_core.kernel_choice import kernels_of
from parallel_core.kernels import Reads
from parallel_core.model import Layer, Transformer
from parallel_core.plan import Plan
from parallel_core.program import Instr
from parallel_core.rank import Rank


def train_all(rank: Rank, plans: list[dict[str, Any]], steps: int, **more: Any) -> list[Any]:
    """Every plan in turn in the same processes; each tells its number before its events."""
    results = []
    for number, plan in enumerate(plans):
        make: Any = type("Quick", (NoSources, kernels_of(Plan.of(**plan))), {})
        rank.emit({"event": "plan", "rank": rank.rank, "number": number})
        results.append(runtime.train(rank, plan=plan, steps=steps, make=make, **more))
    return results


class NoSources:
    """Mixed into kernels: to find them in the files takes longer than a tiny model's step."""

    def sources(self) -> dict[str, str]:
        return {}


# ---------------------------------------------------------------------------- planted faults


class ScaledByEp(ExpertKernels):
    """Expert gradients are taken for a mean over the ranks that share them, and undone."""

    def make_model(self, units: Sequence[str]) -> Transformer:
        model = super().make_model(units)
        for name, weight in model.named_parameters():
            if ".experts." in name:
                weight.register_hook(lambda grad: grad * self.plan.ep)
        return model


class RouterUnsummed(ExpertKernels):
    """Each tensor-parallel rank keeps its own part of a router's gradient."""

    def parts(self, axis: str) -> list[Tensor]:
        return [
            view.clone() if spec.module == "router" else view
            for u, specs in self.flat.specs.items()
            for spec, view in zip(specs, self.flat.views[u], strict=True)
            if axis in spec.partial
        ]


class AuxOnEvery(ExpertKernels):
    """Each tensor-parallel rank adds all of the auxiliary loss."""

    def make_model(self, units: Sequence[str]) -> Transformer:
        model = super().make_model(units)
        for layer in model.routers.values():
            layer.share = lambda: 1.0  # type: ignore[method-assign]  # the fault
        return model


class CountsMixed(ExpertKernels):
    """What each rank tells of its rows an expert is read in the order of another rank's experts:
    as many rows come from everybody, but they are taken for those of other experts."""

    def _exchange(self, counts: Tensor, axis: str) -> Tensor:
        return super()._exchange(counts, axis).flip(-1)


class IdleLeftOut(ExpertKernels):
    """A rank that no token came to takes no part in the backward."""

    def run_back(self, instr: Instr, reads: Reads) -> dict[str, Any]:
        u = self.numbers[instr.where]
        if self.pieces[u].holds_experts:
            kept = next(reads[value] for value in instr.reads if value.name == "saved")
            if not len(kept.x):
                return {"drows": torch.zeros_like(kept.x)}
        return super().run_back(instr, reads)


class BiasApart(ExpertKernels):
    """A router's bias moves by the loads of the rank's own tokens."""

    def sum_loads(self, instr: Instr) -> Sequence[Any]:
        own = torch.stack([*self.loads().values()])
        made = super().sum_loads(instr)
        self.summed = own
        return made


class NoResidual(ExpertKernels):
    """A token that no expert takes leaves nothing behind, not even itself."""

    def run_unit(self, unit: str, flow: Flow, mb: int) -> Flow:
        join = crossing._join

        def losing(layer: Layer, y_rd: Tensor, skip: Skip, place: Any) -> Tensor:
            taken = skip.routed.choice.kept.any(-1)[..., None].to(skip.x_bsd.dtype)
            return join(layer, y_rd, replace(skip, x_bsd=skip.x_bsd * taken), place)

        with patch.object(crossing, "_join", losing):
            return super().run_unit(unit, flow, mb)


class CapacityPerRank(ExpertKernels):
    """An expert's places are those of all the tokens that a rank has, first come first served."""

    def run_unit(self, unit: str, flow: Flow, mb: int) -> Flow:
        with patch.object(moe, "choose", _together(moe.choose)):
            return super().run_unit(unit, flow, mb)


def _together(choose: Any) -> Any:
    def chosen(logits_bse: Tensor, rules: Rules, bias_e: Tensor | None = None) -> Choice:
        batch = len(logits_bse)
        one = choose(logits_bse.flatten(0, 1)[None], rules, bias_e)
        return Choice(*(x[0].unflatten(0, (batch, -1)) for x in (one.asked, one.kept)))

    return chosen


class WrongSource(ExpertKernels):
    """What experts have made, expert by expert, goes home as if it lay rank by rank."""

    def all_to_all(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        made = super().all_to_all(instr, reads)
        for journey in self.journeys.values():
            if journey.back is not None:
                journey.back = torch.arange(len(journey.back))
        return made


FAULTS: dict[str, type[ExpertKernels]] = {
    cls.__name__: cls
    for cls in (
        ScaledByEp,
        RouterUnsummed,
        AuxOnEvery,
        CountsMixed,
        IdleLeftOut,
        BiasApart,
        NoResidual,
        CapacityPerRank,
        WrongSource,
    )
}


def train_with(
    rank: Rank, *, fault: str | None, plan: Mapping[str, Any], steps: int = 3
) -> dict[str, float]:
    """The errors that parity finds in a run with a fault, or with none."""
    make = FAULTS[fault] if fault else None
    result = runtime.train(rank, plan=plan, steps=steps, make=make)
    errors: dict[str, float] = result.get("parity", {}).get("errors", {})
    return errors
