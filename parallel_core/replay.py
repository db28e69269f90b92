"""The own-device clock: a measured run, laid out as if every rank had a device to itself.

With more ranks than cores the wall clock is true and misleading: idle ranks lend their core. So
each compute op is given the CPU time its own thread used, each message alpha + bytes/beta fitted
from the run itself, and the simulator lays them out by the program's dependencies.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import median

from parallel_core import inner_shares
from parallel_core.cost import Link, MeasuredCost, ModelCost, hops_of
from parallel_core.meetings import complete, messages
from parallel_core.plan import Plan
from parallel_core.program import Instr, Op, Program
from parallel_core.simulate import simulate
from parallel_core.sizes import flops, value_bytes
from parallel_core.trace import Inside, Kind, Span, Trace

ASSUMED = Link(alpha=2e-4, beta=2e9)
"""A loopback link, for predictions before anything was measured."""

ASSUMED_RATE = 20e9
"""FLOP/s of one rank on one core, likewise."""


@dataclass(frozen=True)
class _Message:
    """One collective or message as all its ends saw it."""

    op: Op
    payload: int
    n: int
    count: int
    seconds: float


def fit_link(trace: Trace, program: Program) -> Link:
    """alpha and beta of a run's own messages; ASSUMED where there are none.

    The wire time of a message runs from its last starter to its last end. alpha is the cheapest
    hop seen, beta the median of what the larger half of the messages reached beyond it.
    """
    return fit_link_of([(trace, program)])


def fit_link_of(runs: Iterable[tuple[Trace, Program]]) -> Link:
    """One link over the messages of several runs: what runs that are compared must share."""
    met = [
        m
        for trace, program in runs
        for found in (_meetings(trace, program), _inner_meetings(trace, program))
        for m in found
    ]
    if not met:
        return ASSUMED
    hops = {m: hops_of(m.op, m.n) for m in met}
    alpha = min(m.seconds / (hops[m] * m.count) for m in met)
    large = sorted(met, key=lambda m: m.payload)[len(met) // 2 :]
    rates = []
    for m in large:
        sent = Link(0.0, 1.0).seconds(m.op, m.payload, m.n)
        rest = m.seconds - alpha * hops[m] * m.count
        if rest > 0 and sent > 0:
            rates.append(sent / rest)
    return Link(alpha=alpha, beta=median(rates) if rates else ASSUMED.beta)


def _meetings(trace: Trace, program: Program) -> Iterable[_Message]:
    for spans in messages(trace):
        first = spans[0]
        if not complete(spans) or len(first.peers) < 2:
            continue  # a group of one sends nothing
        wire = (max(s.t_done for s in spans) - max(s.t_start for s in spans)) / 1e9
        count = max(len(program.ranks[first.rank][first.index].inner), 1)
        yield _Message(Op(first.op), first.bytes, len(first.peers), count, max(wire, 1e-9))


def _inner_meetings(trace: Trace, program: Program) -> Iterable[_Message]:
    """The messages inside tasks. One that work is done under is left out: its time is not the
    wire's alone."""
    ends: dict[tuple[tuple[int, ...], int, int, int], list[Inside]] = defaultdict(list)
    for span in trace.spans:
        instr = program.ranks[span.rank][span.index]
        if instr.op.is_message:
            continue
        for number, (message, seen) in enumerate(zip(instr.inner, span.inside, strict=False)):
            if not message.under:
                group = program.mesh.group(span.rank, message.axis)
                ends[group, span.step, span.index, number].append(seen)
    for (group, *_), met in ends.items():
        n = len(group)
        if len(met) == n > 1:
            op, _, _, size, *_ = met[0]
            wire = (max(seen[5] for seen in met) - max(seen[4] for seen in met)) / 1e9
            yield _Message(Op(op), size, n, 1, max(wire, 1e-9))


def model_cost(plan: Plan, *, rate: float = ASSUMED_RATE, link: Link = ASSUMED) -> ModelCost:
    """The plan's step under FLOPs over `rate` and messages over `link`."""
    degrees = {axis: plan.mesh.degree(axis) for axis in plan.mesh.names}
    return ModelCost(
        flops(plan), value_bytes(plan), degrees, rate, link, uneven=inner_shares.uneven(plan)
    )


def fitted_rate(plan: Plan, trace: Trace) -> float:
    """FLOP/s of a rank's own thread over the forwards and backwards of a run."""
    count, work, spent = flops(plan), 0.0, 0.0
    for span in trace.spans:
        if span.op in (Op.F, Op.B):
            work += count(Instr(op=Op(span.op), where=span.where))
            spent += span.cpu_ns / 1e9
    return work / spent if spent else ASSUMED_RATE


def replay(plan: Plan, program: Program, trace: Trace, *, link: Link | None = None) -> Trace:
    """Each step of a measured run again, on one device a rank; steps follow one another.

    Messages go over `link`, by default the one fitted from this run. Runs that are compared must
    be given the same (fit_link_of): two fits differ by the machine's noise.
    """
    model = model_cost(plan, link=link or fit_link(trace, program))
    spans: list[Span] = []
    shift, text = 0, ""
    for step in trace.steps:
        part = [s for s in trace.spans if s.step == step]
        if len(part) < sum(len(instrs) for instrs in program.ranks):
            continue  # a step cut short by a live view
        own = {(s.rank, s.label): s.cpu_ns / 1e9 for s in part}
        cost = MeasuredCost(own, model)
        laid = simulate(program, cost)
        text = cost.text
        seen = {(s.rank, s.index): s for s in part}
        spans += [_moved(s, seen[s.rank, s.index], shift) for s in laid.spans]
        shift += laid.makespan
    provenance = replace(trace.provenance, kind=Kind.REPLAYED, notes=(text,), clocks=())
    return Trace(tuple(spans), provenance, trace.world_size, trace.metrics)


def _moved(span: Span, measured: Span, shift: int) -> Span:
    """A replayed span in its step: times from the simulator, also inside it, all else measured."""
    return replace(
        measured,
        t_post=span.t_post + shift,
        t_start=span.t_start + shift,
        t_done=span.t_done + shift,
        inside=tuple(
            (op, axis, what, size, start + shift, done + shift)
            for op, axis, what, size, start, done in span.inside
        ),
    )
