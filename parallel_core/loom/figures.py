"""What a product costs before anything runs: bytes, messages and FLOPs, from the program alone."""

from __future__ import annotations

from dataclasses import dataclass

from parallel_core.cost import Link, ModelCost, wire_bytes
from parallel_core.loom.layout import AXIS
from parallel_core.loom.request import LoomRequest
from parallel_core.loom.weave import Kind, Step
from parallel_core.program import Instr, Value
from parallel_core.replay import ASSUMED, ASSUMED_RATE, fit_link
from parallel_core.simulate import simulate
from parallel_core.trace import Trace


@dataclass(frozen=True)
class Sent:
    """One message: its op, how its matrix lies before and after, bytes a rank hands over, and
    bytes that leave all ranks together (cost.wire_bytes)."""

    op: str
    before: str
    after: str
    payload: int
    wire: int


@dataclass(frozen=True)
class Figures:
    """Predicted, per rank unless said otherwise."""

    forward: tuple[Sent, ...]
    backward: tuple[Sent, ...]
    weight_bytes: int
    input_bytes: int
    output_bytes: int
    flops: int

    @property
    def messages(self) -> tuple[int, int]:
        """How many a rank takes part in, forward and backward."""
        return len(self.forward), len(self.backward)

    @property
    def wire(self) -> tuple[int, int]:
        """Bytes that leave all ranks together, forward and backward."""
        return sum(s.wire for s in self.forward), sum(s.wire for s in self.backward)


def figures(request: LoomRequest) -> Figures:
    """What the program of `request` sends, holds and computes."""
    weave = request.weave
    forward, backward = ([_sent(request, step) for step in half] for half in weave.moves)
    weights = [v for v in weave.holds if v.name in ("W", "A", "B")]
    return Figures(
        forward=tuple(forward),
        backward=tuple(backward),
        weight_bytes=sum(value_bytes(request, v) for v in weights),
        input_bytes=value_bytes(request, weave.holds[0]),
        output_bytes=value_bytes(request, weave.outputs[0]),
        flops=sum(step_flops(request, step) for step in weave.steps),
    )


def value_bytes(request: LoomRequest, value: Value) -> int:
    """Bytes of a value on one rank."""
    rows, columns = request.weave.layouts[value].shape(request.sizes, request.ranks)
    return rows * columns * request.itemsize


def step_flops(request: LoomRequest, step: Step) -> int:
    """Floating-point operations of a product on one rank, two a multiplication; else 0."""
    if step.kind != Kind.PRODUCT:
        return 0
    weave = request.weave
    left, right = (
        weave.layouts[v].turned if t else weave.layouts[v]
        for v, t in zip(step.reads, step.turned, strict=True)
    )
    rows, inner = left.shape(request.sizes, request.ranks)
    return 2 * rows * inner * right.shape(request.sizes, request.ranks)[1]


def modelled(request: LoomRequest, link: Link = ASSUMED, rate: float = ASSUMED_RATE) -> Trace:
    """One run as the simulator lays it out over `link`, every rank at `rate` FLOP/s."""
    weave = request.weave

    def flops(instr: Instr) -> float:
        return step_flops(request, weave.step(instr.where))

    def size(value: Value) -> int:
        return value_bytes(request, value)

    cost = ModelCost(flops, size, {AXIS: request.ranks}, rate, link)
    return simulate(weave.program, cost)


def fitted(request: LoomRequest, trace: Trace) -> Trace:
    """The model again, over the link and at the rate that a run of `request` showed."""
    flops = spent = 0
    for span in trace.spans:
        step = request.weave.steps[span.index]
        if step.kind == Kind.PRODUCT:
            flops, spent = flops + step_flops(request, step), spent + span.cpu_ns
    rate = 1e9 * flops / spent if spent else ASSUMED_RATE
    return modelled(request, fit_link(trace, request.weave.program), rate)


def _sent(request: LoomRequest, step: Step) -> Sent:
    layouts = request.weave.layouts
    payload = value_bytes(request, step.reads[0])
    return Sent(
        op=step.op.value,
        before=str(layouts[step.reads[0]]),
        after=str(layouts[step.writes]),
        payload=payload,
        wire=wire_bytes(step.op, payload, request.ranks),
    )
