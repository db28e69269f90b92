"""Copies to the host and back in a pipeline: one task ahead of their use, never a pile of them."""

from __future__ import annotations

from typing import Any

import pytest

from parallel_core.activations.offload import leaving
from parallel_core.activations.saved import piece_bytes
from parallel_core.cases import program_of
from parallel_core.peak import predicted_peak
from parallel_core.pieces import pieces
from parallel_core.plan import Plan
from parallel_core.program import Instr, Op

TINY: dict[str, Any] = {"layers": 8, "hidden": 16, "heads": 4, "seq": 8, "vocab": 32, "ffn": 16}
WHOLE = {"pp": 1, "microbatches": 2, "global_batch": 4}
LAYOUTS = [WHOLE] + [
    {"pp": 4, "schedule": name, "microbatches": 8, "global_batch": 8}
    for name in ("gpipe", "1f1b", "interleaved", "zb-h1", "v-half", "dualpipe")
]
every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=lambda x: x.get("schedule", "single"))


def _tasks(instrs: tuple[Instr, ...]) -> list[Instr]:
    """What keeps something for a backward, and what takes it up."""
    return [i for i in instrs if i.op in (Op.F, Op.B, Op.I)]


@every_layout
def test_a_fetch_is_one_task_ahead_and_waits_for_the_one_before(layout):
    """Neither sooner, when there is no room yet, nor when its backward stands and waits."""
    for instrs in program_of(Plan.of(**TINY, **layout, offload=True)).ranks:
        tasks = _tasks(instrs)
        for at, fetch in ((at, i) for at, i in enumerate(instrs) if i.op == Op.FETCH):
            (back,) = fetch.writes
            host, due = fetch.reads
            use = next(n for n, task in enumerate(tasks) if back in task.reads)
            mark = next(n for n, task in enumerate(tasks) if due in task.writes)
            begun = len(_tasks(instrs[:at]))
            assert (mark, begun) == (use - 2, use - 1), fetch
            assert host.at == due.at == back.at


@every_layout
def test_what_waits_long_leaves_and_nothing_else(layout):
    """Layers whose backward is more than three tasks behind their forward, on every rank."""
    plan = Plan.of(**TINY, **layout, offload=True)
    layers = {u for u, p in enumerate(pieces(plan)) if any("layer" in unit for unit in p.units)}
    plain = program_of(plan.but(offload=False)).ranks
    for instrs, kept in zip(program_of(plan).ranks, plain, strict=True):
        tasks = _tasks(kept)
        made = {x: n for n, t in enumerate(tasks) for x in t.writes if x.name == "saved"}
        used = {x: n for n, t in enumerate(tasks) for x in t.reads if x.name == "saved"}
        long = {x.at for x, n in made.items() if used[x] - n > 3 and x.at[1] in layers}
        assert leaving(instrs) == long


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved", "dualpipe"])
def test_no_pile_waits_to_leave(schedule):
    """However slow the host, a rank has three stages' activations on the device at a time."""
    layout = {"pp": 4, "schedule": schedule, "microbatches": 16, "global_batch": 16}
    plan = Plan.of(**TINY, **layout, offload=True)
    most = 3 * max(piece_bytes(plan, piece.units) for piece in pieces(plan))
    assert max(predicted_peak(plan, program_of(plan))["activations"]) <= most
