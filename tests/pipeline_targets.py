"""Worker functions for the tests of pipelines, some with a fault planted on purpose."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from parallel_core import runtime
from parallel_core import values as v
from parallel_core.kernel_choice import kernels_of
from parallel_core.kernels import TrainKernels
from parallel_core.lanes import Kernel
from parallel_core.plan import Plan
from parallel_core.program import Instr, Op, Value
from parallel_core.rank import Rank
from parallel_core.stage_kernels import StageKernels
from parallel_core.stash_kernels import StashKernels

Reads = Mapping[Value, Any]


class Witness:
    """Mixed into kernels: lets the test have them when the run is over."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        type(self).seen = self

    def sources(self) -> dict[str, str]:
        """None: to find them in the files takes longer than a tiny model's step."""
        return {}

    @classmethod
    def digests(cls) -> dict[str, list[str]]:
        """Every weight and its gradient in the last step, as fingerprints of their bytes."""
        flat = cls.seen.flat
        grads, weights = flat.named(flat.grads), flat.named(flat.params)
        return {name: [fingerprint(t[name]) for t in (weights, grads)] for name in weights}


class SlowWire:
    """Mixed into kernels: every message takes 3 ms longer, in which its sender's core is free."""

    def send(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        time.sleep(0.003)
        return super().send(instr, reads)


def fingerprint(tensor: Tensor) -> str:
    """A few letters that tell one tensor from any other, to the bit."""
    data = tensor.contiguous().view(torch.uint8)  # numpy knows no bfloat16
    return blake2b(data.numpy().tobytes(), digest_size=8).hexdigest()


def train_all(
    rank: Rank, plans: list[dict[str, Any]], steps: int, slow_wire: bool = False, **more: Any
) -> list[Any]:
    """Every plan in turn in the same processes; each tells its number before its notes.

    A result has the rank's "digests" as well.
    """
    results, mixed = [], (SlowWire,) if slow_wire else ()
    for number, plan in enumerate(plans):
        kernels = kernels_of(Plan.of(**plan))
        make: Any = type("Witnessed", (Witness, *mixed, kernels), {})
        rank.emit({"event": "plan", "rank": rank.rank, "number": number})
        result = runtime.train(rank, plan=plan, steps=steps, make=make, **more)
        results.append(result | {"digests": make.digests()})
        make.seen = None  # or the next run would find its tensors and call them stray
    return results


class Diary(StageKernels):
    """Writes down every call of a kernel, on which thread, in the order of the calls."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.diary: list[list[Any]] = []
        type(self).seen = self

    def table(self) -> dict[Op, Kernel]:
        return {op: self._written(kernel) for op, kernel in super().table().items()}

    def sources(self) -> dict[str, str]:
        return {}

    def _written(self, kernel: Kernel) -> Kernel:
        def write(instr: Instr, reads: Reads) -> Sequence[Any]:
            self.diary.append([threading.current_thread().name, instr.label])
            return kernel(instr, reads)

        return write


def diary(rank: Rank, plans: list[dict[str, Any]]) -> list[list[list[Any]]]:
    """One step of every plan: (thread, instruction) of every kernel that was called."""
    told = []
    for plan in plans:
        runtime.train(rank, plan=plan, steps=1, make=Diary, parity=False)
        told.append(Diary.seen.diary)
    return told


class Outputs(StageKernels):
    """Looks, before the backward of a stage, whether what its forward sent on is gone."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.sent: dict[tuple[str, int | None], StorageWeakRef] = {}
        self.gone: list[bool] = []
        type(self).seen = self

    def send(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        if instr.reads[0].name == "act":
            x = reads[instr.reads[0]]
            self.sent[instr.where, instr.mb] = StorageWeakRef(x.untyped_storage())
        return super().send(instr, reads)

    def _look(self, instr: Instr) -> None:
        if (ref := self.sent.pop((instr.where, instr.mb), None)) is not None:
            self.gone.append(ref.expired())

    def backward(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        self._look(instr)
        return super().backward(instr, reads)

    def input_half(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        self._look(instr)
        return super().input_half(instr, reads)


class KeptOutput(Outputs):
    """Every forward keeps its output for the backward, which does not need it."""

    def forward(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        kept, out = super().forward(instr, reads)
        return replace(kept, more={**kept.more, "out": out}), out


def outputs_gone(rank: Rank, plan: dict[str, Any], keep: bool) -> list[bool]:
    """Of every output that was sent: whether its memory was free when its backward began."""
    make = KeptOutput if keep else Outputs
    runtime.train(rank, plan=plan, steps=1, make=make, parity=False)
    return make.seen.gone


class LeakedOutput(StageKernels):
    """Every forward's output stays for good."""

    def forward(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        kept, out = super().forward(instr, reads)
        self.leak = [*getattr(self, "leak", []), out]
        return kept, out


class KeptActivation(StageKernels):
    """Every layer keeps its output once more for the backward; the numbers do not change."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        forward = self.model.forward_unit

        def keeping(unit: str, x: Tensor, place: Any) -> Tensor:
            y = forward(unit, x, place)
            return Keep.apply(y) if unit.startswith("layer") else y

        self.model.forward_unit = keeping


class Keep(torch.autograd.Function):
    """The identity, with a copy saved for nothing."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        ctx.save_for_backward(y.clone())
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return dy


class SkippedW(StageKernels):
    """The weight half of microbatch 1 is never run."""

    def weight_half(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        if instr.mb == 1:
            return [True] * len(instr.writes)
        return super().weight_half(instr, reads)


class WrongMicrobatch(StageKernels):
    """The gradients of microbatches 0 and 1 are sent in each other's place: 0's twice."""

    def send(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        value = instr.reads[0]
        if value.name == "dact" and instr.mb == 0:
            self.first = reads[value].clone()
        if value.name == "dact" and instr.mb == 1:
            reads = {value: self.first}
        return super().send(instr, reads)


class DividedTwice(StageKernels):
    """Every loss is a mean over its microbatch's share, and that share is divided again."""

    def load(self, step: int) -> dict[Value, Any]:
        holds = super().load(step)
        for mb, micro in self.micro.items():
            more = micro.valid_tokens * self.plan.microbatches
            holds[v.ids(mb)] = self.micro[mb] = replace(micro, valid_tokens=more)
        return holds


class SkippedExchange(StageKernels):
    """What the other copy of a weight sends is not added: a tied table's, or a stage's."""

    def add(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        return [True]


class EarlyReduction(StageKernels):
    """A stage is summed over ranks without its last microbatch, which stays each rank's own."""

    def backward(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        if instr.mb == self.plan.microbatches - 1:
            self.before = self.flat.span((self.numbers[instr.where],)).clone()
        return super().backward(instr, reads)

    def all_reduce(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        if instr.where not in self.numbers:
            return super().all_reduce(instr, reads)
        assert self.comm is not None
        span, before = self.flat.span((self.numbers[instr.where],)), self.before
        last = span - before
        self.comm.all_reduce(before, "dp", name=instr.where)
        span.copy_(before + last)
        return span.nbytes, *([True] * len(instr.writes))


class StaleForever(StashKernels):
    """The forward takes the weights of the step's start, as if no update had happened since."""

    def load(self, step: int) -> dict[Value, Any]:
        holds = super().load(step)
        self.start = [weight.detach().clone() for weight in self._weights()]
        return holds

    def forward(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        now = [weight.data for weight in self._weights()]
        for weight, old in zip(self._weights(), self.start, strict=True):
            weight.data = old.clone()
        made = super().forward(instr, reads)
        for weight, data in zip(self._weights(), now, strict=True):
            weight.data = data
        return made


FAULTS: dict[str, type[TrainKernels]] = {
    "none": StageKernels,
    "leaked output": LeakedOutput,
    "kept activation": KeptActivation,
    "skipped W": SkippedW,
    "wrong microbatch": WrongMicrobatch,
    "divided twice": DividedTwice,
    "skipped exchange": SkippedExchange,
    "early reduction": EarlyReduction,
    "stale forever": StaleForever,
}


def train_with_fault(rank: Rank, plan: dict[str, Any], steps: int, fault: str) -> Any:
    """One run with a fault planted."""
    return runtime.train(rank, plan=plan, steps=steps, make=FAULTS[fault])
