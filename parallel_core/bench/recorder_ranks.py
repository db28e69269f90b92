"""On the ranks: lanes with and without their recorder, messages with and without their booking.

Three instruments, each a pair that takes turns in one process:

    an instruction   the plan's program with kernels that do nothing
    a message        64 bytes all-reduced in a group of one, through Comm and bare
    a whole step     real training on all ranks, recorder on and off

Reading the memory walks the allocator's free list, so what it costs depends on what ran before: it
is timed where it happens, inside the real steps.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
import torch.distributed as dist

from parallel_core.bench.interleave import OURS, PEER, a_step, take_turns
from parallel_core.bench.ours import CPU, Ours
from parallel_core.booked import Sent
from parallel_core.cases import program_of
from parallel_core.comm import Comm
from parallel_core.kernels import TrainKernels
from parallel_core.lanes import Kernel, Lanes
from parallel_core.mesh import Mesh
from parallel_core.plan import Plan
from parallel_core.program import Instr, Lane, Op, Program, Value
from parallel_core.rank import Rank
from parallel_core.resident import live_bytes

STEPS, MESSAGES = 20, 200
"""Steps of the empty program, and messages, in one turn."""


class Unrecorded(Lanes):
    """The same two lanes, with no clock, no beat, no memory and no notes."""

    def _walk(self, lane: Lane) -> None:
        for _, instr in self._lists[lane]:
            self._stand_until_there(lane, instr.reads)
            if instr.op != Op.WAIT:
                self._call(instr)
            self._publish(instr, 0)


def watch(
    rank: Rank, *, plan: dict[str, Any], rounds: int, real_rounds: int, warmup: int
) -> dict[str, Any]:
    """Seconds of each pair, a number a round; `counts` says what a step holds."""
    chosen = Plan.of(**plan)
    rank.init("gloo")
    program = program_of(chosen)
    instrs = program.ranks[rank.rank]
    return {
        "instruction": _instructions(rank, program, rounds),
        "message": _messages(rank, rounds),
        "emit": _emits(rank, len(instrs), rounds),
        "step": _steps(rank, chosen, real_rounds, warmup),
        "counts": {
            "instructions": len(instrs),
            "readings": sum(i.lane == Lane.COMPUTE and i.op != Op.WAIT for i in instrs),
            "messages": sum(max(len(i.inner), 1) for i in instrs if i.op.is_message),
        },
    }


def _instructions(rank: Rank, program: Program, rounds: int) -> dict[str, list[float]]:
    """Seconds an instruction of the program with empty kernels, watched (ours) and not (peer)."""
    instrs, kernels = program.ranks[rank.rank], _empty_kernels(program.ranks[rank.rank])
    watched = Lanes(instrs, kernels, beat=rank.beat)
    blind = Unrecorded(instrs, kernels)
    holds = dict.fromkeys(program.holds[rank.rank], True)

    def watched_step() -> None:
        watched.run(0, holds)
        watched.notes = []

    sides: Mapping[str, Callable[[], object]] = {
        OURS: watched_step,
        PEER: lambda: blind.run(0, holds),
    }
    blocks = take_turns(sides, rounds, STEPS, dist.barrier)
    watched.close()
    blind.close()
    return {side: [s / len(instrs) for s in a_step(blocks, side)] for side in sides}


def _empty_kernels(instrs: Sequence[Instr]) -> Mapping[Op, Kernel]:
    """Kernels that hand over what an instruction writes, and do nothing."""

    def nothing(instr: Instr, reads: Mapping[Value, Any]) -> Sequence[Any]:
        return [0, *instr.writes] if instr.op.is_message else list(instr.writes)

    return {instr.op: nothing for instr in instrs}


def _messages(rank: Rank, rounds: int) -> dict[str, list[float]]:
    """Seconds a message through Comm, counted and compared (ours), and bare (peer).

    In a group of one no other rank's delays hide the difference, which is microseconds.
    """
    comm = Comm(Mesh((("alone", 1), ("dp", rank.world_size))), rank.rank)
    groups = [dist.new_group([r]) for r in range(rank.world_size)]
    x, mine = torch.ones(16), groups[rank.rank]
    sides: Mapping[str, Callable[[], object]] = {
        OURS: lambda: comm.all_reduce(x, "alone"),
        PEER: lambda: dist.all_reduce(x, group=mine),
    }
    blocks = take_turns(sides, rounds, MESSAGES, dist.barrier)
    return {side: a_step(blocks, side) for side in sides}


def _emits(rank: Rank, instructions: int, rounds: int) -> dict[str, list[float]]:
    """Seconds to hand a step's notes to the owner (ours), and not to (peer)."""
    notes = [(0, i, *[10**15 + i] * 4, 2**20, 2**30) for i in range(instructions)]
    event = {"event": "dummy notes", "rank": rank.rank, "notes": notes}
    sides: Mapping[str, Callable[[], object]] = {OURS: lambda: rank.emit(event), PEER: lambda: None}
    blocks = take_turns(sides, rounds, 2, dist.barrier)
    return {side: a_step(blocks, side) for side in sides}


def _steps(rank: Rank, plan: Plan, rounds: int, warmup: int) -> dict[str, list[Any]]:
    """The turns of real training with the recorder (ours) and without it (peer).

    `reading` has the seconds that reading the memory took in each watched step.
    """
    meter = _Timed(live_bytes(CPU))
    watched = Ours(plan, rank, norm=True, memory=meter)
    kernels = TrainKernels(plan, rank.rank, _Unbooked(plan.mesh, rank.rank), CPU)
    blind = Unrecorded(program_of(plan).ranks[rank.rank], kernels.table())
    reading: list[float] = []
    steps = itertools.count()

    def watched_step() -> None:
        meter.seconds = 0.0
        watched.step()
        reading.append(meter.seconds)

    def blind_step() -> None:
        step = next(steps)
        blind.run(step, kernels.load(step))

    def meet() -> None:
        rank.emit({"event": "turn"})
        dist.barrier()

    try:
        for _ in range(warmup):
            watched_step()
            blind_step()
        blocks = take_turns({OURS: watched_step, PEER: blind_step}, rounds, 1, meet)
    finally:
        watched.lanes.close()
        blind.close()
    return {"blocks": [asdict(block) for block in blocks], "reading": reading[warmup:]}


class _Timed:
    """A reader of the live bytes that adds up the processor time it takes."""

    def __init__(self, read: Callable[[], int]) -> None:
        self.seconds, self._read = 0.0, read

    def __call__(self) -> int:
        begin = time.thread_time()
        live = self._read()
        self.seconds += time.thread_time() - begin
        return live


class _Unbooked(Comm):
    """Messages that nobody counts, and nobody compares with the other ranks'."""

    def _book(self, op: str, axis: str, x: torch.Tensor, control: bool = False) -> Sent:
        return Sent(op, axis, 0, control, done=1)

    def _compare(self, op: str, axis: str, x: torch.Tensor, name: str = "") -> None:
        pass
